"""Misses of keywords at stated false alarms, clean and in noise, beside sherpa-onnx's spotter on the same weights.

    python benchmarks/keywords.py MODEL benchmarks/wakewords.txt --set SPEECH/wakewords/dev.jsonl \\
        --negatives SPEECH/commands/dev.jsonl --negatives SPEECH/ljspeech/dev.jsonl --noise SPEECH/noise/dev \\
        --json benchmarks/results/keywords.json

MODEL is a run or a model of ours; it is exported with chunks of `--chunk-ms`, and both spotters run the exported graphs.
Each recording of the set must be found if its text has a keyword, and else is a negative of it. The noise of a recording is
one of the folder, chosen by the number of the recording and repeated to its length; the energy of the recording is
`--snr-db` above it. Negatives stay clean unless `--noisy-negatives` is given.

For each condition and spotter: misses and false alarms of all keywords (without ALEXA where there are others) at their own
thresholds, and at those with the fewest misses and at most `--max-alarms` an hour of each; false alarms as count, hours, and
the rate that is not exceeded with 95 % confidence. The JSON has each keyword. Since sherpa-onnx reports events alone, it
runs once for each of `--sherpa-thresholds`.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import origin, write
from noisy import noises_of, utterances_of, with_noise

from zipasr.evaluate import ReferenceUtterance, evaluate_keywords
from zipasr.evaluate.keywords import KeywordResult, SpottedUtterance, alarms_bound, results_at
from zipasr.export import export_model
from zipasr.recognizer import KeywordEvent, Recognizer, SpotterConfig
from zipasr.search.keywords import KeywordSet, read_keywords

_SILENCE = np.zeros(round(0.66 * 16_000), np.float32)
"""What sherpa-onnx's example adds to a recording, so that its last chunk is decoded."""


class Sherpa:
    """sherpa-onnx's spotter at one threshold of all keywords."""

    def __init__(self, folder: Path, keywords: KeywordSet, recognizer: Recognizer, threshold: float | None) -> None:
        """Create it; `threshold` None: those of the keywords."""
        import sherpa_onnx

        spellings = keywords.spellings
        if threshold is not None:
            spellings = tuple(spelling._replace(threshold=threshold) for spelling in spellings)
        file = folder / "sherpa_keywords.txt"
        file.write_text(
            "".join(f"{line}\n" for line in replace(keywords, spellings=spellings).lines(recognizer.engine.tokenizer))
        )
        files = recognizer.engine.scorer.config.files  # type: ignore[attr-defined]
        self._spotter = sherpa_onnx.KeywordSpotter(
            tokens=str(folder / "tokens.txt"),
            encoder=str(folder / files.encoder),
            decoder=str(folder / files.decoder),
            joiner=str(folder / files.joiner),
            keywords_file=str(file),
            num_threads=1,
        )
        self._names = {"_".join(name.split()): name for name in keywords.names}

    def spot(self, samples: np.ndarray) -> list[KeywordEvent]:
        """The events, reset after each as the example does."""
        stream, found = self._spotter.create_stream(), []
        stream.accept_waveform(16_000, np.concatenate([samples, _SILENCE]))
        stream.input_finished()
        while self._spotter.is_ready(stream):
            self._spotter.decode_stream(stream)
            name = self._spotter.get_result(stream)
            if name:
                self._spotter.reset_stream(stream)
                found.append(name)
        return [_event(self._names[name]) for name in found]


def _event(name: str) -> KeywordEvent:
    return KeywordEvent(keyword=name, start_s=0.0, end_s=0.0, found_s=0.0, score=1.0, threshold=0.0, tokens=(), times_s=())


def counted(
    events: Sequence[Sequence[KeywordEvent]], spotted: Sequence[SpottedUtterance], names: Sequence[str]
) -> list[KeywordResult]:
    """Misses and false alarms of finished spotters, whose events are all counted."""
    results = results_at(dict.fromkeys(names, 0.0), [u._replace(candidates=()) for u in spotted], 0.0)
    found = []
    for result in results:
        pairs = [
            (result.name in u.said, sum(e.keyword == result.name for e in own))
            for u, own in zip(spotted, events, strict=True)
        ]
        missed = sum(said and not number for said, number in pairs)
        found.append(replace(result, num_missed=missed, num_alarms=sum(number for said, number in pairs if not said)))
    return found


