"""Orders under a grammar against free decoding, hotwords and a word bigram: slots, and what is answered to other speech.

    python benchmarks/grammar.py exp/own_data/barista-42/model CORPORA --json benchmarks/results/grammar.json

CORPORA has the folders barista, ljspeech, commands and noise, each with JSONL manifests. An order counts as right if all of
its slots are, and no others. Free decoding, hotwords and bigram give texts; slots are read from them twice: by the grammar,
which takes whole orders only, and by looking for the phrases of slots in them. An answer to ljspeech, commands or noise is a
false acceptance. Thresholds of rejection are tuned on the clean dev sets of speech and kept for those with noise.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import origin, write
from numpy.typing import NDArray

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.grammar import Grammar, match_words, read_grammar, slots_of
from zipasr.lm import estimate_ngram
from zipasr.nn.encoded import Encoded
from zipasr.recognizer import Recognizer
from zipasr.recognizer.engine import Engine
from zipasr.search.finding import find_hypotheses
from zipasr.search.graph import TokenGraph, compile_words
from zipasr.search.graph.compile import compile_ngram
from zipasr.search.graph.ctc_search import ctc_graph_search
from zipasr.search.graph.transducer_search import transducer_graph_search
from zipasr.search.hotwords import HotwordGraph, encode_hotwords
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.strategy import SearchConfig

GRAMMAR = Path(__file__).parent.parent / "examples" / "barista.jsgf"
CORPORA = ("barista", "ljspeech", "commands", "noise")
CONDITIONS: dict[str, float | None] = {"clean": None, "10 dB": 10.0, "0 dB": 0.0}
"""Signal-to-noise ratios."""
BOOSTS = (0.5, 1.0, 1.5, 2.0, 3.0)
HEADS = {"transducer": "greedy", "CTC": "ctc_greedy"}
"""The search without a graph of each head."""
_BATCH = 32
_SILENCE = 1e-3
_MAX_NOISE_SAMPLES = 10 * SAMPLE_RATE_HZ
_NOISE_SEED = 23


class Spoken(NamedTuple):
    """An utterance of a corpus."""

    samples: NDArray[np.float32]
    slots: dict[str, str] | None
    """The slots of an order; None: it is none."""
    corpus: str


class Answer(NamedTuple):
    """What a search made of an utterance."""

    slots: dict[str, Any] | None
    """None: nothing."""
    per_token: float
    """Nats by which the audio is less probable under the graph than by free decoding, by token."""
    per_frame: float
    """The same by frame of 40 ms."""


def utterances(corpora: Path) -> list[Spoken]:
    """The dev sets."""
    found = []
    for corpus in CORPORA:
        for row in rows_of(corpora / corpus / "dev.jsonl"):
            samples = load_audio(corpora / corpus / row["audio"])
            samples = samples[:_MAX_NOISE_SAMPLES] if corpus == "noise" else samples
            found.append(Spoken(samples, row.get("slots"), corpus))
    return found


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_noise(spoken: Sequence[Spoken], noises: Sequence[NDArray[np.float32]], snr_db: float | None) -> list[Spoken]:
    """The utterances with a noise each, at a ratio of the energies of whole signals; the same noise at every ratio."""
    if snr_db is None:
        return list(spoken)
    generator, mixed = np.random.default_rng(_NOISE_SEED), []
    for one in spoken:
        if one.corpus == "noise":
            mixed.append(one)
            continue
        noise = np.resize(noises[int(generator.integers(len(noises)))], len(one.samples))
        gain = np.sqrt((one.samples**2).sum() / (noise**2).sum() / 10 ** (snr_db / 10))
        mixed.append(one._replace(samples=(one.samples + gain * noise).astype(np.float32)))
    return mixed


def sounding(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """A noise without the digital silence around it."""
    heard = np.flatnonzero(np.abs(noise) > _SILENCE)
    return noise[heard[0] : heard[-1] + 1]


def encoded_batches(engine: Engine, spoken: Sequence[Spoken]) -> Iterator[Encoded]:
    """Encoder frames of the utterances, in order."""
    for start in range(0, len(spoken), _BATCH):
        yield engine.encode([engine.fbank(one.samples) for one in spoken[start : start + _BATCH]])


def free(
    engine: Engine, batches: Sequence[Encoded], config: SearchConfig, hotwords: HotwordGraph | None = None
) -> list[Hypothesis]:
    """What a search without a graph makes of every utterance."""
    found = (
        find_hypotheses(engine.scorer, encoded, config, unk_id=engine.tokenizer.unk_id, hotwords=hotwords)
        for encoded in batches
    )
    return [best for batch in found for best, *_ in batch]


def through(graph: TokenGraph, engine: Engine, batches: Sequence[Encoded], head: str) -> list[Hypothesis]:
    """What the search through a graph makes of every utterance."""
    search: Callable[..., list[list[Hypothesis]]] = transducer_graph_search if head == "transducer" else ctc_graph_search
    return [best for encoded in batches for best, *_ in search(engine.scorer, encoded, graph)]


def answered(found: Sequence[Hypothesis], compared: Sequence[Hypothesis], lens: Sequence[int]) -> list[Answer]:
    """The answers under a grammar, given the results of free decoding and the numbers of frames."""
    answers = []
    for best, other, num_frames in zip(found, compared, lens, strict=True):
        slots = slots_of(output.symbol for output in best.outputs) if best.is_complete else None
        shortfall = np.inf if best.shortfall is None else best.shortfall
        answers.append(Answer(slots, shortfall, shortfall * max(len(best.ids), len(other.ids), 1) / num_frames))
    return answers


def phrases_of(grammar: Grammar, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The slot of each phrase that fills one in the training part, in letters of the model."""
    return {value: slot for row in rows for slot, value in row["slots"].items()}


