"""Reference: sherpa-onnx decodes with HLG.fst and words.txt to the words and tokens of the best path, found here by a slow
search without pruning.

It reports only outputs of arcs with a token, so words, but not all tags (sherpa-onnx 2.0.1, offline-ctc-fst-decoder.cc)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import sherpa_onnx

from tests.export.sherpa import constant_ctc_graph
from tests.lm.random_sentences import zipf_sentences
from tests.search.graph.vocabularies import VOCABULARIES
from tests.tiny_model import noise
from zipasr.lm.estimate import estimate_ngram
from zipasr.search.graph import NO_SYMBOL, NO_TOKEN, TokenGraph, WordArc, WordGraph, compile_ngram, compile_words, save_graph
from zipasr.search.graph.folder import HLG_FILE, WORDS_FILE, read_symbols
from zipasr.tokenizer import Tokenizer

BPE = VOCABULARIES["bpe"].tokenizer
NUM_FRAMES = 25
ORDER = (
    WordArc(0, 1, "TURN"),
    WordArc(1, 2, "ON", "{on}"),
    WordArc(1, 2, "OFF", "{off}", -0.5),
    WordArc(2, 3, "THE", None, -1.0),
    WordArc(2, 3),
    WordArc(3, 4, "LIGHT"),
    WordArc(3, 4, "LIGHTS", None, -0.3),
    WordArc(4, 0, "AND"),
)


class Best(NamedTuple):
    """A path through the frames so far."""

    score: float
    labels: tuple[int, ...]
    outputs: tuple[int, ...]


def best_path(graph: TokenGraph, log_probs_TV: np.ndarray) -> Best:
    """The best path of a graph with the topology of CTC: of every state the best one after each frame."""

    def advance(best: dict[int, Best], scores_V: np.ndarray | None) -> dict[int, Best]:
        found: dict[int, Best] = {} if scores_V is not None else dict(best)
        todo = list(best.items())
        while todo:
            state, path = todo.pop()
            for i in range(graph.first_arc[state], graph.first_arc[state + 1]):
                token, output, target = int(graph.tokens[i]), int(graph.output_symbols[i]), int(graph.targets[i])
                if (token == NO_TOKEN) != (scores_V is None):
                    continue
                score = path.score + float(graph.scores[i]) + (0.0 if scores_V is None else float(scores_V[token]))
                labels = path.labels if token == NO_TOKEN else (*path.labels, token)
                new = Best(score, labels, path.outputs if output == NO_SYMBOL else (*path.outputs, output))
                if target not in found or found[target].score < score:
                    found[target] = new
                    if scores_V is None:
                        todo.append((target, new))
        return found

    best = advance({graph.start: Best(0.0, (), ())}, None)
    for scores_V in log_probs_TV:
        best = advance(advance(best, scores_V), None)
    ends = [path._replace(score=path.score + float(graph.final_scores[state])) for state, path in best.items()]
    return max(ends, key=lambda path: path.score)


def random_log_probs(seed: int, tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Scores in which a text is likely, among others."""
    generator = np.random.default_rng(seed)
    logits_TV = 2 * generator.standard_normal((NUM_FRAMES, tokenizer.vocab_size))
    frames = np.sort(generator.choice(NUM_FRAMES, len(tokenizer.encode(text)), replace=False))
    logits_TV[:, tokenizer.blank_id] += 2
    logits_TV[frames, tokenizer.encode(text)] += 4
    return (logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))).astype(np.float32)


def words_of(outputs: list[str]) -> list[str]:
    return [output for output in outputs if not output.startswith("{")]


def assert_sherpa_agrees(folder: Path, graph: TokenGraph, tokenizer: Tokenizer, texts: list[str]) -> None:
    hlg = save_graph(folder, graph, tokenizer, has_hlg=True)
    assert hlg is not None
    symbols = read_symbols(folder / WORDS_FILE)
    tokenizer.save(folder)
    said = set()
    for seed, text in enumerate(texts):
        log_probs_TV = random_log_probs(seed, tokenizer, text)
        expected = best_path(hlg, log_probs_TV)
        (folder / "model.onnx").write_bytes(constant_ctc_graph(log_probs_TV))
        recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
            model=str(folder / "model.onnx"),
            tokens=str(folder / "tokens.txt"),
            ctc_graph=str(folder / HLG_FILE),
            decoding_method="greedy_search",
        )
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, noise(1.0))
        recognizer.decode_stream(stream)
        result = stream.result
        assert words_of([symbols[i] for i in result.words]) == words_of([graph.symbols[i] for i in expected.outputs])
        pairs = zip(expected.labels, (-1, *expected.labels), strict=False)
        ids = [label for label, before in pairs if label not in (before, tokenizer.blank_id)]
        assert result.tokens == [tokenizer.pieces[i].replace("▁", " ") for i in ids]
        said.add(expected.outputs)
    assert len(said) > 1


def test_sherpa_finds_the_words_of_a_grammar(tmp_path: Path) -> None:
    graph = compile_words(WordGraph(ORDER, {4: -0.1}), BPE)
    texts = ["TURN ON THE LIGHT", "TURN OFF LIGHTS", "ON AND ON", "TURN ON LIGHT", "TURN OFF THE LIGHTS", "OFF"]
    assert_sherpa_agrees(tmp_path, graph, BPE, texts)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sherpa_finds_the_words_of_an_ngram_model(tmp_path: Path, order: int) -> None:
    tokenizer = Tokenizer.train(["w0 w1 w2 w3"], kind="char", vocab_size=None)
    estimate_ngram(zipf_sentences(0, num=60, num_words=4), tmp_path / "a.arpa", order=order)
    graph = compile_ngram(tmp_path / "a.arpa", tokenizer)
    assert_sherpa_agrees(tmp_path / "graph", graph, tokenizer, ["w0 w1", "w3 w3", "w2", "w1 w0 w3", "w0 w0"])
