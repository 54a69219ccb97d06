"""Error rates of a model on several corpora, clean and in noise, and what it writes where it should write nothing.

    python benchmarks/commands.py commands --speech SPEECH --noise SPEECH/noise/dev --json benchmarks/results/commands.json

SPEECH has a folder with dev.jsonl for each corpus. Audio is processed as if it were live, in chunks, and once as whole
recordings, by the default search of each. Noise of a recording is
one of the folder, chosen by the number of the recording and repeated to its length; the energy of the recording is
`--snr-db` above it. For the noise alone, and for a minute of silence and of faint noise, words per minute are counted.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import origin, write
from noisy import noises_of, utterances_of, with_noise

from zipasr.evaluate import ReferenceUtterance, evaluate
from zipasr.recognizer import ChunkConfig, Recognizer

CORPORA = ("commands", "commands_rest", "alphanumeric", "barista", "wakewords", "ljspeech")
RATE_HZ = 16_000


def rate_of(recognizer: Recognizer, utterances: Sequence[ReferenceUtterance]) -> dict[str, Any]:
    """Errors of a set, and how many of its recordings have no error."""
    report = evaluate(recognizer, utterances)
    right = sum(result.words.total == 0 for result in report.results)
    return {"wer": round(report.wer, 2), "num_right": right, "deleted": report.words.deletions}


def words_in(recognizer: Recognizer, recordings: Sequence[np.ndarray]) -> dict[str, Any]:
    """What a model writes into recordings without speech."""
    texts = [transcript.text for transcript in recognizer.transcribe_many(recordings)]
    minutes = sum(map(len, recordings)) / RATE_HZ / 60
    written = [text for text in texts if text]
    return {
        "minutes": round(minutes, 1),
        "words_per_minute": round(sum(len(text.split()) for text in texts) / minutes, 2),
        "recordings_with_words": len(written),
        "recordings": len(texts),
        "examples": written[:5],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model, or the name of one that comes with zipasr")
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA))
    parser.add_argument("--noise", type=Path, required=True, help="a folder of noise")
    parser.add_argument("--snr-db", nargs="+", type=float, default=[10.0, 0.0])
    parser.add_argument("--chunk-frames", type=int, default=32, help="frames of 20 ms in a chunk")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    chunks = ChunkConfig(chunk_frames_50hz=args.chunk_frames, simulate_streaming=True)
    recognizer, of_files = Recognizer.load(args.model, chunks=chunks), Recognizer.load(args.model)
    noises = noises_of(args.noise)
    rows = []
    for corpus in args.corpora:
        utterances = utterances_of(str(args.speech / corpus / "dev.jsonl"))
        words = sum(len(utterance.text.split()) for utterance in utterances)
        row: dict[str, Any] = {"corpus": corpus, "recordings": len(utterances), "words": words}
        row["clean"] = rate_of(recognizer, utterances)
        for snr_db in args.snr_db:
            row[f"{snr_db:g} dB"] = rate_of(recognizer, list(with_noise(utterances, noises, snr_db)))
        row["whole"] = rate_of(of_files, utterances)
        rows.append(row)
        print(row, flush=True)
    rng = np.random.default_rng(0)
    empty = {
        "noise": words_in(recognizer, noises),
        "silence": words_in(recognizer, [np.zeros(60 * RATE_HZ, np.float32)]),
        "faint noise": words_in(recognizer, [(1e-3 * rng.standard_normal(60 * RATE_HZ)).astype(np.float32)]),
    }
    print(empty)
    searches = {"live": recognizer.search.changes(), "whole": of_files.search.changes()}
    if args.json:
        write(args.json, head, {"searches": searches, "rows": rows, "empty": empty})


if __name__ == "__main__":
    main()