def sherpa_rows(
    folder: Path,
    keywords: KeywordSet,
    recognizer: Recognizer,
    utterances: Sequence[ReferenceUtterance],
    spotted: Sequence[SpottedUtterance],
    max_alarms_per_h: float,
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """What sherpa-onnx's spotter misses, at the thresholds of the keywords and at the best of some for each keyword."""

    def run(threshold: float | None) -> list[KeywordResult]:
        spotter = Sherpa(folder, keywords, recognizer, threshold)
        events = [spotter.spot(utterance.samples) for utterance in utterances if utterance.samples is not None]
        return counted(events, spotted, keywords.names)

    own = run(None)
    by_threshold = {threshold: run(threshold) for threshold in thresholds}
    chosen = []
    for number, result in enumerate(own):
        allowed = [
            replace(results[number], threshold=threshold)
            for threshold, results in by_threshold.items()
            if results[number].num_alarms <= max_alarms_per_h * result.negative_h
        ]
        last = replace(by_threshold[thresholds[-1]][number], threshold=thresholds[-1])
        chosen.append(min(allowed or [last], key=lambda r: r.num_missed))
    return {"own": [result.to_dict() for result in own], "chosen": [result.to_dict() for result in chosen]}


def measure(
    args: argparse.Namespace, folder: Path, recognizer: Recognizer, conditions: Mapping[str, Sequence[ReferenceUtterance]]
) -> list[dict[str, Any]]:
    """A row for each condition and spotter."""
    spotter = recognizer.spotter(read_keywords(args.keywords), config=SpotterConfig(max_symbols_per_frame=args.max_symbols))
    rows = []
    for condition, utterances in conditions.items():
        report = evaluate_keywords(spotter, utterances, max_alarms_per_h=args.max_alarms)
        ours = {"own": [r.to_dict() for r in report.results], "chosen": [r.to_dict() for r in report.chosen]}
        rows.append({"condition": condition, "spotter": "zipasr"} | ours)
        show(rows[-1])
        if args.sherpa:
            theirs = sherpa_rows(
                folder, spotter.keywords, recognizer, utterances, report.utterances, args.max_alarms, args.sherpa_thresholds
            )
            rows.append({"condition": condition, "spotter": "sherpa-onnx"} | theirs)
            show(rows[-1])
    return rows


def show(row: Mapping[str, Any]) -> None:
    """Print a row of the table for each kind of threshold, without the keyword ALEXA where there are others."""
    for kind in ("own", "chosen"):
        results = [result for result in row[kind] if result["keyword"].upper() != "ALEXA"] or row[kind]
        said, missed, alarms = (sum(r[key] for r in results) for key in ("num_said", "num_missed", "num_alarms"))
        hours = sum(r["negative_h"] for r in results)
        bound = alarms_bound(alarms) / hours if hours else float("nan")
        print(
            f"| {row['condition']} | {row['spotter']} | {kind} | {missed} of {said} ({100 * missed / max(1, said):.1f} %) | "
            f"{alarms} in {hours:.2f} h, below {bound:.1f} an hour |",
            flush=True,
        )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model or run of ours")
    parser.add_argument("keywords", help="a file of keywords")
    parser.add_argument("--set", required=True, help="recordings with texts, some with keywords")
    parser.add_argument("--negatives", action="append", default=[], help="more recordings, for false alarms")
    parser.add_argument("--noise", type=Path, help="a folder of noise; without it only the clean condition is measured")
    parser.add_argument("--snr-db", nargs="+", type=float, default=[10.0, 0.0])
    parser.add_argument("--noisy-negatives", action="store_true", help="mix noise into the negatives too")
    parser.add_argument("--chunk-ms", type=int, default=320)
    parser.add_argument("--max-alarms", type=float, default=1.0, help="false alarms per hour of each keyword")
    parser.add_argument("--max-symbols", type=int, help="tokens per frame (default: those of the model's search)")
    parser.add_argument(
        "--sherpa-thresholds", nargs="+", type=float, default=[i / 20 for i in range(1, 20)], help="in ascending order"
    )
    parser.add_argument("--sherpa", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    head = origin()
    own, negatives = utterances_of(args.set), [u for source in args.negatives for u in utterances_of(source)]
    conditions = {"clean": [*own, *negatives]}
    if args.noise:
        noises = noises_of(args.noise)
        for snr_db in args.snr_db:
            more = list(with_noise(negatives, noises, snr_db)) if args.noisy_negatives else negatives
            conditions[f"{snr_db:g} dB"] = [*with_noise(own, noises, snr_db), *more]
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_model(args.model, Path(temporary, "exported"), chunk_ms=args.chunk_ms).folder
        rows = measure(args, folder, Recognizer.load(folder), conditions)
    if args.json:
        write(args.json, head, {"num_recordings": len(own), "num_negatives": len(negatives), "rows": rows})


if __name__ == "__main__":
    main()