def by_grammar(grammar: Grammar, text: str) -> dict[str, Any] | None:
    """The slots of a text that is an order from its first to its last word."""
    outputs = match_words(grammar.graph, text.split())
    return None if outputs is None else slots_of(outputs)


def by_phrases(phrases: dict[str, str], text: str) -> dict[str, Any] | None:
    """The slots of the phrases in a text, the longest first."""
    rest, slots = f" {text.lower()} ", dict[str, str]()
    for phrase in sorted(phrases, key=len, reverse=True):
        if f" {phrase} " in rest and phrases[phrase] not in slots:
            slots[phrases[phrase]] = phrase
            rest = rest.replace(f" {phrase} ", " | ", 1)
    return slots or None


def counts(spoken: Sequence[Spoken], slots: Sequence[dict[str, Any] | None]) -> dict[str, float]:
    """Percentages: orders with all slots right, orders without an answer, and other utterances with one, by corpus."""
    found: dict[str, float] = {}
    for corpus in dict.fromkeys(one.corpus for one in spoken):
        own = [(one.slots, got) for one, got in zip(spoken, slots, strict=True) if one.corpus == corpus]
        if corpus == "barista":
            found["right"] = share([expected == got for expected, got in own])
            found["nothing"] = share([got is None for _, got in own])
        else:
            found[corpus] = share([got is not None for _, got in own])
    return found


def share(flags: Sequence[bool]) -> float:
    """How many of some are true, in percent."""
    return round(100.0 * sum(flags) / len(flags), 1)


MEASURES: dict[str, Callable[[Answer], float]] = {
    "token": lambda answer: answer.per_token,
    "frame": lambda answer: answer.per_frame,
}
"""What is compared with the threshold."""


def with_rejection(answers: Sequence[Answer], measure: str, threshold: float) -> list[dict[str, Any] | None]:
    """The slots of the answers whose measure is at most the threshold."""
    return [answer.slots if MEASURES[measure](answer) <= threshold else None for answer in answers]


def tuned(spoken: Sequence[Spoken], answers: Sequence[Answer], measure: str) -> tuple[float, dict[str, float]]:
    """The threshold with the most orders right less the mean percentage of false acceptances, and its figures.

    Of equally good ones it is halfway between the least and the greatest.
    """
    values = sorted({MEASURES[measure](answer) for answer in answers if np.isfinite(MEASURES[measure](answer))})
    cuts = [(low + high) / 2 for low, high in zip(values, [*values[1:], values[-1] + 1], strict=True)]
    figures = [counts(spoken, with_rejection(answers, measure, cut)) for cut in cuts]
    gains = [one["right"] - (one["ljspeech"] + one["commands"]) / 2 for one in figures]
    best = [cut for cut, gain in zip(cuts, gains, strict=True) if gain == max(gains)]
    middle = (best[0] + best[-1]) / 2
    return middle, counts(spoken, with_rejection(answers, measure, middle))


