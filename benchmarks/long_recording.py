"""A recording of hours of known text through a model: speed in each third of it, memory, error rate, words at the seams.

    zipasr prepare prompts --out data/prompts
    python benchmarks/long_recording.py exp/quickstart --hours 3
    python benchmarks/long_recording.py exp/quickstart --hours 0.5 --set dev --windows --max-piece-s 20

Utterances of a set are drawn again and again and joined with pauses of 0.05 to 30 s in changing noise; about a fifth of
the time a speaker goes on for a minute with no pause above 0.1 s. The recording is written to a temporary file and read
back in blocks. What its utterances give, cut out at their true ends and one by one, is the yardstick: a word that they have
and the whole has not is lost, a word that only the whole has is added; both are counted near the seams and elsewhere.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import kaldialign
import numpy as np
import soundfile
import torch
from machine import add_line, origin

from zipasr.audio import SAMPLE_RATE_HZ, read_blocks
from zipasr.evaluate import ReferenceUtterance, read_cuts
from zipasr.profile import peak_bytes, start_of_peak
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.recognizer.stitch import PlacedTranscript, stitch
from zipasr.transcript import Transcript
from zipasr.vad import Piece, SpeechDetector, split_recording

NO_WORD = "\0"
NEAR_SEAM_S = 1.0
"""A word within so much of where two pieces meet is near a seam."""
PIECES_A_BATCH_S = 120.0
_ALIGNED_S = 60.0  # the alignment of hours would be a table of 1e9 cells


class TimedWord(NamedTuple):
    """A word and its middle in the recording."""

    text: str
    time_s: float


class Said(NamedTuple):
    """An utterance and where it is in the recording."""

    utterance: ReferenceUtterance
    start_s: float
    end_s: float


class Run(NamedTuple):
    """What came of a recording."""

    transcript: Transcript
    seams: list[tuple[float, float]]
    """Where neighbouring pieces meet: their overlap, or the pause between them, in seconds."""
    seconds_by_third: list[float]
    cpu_seconds_by_third: list[float]
    speech_s: float
    """Length of all pieces together."""
    num_overlaps: int
    peak_mib: float


def make_recording(path: Path, utterances: Sequence[ReferenceUtterance], hours: float, seed: int) -> list[Said]:
    """Write a FLAC of that length and say what is in it."""
    rng = np.random.default_rng(seed)
    said: list[Said] = []
    position = hurried_until = 0
    noise_level = 1e-3
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, "PCM_16") as file:
        while position < hours * 3600 * SAMPLE_RATE_HZ:
            if rng.random() < 0.05:
                noise_level = 10 ** rng.uniform(-4, -2.75)  # -80 to -55 dB of full scale
            if position > hurried_until and rng.random() < 1 / 80:
                hurried_until = position + 60 * SAMPLE_RATE_HZ
            pause_s = rng.uniform(0.05, 0.1) if position < hurried_until else min(0.2 + rng.exponential(1.5), 30.0)
            pause_s = rng.uniform(5, 30) if position >= hurried_until and rng.random() < 0.03 else pause_s
            utterance = utterances[rng.integers(len(utterances))]
            assert utterance.samples is not None
            clean = np.concatenate([np.zeros(round(pause_s * SAMPLE_RATE_HZ), np.float32), utterance.samples])
            file.write(clean + noise_level * rng.standard_normal(clean.size).astype(np.float32))
            end = position + clean.size
            said.append(Said(utterance, (end - utterance.samples.size) / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ))
            position = end
    return said


def groups_of(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces to transcribe together."""
    group: list[Piece] = []
    for piece in pieces:
        group.append(piece)
        if sum(p.duration_s for p in group) >= PIECES_A_BATCH_S:
            yield group
            group = []
    if group:
        yield group


def transcribe(recognizer: Recognizer, path: Path, hours: float, args: argparse.Namespace) -> Run:
    """Transcribe a file in pieces, looking at the clock at every third of it."""
    detector = None if args.windows else SpeechDetector()
    ends: list[Piece] = []
    marks: list[tuple[float, float]] = []

    def placed() -> Iterator[PlacedTranscript]:
        blocks = read_blocks(path)
        pieces = split_recording(blocks, max_piece_s=args.max_piece_s, overlap_s=args.overlap_s, detector=detector)
        for group in groups_of(pieces):
            transcripts = recognizer.transcribe_many([piece.samples for piece in group])
            for piece, transcript in zip(group, transcripts, strict=True):
                yield PlacedTranscript(transcript, piece.start_s, piece.overlap_s)
                ends.append(Piece(piece.start_samples, np.empty_like(piece.samples[:0]), piece.overlap_samples))
                durations_s.append(piece.duration_s)
            if group[-1].start_s > (len(marks) + 1) * hours * 1200 and len(marks) < 2:
                marks.append((time.perf_counter(), time.process_time()))

    durations_s: list[float] = []
    start_of_peak(recognizer.engine.device)
    began = time.perf_counter(), time.process_time()
    transcript = stitch(placed())
    marks.append((time.perf_counter(), time.process_time()))
    stops_s = [piece.start_s + duration_s for piece, duration_s in zip(ends, durations_s, strict=True)]
    seams = [(min(stop_s, b.start_s), max(stop_s, b.start_s)) for stop_s, b in zip(stops_s, ends[1:], strict=False)]
    peak = peak_bytes(recognizer.engine.device)
    return Run(
        transcript,
        seams,
        [after[0] - before[0] for before, after in pairwise([began, *marks])],
        [after[1] - before[1] for before, after in pairwise([began, *marks])],
        sum(durations_s),
        sum(piece.overlap_samples > 0 for piece in ends),
        0.0 if peak is None else peak / 2**20,
    )


