"""Grammars, n-gram models and graphs of other programs -> the folder of a graph, for one model."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zipasr.errors import ConfigError
from zipasr.grammar import read_grammar, require_spelling
from zipasr.recognizer.opening import open_tokenizer
from zipasr.search.graph import Lexicon, TokenGraph, compile_ngram, compile_words, read_lexicon, save_graph
from zipasr.search.graph.folder import read_symbols
from zipasr.search.graph.openfst import read_graph
from zipasr.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class GraphSource:
    """What a graph is made of: one of `grammar`, `arpa` and `fst`."""

    grammar: str | None = None
    """JSGF, or a list of phrases."""
    tables: tuple[str, ...] = ()
    """Further JSGF files, whose rules the grammar may name."""
    arpa: str | None = None
    """An n-gram model of words or tokens."""
    scale: float | None = None
    """Weight of its scores; None: 1."""
    fst: str | None = None
    """An OpenFst file: H, HL or HLG of another program, for this vocabulary."""
    words: str | None = None
    """Table of its output labels; None: that in the file. Without any, what is said follows from the tokens."""
    lexicon: str | None = None
    """Spellings of words in tokens; None: those of the tokenizer."""

    def __post_init__(self) -> None:
        kinds = {"grammar": self.grammar, "arpa": self.arpa, "fst": self.fst}
        given = [name for name, path in kinds.items() if path is not None]
        if len(given) != 1:
            raise ConfigError(
                f"a graph must be made of a grammar, --arpa or --fst, but of {' and '.join(given) or 'nothing'}; give one"
            )
        allowed = {"grammar": ("tables", "lexicon"), "arpa": ("scale", "lexicon"), "fst": ("words",)}[given[0]]
        owners = {"tables": "a grammar", "scale": "--arpa", "words": "--fst", "lexicon": "a grammar or --arpa"}
        for name, owner in owners.items():
            if getattr(self, name) not in (None, ()) and name not in allowed:
                flag = "table" if name == "tables" else name
                raise ConfigError(f"--{flag} has no effect without {owner}; leave it out, or give {owner}")

    def described(self) -> dict[str, Any]:
        """What `graph.json` says about it: the names of the files, and the scale."""
        files = {name: getattr(self, name) for name in ("grammar", "arpa", "fst", "words", "lexicon")}
        described: dict[str, Any] = {name: Path(path).name for name, path in files.items() if path is not None}
        if self.tables:
            described["tables"] = [Path(path).name for path in self.tables]
        return described if self.scale is None else {**described, "scale": self.scale}


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """What was written."""

    folder: str
    num_states: int
    num_arcs: int
    num_outputs: int
    """Words and tags that it can put out."""
    slots: tuple[str, ...]
    """Names of the slots of the grammar."""
    hlg_arcs: int | None
    """Arcs of HLG.fst, if it was written."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "graph": self.folder,
            "states": self.num_states,
            "arcs": self.num_arcs,
            "outputs": self.num_outputs,
            "slots": list(self.slots),
            **({} if self.hlg_arcs is None else {"hlg_arcs": self.hlg_arcs}),
        }

    def __str__(self) -> str:
        slots = f"; slots: {', '.join(self.slots)}" if self.slots else ""
        hlg = f"; HLG.fst has {self.hlg_arcs} arcs" if self.hlg_arcs is not None else ""
        return f"{self.folder}: {self.num_states} states, {self.num_arcs} arcs, {self.num_outputs} outputs{slots}{hlg}"


def compile_graph(
    model: str | os.PathLike[str],
    source: GraphSource,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    rejection: float | None = None,
    has_hlg: bool = False,
) -> GraphReport:
    """Compile a graph for a model and write its folder.

    Args:
        model: folder of the model, of a run or of exported graphs, or a reference to the hub; only its tokenizer is read.
        source: what the graph is made of.
        out: folder to write; files of an earlier graph there are replaced.
        name: name of the graph, for servers; None: that of the folder.
        rejection: the setting "rejection", a threshold: nothing is answered where free decoding is better than the graph by
            more; None: never.
        has_hlg: whether to write HLG.fst too, the graph with blanks and repeats of CTC, as sherpa-onnx reads it.
    Raises:
        CheckpointError: there is no such model.
        DataError: a file cannot be read or is damaged, or the folder cannot be written.
        ConfigError: the grammar is none, the model cannot write its words, or kaldifst is not installed.
    """
    tokenizer = open_tokenizer(model)
    graph, slots = _compile(source, tokenizer)
    settings = {} if rejection is None else {"rejection": rejection}
    hlg = save_graph(out, graph, tokenizer, name=name, made_of=source.described(), settings=settings, has_hlg=has_hlg)
    return GraphReport(
        folder=os.fspath(out),
        num_states=graph.num_states,
        num_arcs=graph.num_arcs,
        num_outputs=len(graph.symbols) - 1,
        slots=slots,
        hlg_arcs=None if hlg is None else hlg.num_arcs,
    )


def _compile(source: GraphSource, tokenizer: Tokenizer) -> tuple[TokenGraph, tuple[str, ...]]:
    """The graph, and the slots that it fills."""
    if source.fst is not None:
        symbols = None if source.words is None else read_symbols(source.words)
        graph = read_graph(source.fst, num_tokens=tokenizer.vocab_size, blank_id=tokenizer.blank_id, symbols=symbols)
        if symbols is None and graph.symbols[1:] == tuple(str(i) for i in range(1, len(graph.symbols))):
            graph = replace(graph, output_symbols=np.zeros_like(graph.output_symbols), symbols=("",))  # numbers are no words
        return graph, ()
    lexicon = Lexicon(tokenizer) if source.lexicon is None else read_lexicon(source.lexicon, tokenizer)
    if source.arpa is not None:
        scale = 1.0 if source.scale is None else source.scale
        lexicon_of_words = None if source.lexicon is None else lexicon
        return compile_ngram(source.arpa, tokenizer, lexicon=lexicon_of_words, scale=scale), ()
    assert source.grammar is not None
    grammar = read_grammar(source.grammar, tables=source.tables)
    require_spelling(grammar, tokenizer, lexicon=lexicon.given_words)
    return compile_words(grammar.graph, tokenizer, lexicon=lexicon), grammar.slots
