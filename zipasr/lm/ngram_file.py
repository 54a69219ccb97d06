"""`ngram.safetensors`: the n-gram model of the texts that a recognizer was trained on, in its folder.

Texts in, the arrays of an `NgramGraph` in a file out, and from the file a prior of label sequences. Reading it runs no code
and needs no package for ARPA files; arrays that do not fit together are refused.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from zipasr.checkpoint import write_text
from zipasr.errors import CheckpointError
from zipasr.lines import parse_json
from zipasr.lm.arpa import NgramGraph
from zipasr.lm.estimate import UNKNOWN, estimate_graph
from zipasr.lm.ngram import NgramModel, TokenNgram, check_pieces
from zipasr.tokenizer import Tokenizer

NGRAM_FILE = "ngram.safetensors"
"""Name of the file in a model folder."""
_ARRAYS = {
    "arc_keys": np.int64,
    "arc_targets": np.int32,
    "arc_scores": np.float32,
    "backoff_targets": np.int32,
    "backoff_scores": np.float32,
    "final_scores": np.float32,
}


def is_ngram_file(path: Path) -> bool:
    """Whether a file is an n-gram model of tokens as zipasr writes it, not an ARPA file, by its name."""
    return path.suffix == Path(NGRAM_FILE).suffix


def ngram_of_texts(texts: Iterable[str], tokenizer: Tokenizer, *, order: int) -> NgramGraph:
    """The n-gram model of the tokens of texts; see `estimate_graph`. Tokens with white space count as unknown.

    Raises:
        ConfigError: the order is out of range, or the tokenizer cannot encode.
        DataError: there are no tokens.
    """
    tokenizer.require_encoding("the text of a language model")
    symbols = [piece if piece.split() == [piece] else UNKNOWN for piece in tokenizer.pieces]
    return estimate_graph(([symbols[i] for i in tokenizer.encode(text)] for text in texts), order=order)[0]


def ngram_to_bytes(graph: NgramGraph) -> bytes:
    """The content of the file."""
    arrays = {name: np.ascontiguousarray(getattr(graph, name)) for name in _ARRAYS}
    metadata = {"symbols": json.dumps(graph.symbols), "start": str(graph.start), "bottom": str(graph.bottom)}
    return safetensors.numpy.save(arrays, metadata=metadata)


def write_ngram(graph: NgramGraph, path: Path) -> None:
    """Write the file, atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}; choose another place") from error
    write_text(path, ngram_to_bytes(graph))


def read_ngram(path: str | os.PathLike[str], tokenizer: Tokenizer) -> TokenNgram:
    """The n-gram model of a file as a prior of the labels of a recognizer.

    Args:
        path: the file.
        tokenizer: that of the recognizer; the file need not have all of its pieces.
    Raises:
        CheckpointError: the file is missing or damaged.
        ConfigError: its symbols are not this tokenizer's pieces.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        graph = NgramGraph(parse_json(metadata["symbols"]), int(metadata["start"]), int(metadata["bottom"]), **arrays)
        _check(graph, arrays)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} must hold the n-gram model of a recognizer, but cannot be read: {error}; copy the model's folder again"
        ) from error
    model = NgramModel(graph)
    check_pieces(model.known_symbols, tokenizer, path)
    return TokenNgram(model, tokenizer)


def _check(graph: NgramGraph, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Raise ValueError for arrays whose lookups would fail, or never end."""
    num_symbols, num_states, num_arcs = len(graph.symbols), len(graph.backoff_targets), len(graph.arc_keys)
    if any(array.dtype != _ARRAYS[name] or array.ndim != 1 for name, array in arrays.items()):
        raise ValueError("an array has another type or shape")
    if {len(graph.arc_targets), len(graph.arc_scores)} != {num_arcs} or not num_arcs:
        raise ValueError("the arrays of arcs have different lengths")
    if {len(graph.backoff_scores), len(graph.final_scores)} != {num_states} or graph.bottom != 0:
        raise ValueError("the arrays of states have different lengths")
    if not all(isinstance(symbol, str) for symbol in graph.symbols) or len(set(graph.symbols)) != num_symbols:
        raise ValueError("the symbols are not different strings")
    if not 0 <= graph.start < num_states or not 0 <= graph.arc_targets.min() <= graph.arc_targets.max() < num_states:
        raise ValueError("a state does not exist")
    if not (
        graph.arc_keys[0] >= 0 and graph.arc_keys[-1] < num_symbols * num_states and (np.diff(graph.arc_keys) > 0).all()
    ):
        raise ValueError("the arcs are not in order")
    if graph.backoff_targets[0] != 0 or not (graph.backoff_targets[1:] < np.arange(1, num_states)).all():
        raise ValueError("a history does not back off to a shorter one")
    if graph.backoff_targets.min() < 0 or not np.isfinite([*graph.arc_scores, *graph.backoff_scores]).all():
        raise ValueError("a score is not finite")
    unigrams = graph.arc_keys[graph.arc_keys < num_symbols]
    if not np.isin(graph.arc_keys % num_symbols, unigrams).all():
        raise ValueError("a symbol has no unigram")