def transcribe_one_by_one(recognizer: Recognizer, path: Path, said: Sequence[Said]) -> list[str]:
    """Texts of the utterances as they are in the recording, noise included."""
    texts: list[str] = []
    with soundfile.SoundFile(path) as file:
        for first in range(0, len(said), 64):
            cuts = []
            for one in said[first : first + 64]:
                file.seek(round(one.start_s * SAMPLE_RATE_HZ))
                cuts.append(file.read(round((one.end_s - one.start_s) * SAMPLE_RATE_HZ), dtype="float32"))
            texts += [transcript.text for transcript in recognizer.transcribe_many(cuts)]
    return texts


def spread(text: str, start_s: float, end_s: float) -> list[TimedWord]:
    """Words at even distances: good enough to tell what is near a seam."""
    words = text.split()
    return [TimedWord(word, start_s + (i + 0.5) * (end_s - start_s) / len(words)) for i, word in enumerate(words)]


def in_stretches(said: Sequence[Said], *sides: Sequence[TimedWord]) -> Iterator[list[list[TimedWord]]]:
    """The words of all sides, cut at pauses of a second or more into stretches of a minute or more."""
    cuts_s = [0.0]
    for before, after in pairwise(said):
        if after.start_s - before.end_s >= 1.0 and before.end_s - cuts_s[-1] >= _ALIGNED_S:
            cuts_s.append((before.end_s + after.start_s) / 2)
    for start_s, end_s in pairwise([*cuts_s, float("inf")]):
        yield [[word for word in side if start_s <= word.time_s < end_s] for side in sides]


def differences(
    said: Sequence[Said], reference: Sequence[TimedWord], hypothesis: Sequence[TimedWord], seams: list[tuple[float, float]]
) -> dict[str, list[int]]:
    """Words of the reference, lost, added, changed: [near a seam, elsewhere]."""
    starts = np.array([start for start, _ in seams]) - NEAR_SEAM_S
    ends = np.array([end for _, end in seams]) + NEAR_SEAM_S

    def place(time_s: float) -> int:
        return 0 if ((starts <= time_s) & (time_s <= ends)).any() else 1

    counts = {"words": [0, 0], "lost": [0, 0], "added": [0, 0], "changed": [0, 0]}
    for expected, found in in_stretches(said, reference, hypothesis):
        times_a, times_b = iter(expected), iter(found)
        for a, b in kaldialign.align([w.text for w in expected], [w.text for w in found], NO_WORD):
            word_a = next(times_a) if a != NO_WORD else None
            word_b = next(times_b) if b != NO_WORD else None
            where = place((word_a or word_b).time_s)  # type: ignore[union-attr]
            counts["words"][where] += word_a is not None
            if a != b:
                counts["added" if word_a is None else "lost" if word_b is None else "changed"][where] += 1
    return counts


def error_rate(counts: dict[str, list[int]]) -> float:
    """All differences in percent of the words."""
    return 100 * sum(sum(counts[kind]) for kind in ("lost", "added", "changed")) / max(1, sum(counts["words"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data/prompts"))
    parser.add_argument("--set", default="test", choices=["dev", "test"])
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--max-piece-s", type=float, default=30.0)
    parser.add_argument("--overlap-s", type=float, default=4.0)
    parser.add_argument("--windows", action="store_true", help="no voice activity detection, overlapping windows only")
    parser.add_argument("--method", default="auto", help="the search, see SearchConfig")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help="add a line with the figures to this file")
    args = parser.parse_args()
    head = origin()
    torch.set_num_threads(args.threads)
    recognizer = Recognizer.load(args.model, device="cpu", search=SearchConfig(method=args.method))
    utterances = list(read_cuts(args.data / f"{args.set}_cuts.jsonl.gz"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        said = make_recording(path, utterances, args.hours, args.seed)
        run = transcribe(recognizer, path, args.hours, args)
        texts = transcribe_one_by_one(recognizer, path, said)
    truth = [word for s in said for word in spread(s.utterance.text, s.start_s, s.end_s)]
    one_by_one = [word for s, text in zip(said, texts, strict=True) for word in spread(text, s.start_s, s.end_s)]
    found = [TimedWord(word.text, (word.start_s + word.end_s) / 2) for word in run.transcript.words]
    against_one_by_one = differences(said, one_by_one, found, run.seams)
    third_s = args.hours * 1200
    figures = {
        "set": args.set,
        "hours": args.hours,
        "windows": args.windows,
        "max_piece_s": args.max_piece_s,
        "overlap_s": args.overlap_s,
        "real_time_factor_by_third": [round(seconds / third_s, 4) for seconds in run.seconds_by_third],
        "cpu_by_third": [round(seconds / third_s, 4) for seconds in run.cpu_seconds_by_third],
        "peak_mib": round(run.peak_mib),
        "transcribed_share": round(run.speech_s / (args.hours * 3600), 3),
        "num_pieces": len(run.seams) + 1,
        "num_overlaps": run.num_overlaps,
        "wer_one_by_one": round(error_rate(differences(said, truth, one_by_one, run.seams)), 2),
        "wer": round(error_rate(differences(said, truth, found, run.seams)), 2),
        "against_one_by_one [near seams, elsewhere]": against_one_by_one,
        "threads": args.threads,
    }
    print(json.dumps(figures, indent=1))
    if args.results:
        add_line(args.results, head | figures)


if __name__ == "__main__":
    main()
