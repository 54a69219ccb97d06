"""Error rates: a recognizer and recordings with known text in, an `EvaluationReport` out.

Word errors are counted between words separated by white space, character errors between the characters of these words
(without the spaces), with the alignment that needs the fewest edits.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import kaldialign
import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, load_audio
from zipasr.data.audio_paths import missing_recording, read_located
from zipasr.data.manifest_index import require_lhotse
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.scoring import SCORING
from zipasr.lines import write_rows
from zipasr.recognizer import Recognizer

# Differs: re-exports of `search.edits`, which training uses too, since users look for them here.
from zipasr.search.edits import ErrorRates as ErrorRates
from zipasr.search.edits import Errors as Errors
from zipasr.search.edits import count_errors as count_errors
from zipasr.search.edits import count_text_errors as count_text_errors
from zipasr.search.edits import error_rates as error_rates
from zipasr.text import normalize, split_words, words_apart
from zipasr.transcript import Transcript

_GROUP_S = 1800.0
"""Seconds of audio that are read before they are sorted by length and transcribed in batches; they take 115 MB."""

_NO_WORD = "\0"
"""Placeholder in an alignment for a missing word."""


class ReferenceUtterance(NamedTuple):
    """A recording and its reference text."""

    id: str
    samples: np.ndarray | None
    """(samples,) float32 at 16 kHz; None if the recording cannot be read."""
    text: str
    problem: str = ""
    """Why the recording cannot be read."""


@dataclass(frozen=True, kw_only=True)
class UtteranceResult:
    """Reference, hypothesis and errors of one utterance."""

    id: str
    ref: str
    hyp: str
    words: Errors
    characters: Errors
    duration_s: float
    confidences: tuple[tuple[float, bool], ...] = ()
    """Confidence and correctness of each word in the transcript, without words that the scoring drops."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "id": self.id,
            "ref": self.ref,
            "hyp": self.hyp,
            "errors": self.words.total,
            "insertions": self.words.insertions,
            "deletions": self.words.deletions,
            "substitutions": self.words.substitutions,
            "num_words": self.words.num_reference,
            "character_errors": self.characters.total,
            "num_characters": self.characters.num_reference,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Error rates and speed on a set, and the results of every utterance."""

    words: Errors
    characters: Errors
    audio_s: float
    """Seconds of audio that were transcribed."""
    decode_s: float
    """Time from samples to text, without reading files."""
    results: tuple[UtteranceResult, ...]
    """In the order of the set."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Id and reason of every utterance that was skipped because it could not be read."""

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate in percent."""
        return self.characters.rate

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio; 0 without audio."""
        return self.decode_s / self.audio_s if self.audio_s else 0.0

    def worst(self, num_utterances: int) -> list[UtteranceResult]:
        """The utterances with the most word errors, then with the highest rates; without those that have no errors."""
        wrong = [result for result in self.results if result.words.total]
        return sorted(wrong, key=lambda r: (-r.words.total, -r.words.rate, -r.characters.rate, r.id))[:num_utterances]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON with the results on the whole set, rates in percent."""
        return {
            "wer": round(self.wer, 4),
            "cer": round(self.cer, 4),
            "num_utterances": len(self.results),
            "num_words": self.words.num_reference,
            "insertions": self.words.insertions,
            "deletions": self.words.deletions,
            "substitutions": self.words.substitutions,
            "num_characters": self.characters.num_reference,
            "character_errors": self.characters.total,
            "audio_s": round(self.audio_s, 3),
            "decode_s": round(self.decode_s, 3),
            "real_time_factor": round(self.real_time_factor, 5),
            "num_unreadable": len(self.unreadable),
        }

    def write_results(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON line per utterance, unreadable ones with their reason; the file is written atomically.

        Raises:
            DataError: the file cannot be written.
        """
        path = Path(path)
        rows = [result.to_dict() for result in self.results]
        rows += [{"id": id, "problem": problem} for id, problem in self.unreadable]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_rows(path, rows)
        except OSError as error:
            raise DataError(
                f"the results could not be written to {path}: {error.strerror or error}; choose another file with --out"
            ) from error


