"""`TokenGraph` <-> files of OpenFst, as Kaldi, icefall and sherpa-onnx read and write them.

Input labels are token id + 1, so that 0 is an arc without a token; output labels are indices of symbols; costs are negative
log-probabilities in nats. Files of type "vector" and "const" with standard arcs are read, "vector" is written. They are
parsed here, since OpenFst may end the process on a damaged file.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import DataError
from zipasr.lfs import refuse_pointer
from zipasr.lines import read_whole, replacing
from zipasr.search.graph.token_graph import NO_SYMBOL, NO_TOKEN, TokenGraph, empty_cycle

_MAGIC, _TABLE_MAGIC = 2125659606, 2125658996
_HAS_INPUT_TABLE, _HAS_OUTPUT_TABLE, _IS_ALIGNED = 1, 2, 4
_ALIGNMENT = 16
"""Bytes, of the arrays of a "const" file that says so."""
_VECTOR_VERSION = 2
_KNOWN_PROPERTIES = 3
"""The property bits "expanded" and "mutable"; OpenFst computes others when it needs them."""
_ARC = np.dtype([("input", "<i4"), ("output", "<i4"), ("cost", "<f4"), ("target", "<i4")])
_CONST_STATE = np.dtype([("cost", "<f4"), ("first", "<u4"), ("num", "<u4"), ("inputs", "<u4"), ("outputs", "<u4")])
_NO_START = -1


class Fst(NamedTuple):
    """The arrays of a file; A arcs, G states."""

    start: int
    """The start state; -1: none, the graph is empty."""
    first_arc: NDArray[np.int64]
    """(G + 1,) arcs of state g are those from `first_arc[g]` to before `first_arc[g + 1]`."""
    inputs: NDArray[np.int32]
    """(A,) input labels."""
    outputs: NDArray[np.int32]
    """(A,) output labels."""
    costs: NDArray[np.float32]
    """(A,) costs; inf: the arc is never taken."""
    targets: NDArray[np.int32]
    """(A,) states that arcs enter."""
    final_costs: NDArray[np.float32]
    """(G,) costs of ending; inf: not a final state."""
    output_table: dict[int, str] | None = None
    """The symbols of output labels, if the file has a table of them."""


def to_bytes(fst: Fst) -> bytes:
    """Return the content of a file of type "vector"."""
    num_states, num_arcs = len(fst.first_arc) - 1, len(fst.inputs)
    kinds = _MAGIC, 6, b"vector", 8, b"standard", _VECTOR_VERSION, 0  # texts after their lengths; 0: no tables
    header = struct.pack("<ii6si8sii4q", *kinds, _KNOWN_PROPERTIES, fst.start, num_states, num_arcs)
    # In words of four bytes: of each state the final cost, the number of arcs in two words, and four words for each arc.
    words = np.zeros(3 * num_states + 4 * num_arcs, "<u4")
    states = np.arange(num_states)
    places = 3 * states + 4 * fst.first_arc[:-1]
    counts = np.diff(fst.first_arc)
    words[places] = fst.final_costs.astype("<f4").view("<u4")
    words[places + 1], words[places + 2] = counts & 0xFFFFFFFF, counts >> 32
    places = 3 * (1 + np.repeat(states, counts)) + 4 * np.arange(num_arcs)
    for i, column in enumerate((fst.inputs, fst.outputs, fst.costs, fst.targets)):
        words[places + i] = column.astype("<f4" if i == 2 else "<i4").view("<u4")
    return header + words.tobytes()


def from_bytes(content: bytes, shown: str | os.PathLike[str]) -> Fst:
    """Parse the content of a file; `shown` is its name in messages.

    Raises:
        DataError: it is damaged, or no OpenFst file of standard arcs.
    """
    try:
        return _parse(_Reader(content))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise DataError(
            f"{os.fspath(shown)} must be an OpenFst file (vector or const, standard arcs), but is damaged or something "
            f"else: {error}; copy it again or write it anew"
        ) from error


def write_graph(graph: TokenGraph, path: str | os.PathLike[str]) -> None:
    """Write a graph as an OpenFst file, complete or not at all; its symbols are not in it.

    Raises:
        DataError: the file cannot be written.
    """
    target = Path(path)
    try:
        with replacing(target, follows_links=False) as temporary:
            temporary.write_bytes(to_bytes(from_graph(graph)))
    except OSError as error:
        raise DataError(
            f"{target} must be writable, but is not: {error.strerror}; check permissions and free space"
        ) from error


def read_graph(
    path: str | os.PathLike[str], *, num_tokens: int, blank_id: int, symbols: tuple[str, ...] | None = None
) -> TokenGraph:
    """Read a graph: H, HL, HLG of the field, whose arcs have blanks, or a graph over tokens.

    Args:
        path: the file; its input labels are token id + 1.
        num_tokens: size of the vocabulary V.
        blank_id: the blank; a graph with an arc of it has the topology of CTC.
        symbols: of the output labels; None: those in the file, or else the numbers.
    Raises:
        DataError: the file is missing, damaged, has labels of another vocabulary, a loop of arcs without tokens, or no path.
    """
    try:
        content = read_whole(path, most_bytes=1 << 36)
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)} must be a graph, but cannot be read: {error.strerror}; check the path"
        ) from error
    refuse_pointer(content, path, DataError)
    fst = from_bytes(content, path)
    if symbols is None:
        symbols = _own_symbols(fst)
    graph = to_graph(fst, symbols=symbols, num_tokens=num_tokens, blank_id=blank_id, shown=path)
    if (state := empty_cycle(graph)) is not None:
        raise DataError(
            f"{os.fspath(path)} must have a token in every loop, but state {state} is in one of arcs without tokens; remove "
            "them (fstrmepsilon) and write it anew"
        )
    return graph


def from_graph(graph: TokenGraph) -> Fst:
    """Return the arrays of a file for a graph."""
    inputs = np.where(graph.tokens == NO_TOKEN, 0, graph.tokens + 1).astype(np.int32)
    return Fst(graph.start, graph.first_arc, inputs, graph.output_symbols, -graph.scores, graph.targets, -graph.final_scores)


def to_graph(
    fst: Fst, *, symbols: tuple[str, ...], num_tokens: int, blank_id: int, shown: str | os.PathLike[str]
) -> TokenGraph:
    """Return the graph of a file's arrays, without arcs that are never taken; `shown` is its name in messages.

    Raises:
        DataError: it is empty, or its labels are of another vocabulary or table.
    """
    name = os.fspath(shown)
    if fst.start == _NO_START or not (fst.final_costs < np.inf).any():
        raise DataError(f"{name} must have a start and a final state, but has none: it allows nothing; write it anew")
    if fst.inputs.size and not (0 <= fst.inputs.min() and fst.inputs.max() <= num_tokens):
        raise DataError(
            f"{name} must have input labels from 0 to {num_tokens}, the tokens of the model + 1, but has "
            f"{fst.inputs.min()} to {fst.inputs.max()}; compile it for this model"
        )
    if fst.outputs.size and not (0 <= fst.outputs.min() and fst.outputs.max() < len(symbols)):
        raise DataError(
            f"{name} must have output labels from 0 to {len(symbols) - 1}, as words.txt has them, but has "
            f"{fst.outputs.min()} to {fst.outputs.max()}; take the words.txt that it was made with"
        )
    is_taken = fst.costs < np.inf
    num_taken = np.concatenate([[0], np.cumsum(is_taken)])
    tokens = fst.inputs[is_taken] - 1
    return TokenGraph(
        first_arc=num_taken[fst.first_arc],
        tokens=tokens,
        output_symbols=fst.outputs[is_taken],
        scores=-fst.costs[is_taken],
        targets=fst.targets[is_taken],
        final_scores=-fst.final_costs,
        start=fst.start,
        symbols=symbols,
        has_ctc_topology=bool((tokens == blank_id).any()),
    )


def _own_symbols(fst: Fst) -> tuple[str, ...]:
    """The symbols of the output labels up to the highest of an arc: those of the file's table, numbers elsewhere."""
    table = fst.output_table or {}
    highest = int(fst.outputs.max()) if fst.outputs.size else 0
    return ("", *(table.get(i, str(i)) for i in range(NO_SYMBOL + 1, highest + 1)))


