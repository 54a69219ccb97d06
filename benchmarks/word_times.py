"""How far word starts and ends are from the truth, on recordings joined from prompts.

    python benchmarks/word_times.py exp/quickstart data/prompts/dev_cuts.jsonl.gz data/prompts/test_cuts.jsonl.gz
    python benchmarks/word_times.py exp/quickstart data/prompts/train_cuts.jsonl.gz --max-words 1 --trim --gap-s 0.1 0.6
    python benchmarks/word_times.py exp/quickstart data/prompts/train_cuts.jsonl.gz --max-words 1 --trim --gap-s 0 0.03
    python benchmarks/word_times.py exp/quickstart data/prompts/dev_cuts.jsonl.gz --snr-db 30

The prompts are joined in a random order with gaps of near silence, and the speech of each is where its level is within 35 dB
of its loudest 20 ms: so the start of its first word and the end of its last are known. `--trim` cuts each prompt to that.
Rows that start from a search count the words that it got right; the others are given the text.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import add_line, origin

import zipasr
from zipasr.alignment.ctc import ctc_align
from zipasr.alignment.word_times import align_hypotheses
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.evaluate import read_cuts
from zipasr.nn.encoded import Encoded
from zipasr.recognizer import Recognizer
from zipasr.search import Hypothesis, ctc_greedy_search, modified_beam_search
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Token, Word, words_from_tokens

SAMPLE_RATE_HZ = 16_000
SPEECH_DB = 35.0
SILENCE_LEVEL = 1e-4
MAX_RECORDING_S = 20.0
SPREAD_PENALTY = 4.0


class Said(NamedTuple):
    """A prompt within a recording."""

    words: list[str]
    start_s: float
    end_s: float


class Recording(NamedTuple):
    """Prompts with gaps between them."""

    samples: np.ndarray
    said: list[Said]

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(word for prompt in self.said for word in prompt.words)


class Sound(NamedTuple):
    """What the methods are given of a recording."""

    encoded: Encoded
    features: torch.Tensor
    text_ids: tuple[int, ...]


Times = tuple[list[str], list[tuple[float, float]]]
"""Words, and the start and end of each in seconds."""


def speech_edges_s(samples: np.ndarray) -> tuple[float, float]:
    """Start and end of the speech in a prompt."""
    window, hop = SAMPLE_RATE_HZ // 50, SAMPLE_RATE_HZ // 200
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    level_db = 10.0 * np.log10((frames.astype(np.float64) ** 2).mean(1) + 1e-10)
    loud = np.flatnonzero(level_db > level_db.max() - SPEECH_DB)
    return (loud[0] * hop + window // 2) / SAMPLE_RATE_HZ, (loud[-1] * hop + window // 2) / SAMPLE_RATE_HZ


def join(prompts: Sequence[tuple[np.ndarray, str]], gap_s: tuple[float, float], *, trim: bool, seed: int) -> list[Recording]:
    """Recordings of up to `MAX_RECORDING_S` that hold each prompt once."""
    generator = np.random.default_rng(seed)

    def silence() -> np.ndarray:
        num_samples = round(generator.uniform(*gap_s) * SAMPLE_RATE_HZ)
        return (SILENCE_LEVEL * generator.standard_normal(num_samples)).astype(np.float32)

    recordings: list[Recording] = []
    pieces, now = [silence()], 0
    said: list[Said] = []
    for i in generator.permutation(len(prompts)):
        samples, text = prompts[i]
        start_s, end_s = speech_edges_s(samples)
        if trim:
            first = max(0, round((start_s - 0.01) * SAMPLE_RATE_HZ))
            samples = samples[first : round((end_s + 0.01) * SAMPLE_RATE_HZ)]
            start_s, end_s = start_s - first / SAMPLE_RATE_HZ, end_s - first / SAMPLE_RATE_HZ
        now = sum(map(len, pieces))
        if said and now + len(samples) > MAX_RECORDING_S * SAMPLE_RATE_HZ:
            recordings.append(Recording(np.concatenate(pieces), said))
            pieces, said = [silence()], []
            now = len(pieces[0])
        at_s = now / SAMPLE_RATE_HZ
        said.append(Said(text.split(), at_s + start_s, at_s + end_s))
        pieces += [samples, silence()]
    return [*recordings, Recording(np.concatenate(pieces), said)]


def with_noise(recording: Recording, snr_db: float, seed: int) -> Recording:
    """The recording in white noise so far below its mean power; what is known of the words stays."""
    scale = float(np.sqrt((recording.samples.astype(np.float64) ** 2).mean())) * 10.0 ** (-snr_db / 20.0)
    noise = scale * np.random.default_rng(seed).standard_normal(len(recording.samples))
    return recording._replace(samples=(recording.samples + noise).astype(np.float32))


def times_of(ids: Sequence[int], frames: Sequence[tuple[float, float]], tokenizer: Tokenizer) -> Times:
    """Words from tokens whose first frame at 25 Hz, and the frame after the last, are known."""
    tokens = [
        Token(tokenizer.pieces[i], a * FRAME_S_25HZ, b * FRAME_S_25HZ, 0.0) for i, (a, b) in zip(ids, frames, strict=True)
    ]
    words: tuple[Word, ...] = words_from_tokens(tokens, is_each_a_word=tokenizer.is_spaceless)
    return [word.text for word in words], [(word.start_s, word.end_s) for word in words]


def methods(recognizer: Recognizer) -> dict[str, Callable[[Sound], Times]]:
    """By name, what gives words and their times."""
    scorer, tokenizer = recognizer.engine.scorer, recognizer.engine.tokenizer

    def emitted(hypothesis: Hypothesis) -> Times:
        return times_of(hypothesis.ids, [(f, f + 1) for f in hypothesis.frames], tokenizer)

    def aligned(sound: Sound, *, penalty: float = 0.0) -> Times:
        log_probs_TV = scorer.ctc_log_probs(sound.encoded.frames)[0].numpy().copy()
        log_probs_TV[:, scorer.blank_id] -= penalty
        found = ctc_align(log_probs_TV, sound.text_ids, blank_id=scorer.blank_id)
        return times_of(sound.text_ids, list(zip(found.first_frames, found.end_frames, strict=True)), tokenizer)

    def true_times(sound: Sound, hypothesis: Hypothesis) -> Times:
        (spans,) = align_hypotheses(scorer, sound.encoded, [sound.features], [hypothesis], tokenizer=tokenizer)
        return times_of(hypothesis.ids, spans, tokenizer)

    def beam(sound: Sound) -> Hypothesis:
        return modified_beam_search(scorer, sound.encoded, unk_id=tokenizer.unk_id)[0][0]

    found: dict[str, Callable[[Sound], Times]] = {}
    if scorer.has_transducer:
        found["transducer beam, emission frames"] = lambda sound: emitted(beam(sound))
        found["transducer beam, word_times"] = lambda sound: true_times(sound, beam(sound))
    found["CTC greedy, first frames"] = lambda sound: emitted(ctc_greedy_search(scorer, sound.encoded)[0])
    found["known text, plain alignment"] = aligned
    found[f"known text, blank less {SPREAD_PENALTY:g} nats"] = lambda sound: aligned(sound, penalty=SPREAD_PENALTY)
    found["known text, word_times"] = lambda sound: true_times(sound, Hypothesis(sound.text_ids))
    return found


def matches(reference: Sequence[str], found: Sequence[str]) -> dict[int, int]:
    """Position in `found` of each word of the reference that a shortest edit leaves as it is."""
    cost = np.zeros((len(reference) + 1, len(found) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(reference) + 1), np.arange(len(found) + 1)
    for i, word in enumerate(reference):
        for j, other in enumerate(found):
            cost[i + 1, j + 1] = min(cost[i, j] + (word != other), cost[i, j + 1] + 1, cost[i + 1, j] + 1)
    i, j = len(reference), len(found)
    same = {}
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + (reference[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            if reference[i] == found[j]:
                same[i] = j
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return same


def errors_ms(recording: Recording, found: Times) -> tuple[list[float], list[float]]:
    """Signed errors of the starts and of the ends that are known, of words that were found."""
    words, times = found
    same = matches(recording.text.split(), words)
    starts, ends, position = [], [], 0
    for prompt in recording.said:
        first, last = position, position + len(prompt.words) - 1
        position = last + 1
        if first in same:
            starts.append(1000.0 * (times[same[first]][0] - prompt.start_s))
        if last in same:
            ends.append(1000.0 * (times[same[last]][1] - prompt.end_s))
    return starts, ends


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Number, mean, median and 90th percentile of the absolute errors, mean signed error."""
    if not errors:
        return {"num": 0}
    absolute = np.abs(errors)
    return {
        "num": len(errors),
        "mean": round(float(absolute.mean()), 1),
        "median": round(float(np.median(absolute)), 1),
        "p90": round(float(np.percentile(absolute, 90)), 1),
        "bias": round(float(np.mean(errors)), 1),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cuts", nargs="+")
    parser.add_argument("--max-words", type=int, default=20, help="leave out prompts of more words")
    parser.add_argument("--gap-s", type=float, nargs=2, default=(0.1, 0.8), metavar=("LEAST", "MOST"))
    parser.add_argument("--trim", action="store_true", help="cut the silence around the speech of each prompt")
    parser.add_argument("--snr-db", type=float, help="add white noise so far below the mean power of each recording")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")
    parser.add_argument("--results", type=Path, help="add a line with the figures to this file")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(1)
    recognizer = zipasr.load(args.model, device="cpu")
    cuts = [cut for path in args.cuts for cut in read_cuts(path)]
    prompts = [
        (cut.samples, cut.text) for cut in cuts if cut.samples is not None and len(cut.text.split()) <= args.max_words
    ]
    recordings = join(prompts, tuple(args.gap_s), trim=args.trim, seed=args.seed)
    if args.snr_db is not None:
        recordings = [with_noise(recording, args.snr_db, args.seed + i) for i, recording in enumerate(recordings)]
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in methods(recognizer)}
    with torch.inference_mode():
        for recording in recordings:
            features = recognizer.engine.fbank(recording.samples)
            sound = Sound(
                recognizer.engine.encode([features]), features, tuple(recognizer.engine.tokenizer.encode(recording.text))
            )
            for name, method in methods(recognizer).items():
                for errors, new in zip(found[name], errors_ms(recording, method(sound)), strict=True):
                    errors.extend(new)
    table = {name: {"starts": summary(starts), "ends": summary(ends)} for name, (starts, ends) in found.items()}
    if args.results:
        add_line(args.results, head | {"errors_ms": table})
    if args.json:
        print(json.dumps(table, indent=1))
        return
    seconds = sum(len(recording.samples) for recording in recordings) / SAMPLE_RATE_HZ
    print(f"{len(prompts)} prompts in {len(recordings)} recordings, {seconds:.0f} s; milliseconds\n")
    print("| times from | starts known | mean | median | 90 % | signed | ends known | mean | median | 90 % | signed |")
    print("|---|" + "---:|" * 10)
    for name, row in table.items():
        numbers = [value for side in row.values() for value in (*side.values(), *["-"] * (5 - len(side)))]
        cells = [f"{value:+.1f}" if i % 5 == 4 and value != "-" else str(value) for i, value in enumerate(numbers)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