def evaluate(
    recognizer: Recognizer,
    utterances: Iterable[ReferenceUtterance],
    *,
    max_batch_s: float | None = None,
    scoring: str | None = None,
) -> EvaluationReport:
    """Transcribe utterances, count the errors and return a report.

    Long recordings are cut and stitched as `Recognizer.transcribe` does, from 40 s on (`max_whole_s`).

    Args:
        recognizer: the model and search to evaluate.
        utterances: recordings with their text, for example from `read_cuts`; read lazily and not kept.
        max_batch_s: see `Recognizer.transcribe_many`; for recordings in one piece.
        scoring: a profile of `scoring.SCORING`, whose rules rewrite both texts; None: texts are not changed.
    Raises:
        ConfigError: `scoring` is unknown.
        DataError: no utterance can be read.
    """
    rewrite = rewriting(scoring)
    results: list[UtteranceResult] = []
    unreadable: list[tuple[str, str]] = []
    decode_s = 0.0
    for group in readable_groups(utterances, unreadable):
        started = time.perf_counter()
        transcripts = list(_transcribed(recognizer, [samples for _, samples, _ in group], max_batch_s))
        decode_s += time.perf_counter() - started
        for (id, _, text), transcript in zip(group, transcripts, strict=True):
            ref, hyp = rewrite(text), rewrite(transcript.text)
            texts_apart = (words_apart(text, transcript.word_joiner) for text in (ref, hyp))
            errors = count_text_errors(*texts_apart, is_spaceless=recognizer.engine.tokenizer.is_spaceless)
            results.append(
                UtteranceResult(
                    id=id,
                    ref=ref,
                    hyp=hyp,
                    words=errors.words,
                    characters=errors.characters,
                    duration_s=transcript.duration_s,
                    confidences=judged_words(text, transcript, rewrite),
                )
            )
    if not results:
        raise none_readable("utterances", unreadable)
    total = ErrorRates()
    for result in results:
        total = total.plus(ErrorRates(result.words, result.characters))
    return EvaluationReport(
        words=total.words,
        characters=total.characters,
        audio_s=sum(result.duration_s for result in results),
        decode_s=decode_s,
        results=tuple(results),
        unreadable=tuple(unreadable),
    )


def max_whole_s(recognizer: Recognizer) -> float:
    """Length in seconds up to which recordings are encoded whole, 40 s by default.

    `Recognizer.transcribe` cuts those over 30 s; published error rates are of whole utterances, which LibriSpeech has up to
    35 s long.
    """
    return recognizer.long_recordings.max_piece_s * 4 / 3


def is_cut(recognizer: Recognizer, samples: np.ndarray) -> bool:
    """Whether a recording (samples,) at 16 kHz is evaluated in pieces; see `max_whole_s`."""
    return len(samples) > max_whole_s(recognizer) * SAMPLE_RATE_HZ


def _transcribed(
    recognizer: Recognizer, recordings: Sequence[np.ndarray], max_batch_s: float | None
) -> Iterator[Transcript]:
    """The transcript of each recording: of short ones in batches, of long ones piece by piece."""
    is_long = [is_cut(recognizer, samples) for samples in recordings]
    short = [samples for samples, one_is_long in zip(recordings, is_long, strict=True) if not one_is_long]
    transcripts = iter(recognizer.transcribe_many(short, max_batch_s=max_batch_s) if short else ())
    for samples, one_is_long in zip(recordings, is_long, strict=True):
        yield recognizer.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ) if one_is_long else next(transcripts)


def rewriting(scoring: str | None) -> Callable[[str], str]:
    """The function of a profile of `SCORING` that rewrites both texts before they are compared; None: it changes nothing.

    Raises:
        ConfigError: `scoring` is unknown.
    """
    if scoring is not None and scoring not in SCORING:
        raise ConfigError(f"scoring must be one of {', '.join(SCORING)}, or left out, but is {scoring!r}")
    return SCORING[scoring] if scoring is not None else str