class _Reader:
    """Reads numbers, texts and arrays, and never past the end."""

    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._content) - self.place:
            raise ValueError(f"it has {len(self._content)} bytes, too few")
        self.place += size
        return self._content[self.place - size : self.place]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def text(self) -> str:
        return self.take(self.number(4)).decode()

    def array(self, dtype: "np.dtype[np.void]", count: int) -> NDArray[np.void]:
        return np.frombuffer(self.take(dtype.itemsize * count), dtype)

    def align(self) -> None:
        self.take(-self.place % _ALIGNMENT)

    def rest(self) -> bytes:
        return self.take(len(self._content) - self.place)


def _parse(reader: _Reader) -> Fst:
    if reader.number(4) != _MAGIC:
        raise ValueError("it does not start as one")
    kind, arcs, version, flags = reader.text(), reader.text(), reader.number(4), reader.number(4)
    if kind not in ("vector", "const") or arcs != "standard":
        raise ValueError(f"its type is {kind!r} with {arcs!r} arcs")
    reader.number(8)  # properties
    start, num_states, num_arcs = reader.number(8), reader.number(8), reader.number(8)
    if flags & _HAS_INPUT_TABLE:
        _read_table(reader)
    table = _read_table(reader) if flags & _HAS_OUTPUT_TABLE else None
    if kind == "vector":
        first_arc, final_costs, arcs_A = _vector_arrays(reader, num_states)
    else:
        is_aligned = version == 1 or bool(flags & _IS_ALIGNED)
        first_arc, final_costs, arcs_A = _const_arrays(reader, num_states, num_arcs, is_aligned=is_aligned)
    num_states = len(final_costs)
    if not _NO_START <= start < num_states:
        raise ValueError(f"its start is state {start} of {num_states}")
    columns = [np.ascontiguousarray(arcs_A[name]) for name in ("input", "output", "cost", "target")]
    inputs, outputs, costs, targets = columns
    if targets.size and not (0 <= targets.min() and targets.max() < num_states):
        raise ValueError(f"an arc enters state {targets.max()} of {num_states}")
    if np.isnan(costs).any() or np.isnan(final_costs).any() or (costs == -np.inf).any() or (final_costs == -np.inf).any():
        raise ValueError("a cost is no number")
    return Fst(start, first_arc, inputs, outputs, costs, targets, final_costs, table)


