"""Reference: kaldifst reads what is written here, and writes what is read here. Contract: damaged files are refused."""

from pathlib import Path

import kaldifst
import numpy as np
import pytest

from tests.search.graph.paths import token_paths
from tests.search.graph.random_graphs import NUM_TOKENS, assert_same, counted, random_graph
from zipasr.errors import DataError
from zipasr.search.graph import NO_TOKEN, TokenGraph, add_ctc_topology
from zipasr.search.graph.openfst import Fst, from_bytes, from_graph, read_graph, to_bytes, write_graph
from zipasr.search.graph.token_graph import empty_cycle

SYMBOLS = ("", "a", "b")


def read(path: Path, symbols: tuple[str, ...] | None = SYMBOLS) -> TokenGraph:
    return read_graph(path, num_tokens=NUM_TOKENS, blank_id=0, symbols=symbols)


def arcs_of(fst: kaldifst.StdVectorFst) -> list[tuple[int, int, int, float, int]]:
    """All arcs of kaldifst's object, with the state that each leaves."""
    return [
        (state, arc.ilabel, arc.olabel, float(arc.weight.value), arc.nextstate)
        for state in kaldifst.StateIterator(fst)
        for arc in kaldifst.ArcIterator(fst, state)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("has_topology", [False, True])
def test_a_graph_is_read_as_it_was_written(tmp_path: Path, seed: int, has_topology: bool) -> None:
    graph = random_graph(seed)
    graph = add_ctc_topology(graph, 0) if has_topology else graph
    write_graph(graph, tmp_path / "a.fst")
    assert_same(read(tmp_path / "a.fst"), graph)


@pytest.mark.parametrize("seed", range(5))
def test_kaldifst_reads_what_is_written(tmp_path: Path, seed: int) -> None:
    graph = random_graph(seed)
    write_graph(graph, tmp_path / "a.fst")
    fst = kaldifst.StdVectorFst.read(str(tmp_path / "a.fst"))
    sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
    columns = (sources, graph.tokens + 1, graph.output_symbols, -graph.scores, graph.targets)
    assert arcs_of(fst) == list(zip(*(column.tolist() for column in columns), strict=True))
    assert fst.start == graph.start
    finals = [float(fst.final(state).value) for state in range(graph.num_states)]
    assert finals == (-graph.final_scores).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["vector", "const"])
def test_what_kaldifst_writes_is_read(tmp_path: Path, seed: int, kind: str) -> None:
    graph = random_graph(seed)
    write_graph(graph, tmp_path / "a.fst")
    fst = kaldifst.StdVectorFst.read(str(tmp_path / "a.fst"))
    (kaldifst.StdConstFst(fst) if kind == "const" else fst).write(str(tmp_path / "b.fst"))
    assert_same(read(tmp_path / "b.fst"), graph)


@pytest.mark.parametrize("keeps", [True, False])
def test_symbols_in_the_file_are_those_of_the_graph(tmp_path: Path, keeps: bool) -> None:
    table = kaldifst.SymbolTable()
    for i, symbol in enumerate(["<eps>", "grün", "b"]):
        table.add_symbol(symbol, i)
    fst = kaldifst.compile("0 1 1 grün 0.5\n1 2 3 b\n2", osymbols=table, keep_osymbols=keeps)
    fst.write(str(tmp_path / "a.fst"))
    graph = read(tmp_path / "a.fst", None)
    assert graph.symbols == ("", "grün", "b") if keeps else graph.symbols == ("", "1", "2")
    assert (graph.tokens.tolist(), graph.scores.tolist(), graph.has_ctc_topology) == ([0, 2], [-0.5, 0.0], True)


def test_symbols_that_no_arc_puts_out_cost_nothing(tmp_path: Path) -> None:
    table = kaldifst.SymbolTable()
    for symbol, i in (("<eps>", 0), ("b", 2), ("far", 2**40)):
        table.add_symbol(symbol, i)
    fst = kaldifst.compile("0 1 1 b 0.5\n1", osymbols=table, keep_osymbols=True)
    fst.write(str(tmp_path / "a.fst"))
    assert read(tmp_path / "a.fst", None).symbols == ("", "1", "b")


def test_arcs_that_are_never_taken_are_dropped(tmp_path: Path) -> None:
    graph = random_graph(1)
    costs = -graph.scores
    costs[[0, 3, graph.num_arcs - 1]] = np.inf
    fst = from_graph(graph)._replace(costs=costs)
    (tmp_path / "a.fst").write_bytes(to_bytes(fst))
    expected = [(said, score) for said, score in token_paths_without(graph, costs)]
    assert counted(list(token_paths(read(tmp_path / "a.fst"), 3))) == counted(expected)