def bigram(engine: Engine, rows: Sequence[dict[str, Any]]) -> TokenGraph:
    """A bigram of the words of the training texts, as a graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bigram.arpa"
        estimate_ngram([row["text"].split() for row in rows], path, order=2)
        return compile_ngram(path, engine.tokenizer)


def measure_all(model: str, corpora: Path) -> dict[str, Any]:
    """All figures."""
    torch.set_num_threads(1)
    engine = Recognizer.load(model, device="cpu").engine
    grammar, training = read_grammar(GRAMMAR), rows_of(corpora / "barista" / "train.jsonl")
    started = time.process_time()
    graph = compile_words(grammar.graph, engine.tokenizer)
    compile_s, of_pairs = time.process_time() - started, bigram(engine, training)
    phrases = phrases_of(grammar, training)
    clean = utterances(corpora)
    noises = [sounding(load_audio(corpora / "noise" / row["audio"])) for row in rows_of(corpora / "noise" / "train.jsonl")]
    result: dict[str, Any] = {
        "utterances": {corpus: sum(one.corpus == corpus for one in clean) for corpus in CORPORA},
        "graph": {"states": graph.num_states, "arcs": graph.num_arcs, "compile_s": round(compile_s, 3)},
        "audio_s": round(sum(len(one.samples) for one in clean) / SAMPLE_RATE_HZ, 1),
        "rows": [],
        "seconds": {},
        "thresholds": {},
    }
    thresholds: dict[tuple[str, str], float] = {}

    def add(condition: str, method: str, slots: Sequence[dict[str, Any] | None]) -> None:
        row = {"condition": condition, "method": method, **counts(clean, slots)}
        result["rows"].append(row)
        print(row, flush=True)

    for condition, snr_db in CONDITIONS.items():
        spoken = with_noise(clean, noises, snr_db)
        batches = list(encoded_batches(engine, spoken))
        lens = [length for encoded in batches for length in encoded.lens.tolist()]
        texts: dict[str, list[str]] = {}
        for head, method in HEADS.items():
            started = time.process_time()
            compared = free(engine, batches, SearchConfig(method=method))  # type: ignore[arg-type]
            free_s = time.process_time() - started
            best_paths = through(graph, engine, batches, head)
            result["seconds"][f"{condition}, {head}"] = {
                "free": round(free_s, 2),
                "grammar": round(time.process_time() - started - free_s, 2),
            }
            texts[f"free, {head}"] = [engine.tokenizer.decode(best.ids) for best in compared]
            answers = answered(best_paths, compared, lens)
            add(condition, f"grammar, {head}", [answer.slots for answer in answers])
            for measure in MEASURES:
                if snr_db is None:
                    thresholds[head, measure], _ = tuned(spoken, answers, measure)
                    result["thresholds"][f"{head}, nats per {measure}"] = round(thresholds[head, measure], 3)
                threshold = thresholds[head, measure]
                add(condition, f"grammar, {head}, rejection per {measure}", with_rejection(answers, measure, threshold))
        found = through(of_pairs, engine, batches, "transducer")
        texts["bigram"] = [" ".join(output.symbol for output in best.outputs) for best in found]
        for boost in BOOSTS:
            hotwords = encode_hotwords(list(phrases), engine.tokenizer, default_boost=boost)
            found = free(engine, batches, SearchConfig(method="beam"), hotwords)
            texts[f"hotwords, {boost:g}"] = [engine.tokenizer.decode(best.ids) for best in found]
        for method, said in texts.items():
            add(condition, f"{method}, whole orders", [by_grammar(grammar, text) for text in said])
            add(condition, f"{method}, phrases", [by_phrases(phrases, text) for text in said])
    return result


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    started = time.process_time()
    figures = measure_all(args.model, args.corpora)
    print(f"{time.process_time() - started:.0f} s of processor time")
    if args.json:
        write(args.json, head, figures)


if __name__ == "__main__":
    main()