def _read_table(reader: _Reader) -> dict[int, str]:
    """A table of symbols: its name, the next free label and the number of entries, then symbols and labels."""
    if reader.number(4) != _TABLE_MAGIC:
        raise ValueError("its table of symbols is none")
    reader.text()
    reader.number(8)
    table = {}
    for _ in range(reader.number(8)):
        symbol = reader.text()
        table[reader.number(8)] = symbol
    return table


def _vector_arrays(reader: _Reader, num_states: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.void]]:
    """First arcs, final costs and arcs of a "vector" file; a negative number of states: up to the end of the file."""
    content = reader.rest()
    if len(content) % 4:
        raise ValueError(f"its states have {len(content)} bytes, no multiple of 4")
    words = np.frombuffer(content, "<u4")
    values = memoryview(content).cast("I")
    places: list[int] = []
    place, total = 0, len(values)
    while place < total if num_states < 0 else len(places) < num_states:
        places.append(place)
        place += 3 + 4 * (values[place + 1] + (values[place + 2] << 32))
    if place != total:
        raise ValueError(f"its {len(places)} states have {4 * place} bytes, but there are {len(content)}")
    starts = np.array(places, np.int64)
    counts = np.diff(np.append(starts, place)) // 4  # of 3 words more, which are no arc
    first_arc = np.concatenate([[0], np.cumsum(counts)])
    arc_places = 3 * (1 + np.repeat(np.arange(len(starts)), counts)) + 4 * np.arange(first_arc[-1])
    columns = words[arc_places[:, None] + np.arange(4)] if len(arc_places) else np.zeros((0, 4), "<u4")
    return first_arc, words[starts].view("<f4"), np.ascontiguousarray(columns).view(_ARC).reshape(-1)


def _const_arrays(
    reader: _Reader, num_states: int, num_arcs: int, *, is_aligned: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.void]]:
    """First arcs, final costs and arcs of a "const" file."""
    if is_aligned:
        reader.align()
    states = reader.array(_CONST_STATE, num_states)
    if is_aligned:
        reader.align()
    arcs_A = reader.array(_ARC, num_arcs)
    first_arc = np.concatenate([[0], np.cumsum(states["num"], dtype=np.int64)])
    if first_arc[-1] != num_arcs or (states["first"] != first_arc[:-1])[states["num"] > 0].any():
        raise ValueError(f"the arcs of its states are not those of its {num_arcs} arcs in order")
    return first_arc, np.ascontiguousarray(states["cost"]), arcs_A