def judged_words(
    reference: str, transcript: Transcript, rewrite: Callable[[str], str] = str
) -> tuple[tuple[float, bool], ...]:
    """The confidence of each word in a transcript, and whether it is correct by the alignment with the reference.

    `rewrite` is that of the scoring. A word that it turns into several is correct if all of them are; one that it drops is
    not judged.
    """

    def parts(text: str) -> list[str]:
        return split_words(rewrite(normalize(text)), transcript.word_joiner)

    parts_of_words = [parts(word.text) for word in transcript.words]
    pairs = kaldialign.align(parts(reference), [part for of_word in parts_of_words for part in of_word], _NO_WORD)
    is_right = iter([ref_part == hyp_part for ref_part, hyp_part in pairs if hyp_part != _NO_WORD])
    judged = []
    for word, of_word in zip(transcript.words, parts_of_words, strict=True):
        rights = [next(is_right) for _ in of_word]
        if rights:
            judged.append((word.confidence, all(rights)))
    return tuple(judged)


def readable_groups(
    utterances: Iterable[ReferenceUtterance], unreadable: list[tuple[str, str]]
) -> Iterator[list[tuple[str, np.ndarray, str]]]:
    """Readable utterances in groups of about half an hour of audio; the others are added to `unreadable`."""
    group: list[tuple[str, np.ndarray, str]] = []
    num_samples = 0
    for utterance in utterances:
        if utterance.samples is None:
            unreadable.append((utterance.id, utterance.problem))
            continue
        group.append((utterance.id, utterance.samples, utterance.text))
        num_samples += len(utterance.samples)
        if num_samples >= _GROUP_S * SAMPLE_RATE_HZ:
            yield group
            group, num_samples = [], 0
    if group:
        yield group


def none_readable(what: str, unreadable: Sequence[tuple[str, str]]) -> DataError:
    """The error for a set of which nothing can be read."""
    why = f"; the first of {len(unreadable)}: {unreadable[0][0]}: {unreadable[0][1]}" if unreadable else ""
    return DataError(f"the set must contain {what}, but none can be read{why}")


def read_cuts(path: str | os.PathLike[str]) -> Iterator[ReferenceUtterance]:
    """Yield the utterances of Lhotse cuts; one that cannot be read has no samples but a problem.

    Args:
        path: a manifest of cuts (`test_cuts.jsonl.gz`) as `zipasr prepare` writes it.
    Raises:
        DataError: the manifest is missing, damaged or of another kind, or Lhotse is not installed.
    """
    require_lhotse("reading cuts")
    path = Path(path)
    if not path.is_file():
        beside = sorted(file.name for file in path.glob("*_cuts.jsonl.gz")) if path.is_dir() else []
        hint = f"name one of its files: {', '.join(beside)}" if beside else "make one with: zipasr prepare SOURCE --out DIR"
        raise DataError(
            f"{path} must be a file of Lhotse cuts, but is {'a folder' if path.is_dir() else 'not there'}; {hint}"
        )
    try:
        for cut in read_located(path):
            text = normalize(" ".join(s.text for s in cut.supervisions if s.text))
            try:
                samples = load_audio(cut.load_audio(), sample_rate_hz=cut.sampling_rate)
            except Exception as error:  # lhotse's readers raise many types
                missing = missing_recording(cut)
                problem = f"{missing} does not exist; put it back, or prepare the data again" if missing else str(error)
                yield ReferenceUtterance(cut.id, None, text, problem.strip().split("\n")[0].removesuffix(" Details:"))
            else:
                yield ReferenceUtterance(cut.id, samples, text)
    except DataError:
        raise
    except Exception as error:  # lhotse raises many types for an invalid cut
        raise DataError(f"{path} must be a file of Lhotse cuts, but cannot be read as one: {error}") from error