def token_paths_without(graph: TokenGraph, costs: np.ndarray) -> list:
    """The paths of a graph that have a finite score with these costs."""
    changed = TokenGraph(**{name: getattr(graph, name) for name in graph.__dataclass_fields__} | {"scores": -costs})
    return [(said, score) for said, score in token_paths(changed, 3) if score > -np.inf]


def one_arc(**changes: object) -> Fst:
    """A graph of one arc, as the arrays of a file."""
    arrays = {
        "start": 0,
        "first_arc": np.array([0, 1, 1]),
        "inputs": np.array([1], np.int32),
        "outputs": np.array([1], np.int32),
        "costs": np.array([0.5], np.float32),
        "targets": np.array([1], np.int32),
        "final_costs": np.array([np.inf, 0.0], np.float32),
    }
    return Fst(**(arrays | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": -1}, "must have a start and a final state, but has none"),
        ({"final_costs": np.full(2, np.inf, np.float32)}, "must have a start and a final state, but has none"),
        ({"start": 2}, "its start is state 2 of 2"),
        ({"inputs": np.array([NUM_TOKENS + 1], np.int32)}, "must have input labels from 0 to 4, .* but has 5 to 5"),
        ({"inputs": np.array([-1], np.int32)}, "but has -1 to -1"),
        ({"outputs": np.array([3], np.int32)}, "must have output labels from 0 to 2, .* but has 3 to 3"),
        ({"targets": np.array([2], np.int32)}, "an arc enters state 2 of 2"),
        ({"costs": np.array([np.nan], np.float32)}, "a cost is no number"),
        ({"final_costs": np.array([np.inf, -np.inf], np.float32)}, "a cost is no number"),
        (
            {"inputs": np.array([0], np.int32), "targets": np.array([0], np.int32)},
            "must have a token in every loop, but state 0 is in one",
        ),
    ],
)
def test_files_with_impossible_values_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "a.fst").write_bytes(to_bytes(one_arc(**changes)))
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path / "a.fst")
    assert str(tmp_path / "a.fst") in str(raised.value)


@pytest.mark.parametrize("kind", ["vector", "const"])
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    write_graph(random_graph(0), tmp_path / "a.fst")
    fst = kaldifst.StdVectorFst.read(str(tmp_path / "a.fst"))
    (kaldifst.StdConstFst(fst) if kind == "const" else fst).write(str(tmp_path / "b.fst"))
    content = (tmp_path / "b.fst").read_bytes()
    for size in range(len(content)):
        with pytest.raises(DataError, match="damaged or something else"):
            from_bytes(content[:size], "b.fst")


@pytest.mark.parametrize("kind", ["vector", "const"])
def test_a_file_with_any_changed_byte_is_a_graph_or_refused(tmp_path: Path, kind: str) -> None:
    write_graph(random_graph(0), tmp_path / "a.fst")
    fst = kaldifst.StdVectorFst.read(str(tmp_path / "a.fst"))
    (kaldifst.StdConstFst(fst) if kind == "const" else fst).write(str(tmp_path / "b.fst"))
    content = (tmp_path / "b.fst").read_bytes()
    num_refused = 0
    for place in range(len(content)):
        (tmp_path / "c.fst").write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            read(tmp_path / "c.fst")
        except DataError:
            num_refused += 1
    assert num_refused > len(content) / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes, too few"),
        (b"text, and no graph", "it does not start as one"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.fst").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.fst")


def test_a_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.fst must be a graph, but cannot be read: No such file"):
        read(tmp_path / "a.fst")
    with pytest.raises(DataError, match="must be writable, but is not: No such file"):
        write_graph(random_graph(0), tmp_path / "missing" / "a.fst")


def test_loops_without_tokens_are_found() -> None:
    for seed in range(20):
        graph = random_graph(seed)
        assert empty_cycle(graph) is None
        tokens = graph.tokens.copy()
        sources = np.repeat(np.arange(graph.num_states), np.diff(graph.first_arc))
        loops = np.flatnonzero(sources >= graph.targets)
        tokens[loops] = NO_TOKEN
        changed = TokenGraph(**{name: getattr(graph, name) for name in graph.__dataclass_fields__} | {"tokens": tokens})
        links = {(int(a), int(b)) for a, b, t in zip(sources, graph.targets, tokens, strict=True) if t == NO_TOKEN}
        reached = links
        for _ in range(graph.num_states):
            reached = reached | {(a, d) for a, b in reached for c, d in links if b == c}
        on_loops = {a for a, b in reached if a == b}
        assert empty_cycle(changed) in on_loops if on_loops else empty_cycle(changed) is None
