"""From utterances of a source to audio that training reads: each recording is decoded once, cut, checked, and written as
FLAC where it is not plain audio already.
"""

import hashlib
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, load_audio, save_flac
from zipasr.errors import AudioError, DataError
from zipasr.prepare.config import PrepareConfig
from zipasr.prepare.long_texts import cut_by_alignment
from zipasr.prepare.timed_texts import MAX_JOINED_S
from zipasr.prepare.utterance import OVERSHOOT_S, Reason, Rejected, Utterance, part_id, reject
from zipasr.prepare.validate import check_samples, check_silence
from zipasr.progress import track
from zipasr.recognizer import Recognizer

logger = logging.getLogger(__name__)

_NOT_FINITE = "NaN or infinite"
"""Words of `load_audio` about such samples; it raises one exception type for every fault of a file."""

_ROUNDING_S = 0.1
"""A stated duration that is shorter than the recording by less than this counts as rounded: the whole recording is used."""


_MAX_CLIPPED = 1e-4
"""Power that clipping may take away without a warning, as a share of that of the recording, -40 dB. Lossy formats and
resampling exceed full scale by a few hundredths where a recording reaches it, which is far less."""


class Ready(NamedTuple):
    """An utterance with its audio on disk."""

    utterance: Utterance
    audio: Path
    num_samples: int


@dataclass(frozen=True)
class Converter:
    """Converts the recordings of a source; safe to call from several threads."""

    folder: Path
    """Where audio will be."""
    staging: Path
    """Where it is written; see `staged_audio`."""
    config: PrepareConfig
    kept: Set[Path] = frozenset()
    """Files in `folder` that must stay; see `recordings_in`."""
    recognizer: Recognizer | None = None
    """Aligns recordings that are too long with their texts; None: they are rejected."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the recognizer aligns."""
    _clipped: dict[Path, float] = field(default_factory=dict)
    """The largest sample of each recording that is clipped."""

    def convert(self, utterances: Sequence[Utterance], *, has_progress: bool) -> Generator[Ready | Rejected, None, None]:
        """Convert every recording once, `num_jobs` at a time, in the order of the utterances; if closed, nothing is written
        any more.

        Raises:
            DataError: the audio of an utterance would replace a recording in `kept`.
        """
        groups: dict[tuple[Path, int | None, int | None], list[Utterance]] = defaultdict(list)
        for utterance in utterances:
            groups[utterance.audio, utterance.channel, utterance.audio_track].append(utterance)
        with ThreadPoolExecutor(self.config.num_jobs) as pool:
            results = pool.map(self._convert_recording, groups.values())
            is_hidden = not has_progress
            for result in track(results, "prepare", total=len(groups), unit="files", is_hidden=is_hidden, is_kept=True):
                yield from result
        self._warn_of_clipping()

    def _convert_recording(self, utterances: Sequence[Utterance]) -> list[Ready | Rejected]:
        """Decode one channel of one track of one recording, and convert its utterances."""
        try:
            samples, is_damaged = _load(utterances[0], self.config)
        except (AudioError, ValueError) as error:
            reason = Reason.NOT_FINITE if _NOT_FINITE in str(error) else Reason.UNREADABLE
            return [reject(utterance, reason, str(error)) for utterance in utterances]
        pieces = [piece for utterance in utterances for piece in self._pieces(samples, utterance)]
        results = [piece if isinstance(piece, Rejected) else self._write(samples, piece, is_damaged) for piece in pieces]
        audio = utterances[0].audio
        is_written = any(isinstance(result, Ready) and result.audio != audio.absolute() for result in results)
        if is_written and _is_clipped(samples):
            self._clipped[audio] = float(np.abs(samples).max())
        return results

    def _warn_of_clipping(self) -> None:
        """Log how many recordings are louder than FLAC can hold."""
        if self._clipped:
            loudest = max(self._clipped, key=lambda audio: self._clipped[audio])
            logger.warning(
                "recordings louder than full scale: %d, such as %s, up to %.2f; they are clipped to 1 in FLAC files, unless "
                "you scale their samples and prepare them again",
                len(self._clipped),
                loudest,
                self._clipped[loudest],
            )

    def _pieces(self, samples: np.ndarray, utterance: Utterance) -> Iterator[Utterance | Rejected]:
        """The utterance itself, or the pieces of one that is too long, if there is a recognizer to align it."""
        part = _segment_samples(samples, utterance)
        limit_s, min_confidence = self.config.limits.max_duration_s, self.config.min_align_confidence
        if self.recognizer is None or isinstance(part, Rejected) or len(part) <= limit_s * SAMPLE_RATE_HZ:
            yield utterance
            return
        max_duration_s, lang = min(limit_s, MAX_JOINED_S), utterance.language or ""
        try:
            with self._lock:
                pieces = cut_by_alignment(self.recognizer, part, utterance.text, lang=lang, max_duration_s=max_duration_s)
        except DataError as error:
            yield reject(utterance, Reason.TEXT_MISMATCH, str(error))
            return
        for first_s, last_s, text, confidence in pieces:
            start_s = utterance.start_s + first_s
            id = part_id(utterance.id, start_s)
            piece = replace(utterance, id=id, text=text, start_s=start_s, duration_s=last_s - first_s)
            if confidence >= min_confidence:
                yield piece
            else:
                where = f"from {start_s:.2f} to {start_s + last_s - first_s:.2f} s"
                detail = f"expected a confidence of {min_confidence:g} or more {where}, got {confidence:.2f} for {text!r}"
                yield reject(piece, Reason.TEXT_MISMATCH, detail)

    def _write(self, samples: np.ndarray, utterance: Utterance, is_damaged: bool) -> Ready | Rejected:
        """Check an utterance of a recording, and write its samples if the recording itself cannot be used."""
        part = _segment_samples(samples, utterance)
        if isinstance(part, Rejected):
            return part
        fault = check_samples(utterance, len(part), self.config.limits) or check_silence(utterance, part)
        if fault:
            return fault
        is_whole = len(part) == len(samples) and utterance.channel is None and not is_damaged
        if is_whole and _is_plain(utterance.audio, len(samples)):
            return Ready(utterance, utterance.audio.absolute(), len(part))
        path, staged = _flac_path(self.folder, utterance.id).absolute(), _flac_path(self.staging, utterance.id)
        if self.kept and path.resolve() in self.kept:
            raise DataError(
                f"the output must not replace a recording of the source, but would do so with {path}; choose another"
            )
        staged.parent.mkdir(parents=True, exist_ok=True)
        save_flac(staged, part)
        return Ready(utterance, path, len(part))


@contextmanager
def staged_audio(folder: Path) -> Iterator[Path]:
    """Create a folder for audio that is not in its place yet, in `folder` itself, so that it can be renamed into it.

    It is deleted at the end, with what was not moved. Its name is hidden and no id of an utterance has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder, ignore_cleanup_errors=True) as staging:
        yield Path(staging)


def move_audio(staging: Path, folder: Path) -> None:
    """Move all staged files into `folder`, where they replace others of the same name."""
    for here, _, names in os.walk(staging):
        target = folder / Path(here).relative_to(staging)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(Path(here, name), target / name)


def recordings_in(folder: Path, utterances: Iterable[Utterance]) -> set[Path]:
    """The recordings of a source that lie in a folder, as real paths."""
    folder = folder.resolve()
    parents = {parent: parent.resolve() for parent in {utterance.audio.parent for utterance in utterances}}
    inside = {parent: real for parent, real in parents.items() if real.is_relative_to(folder)}
    return {
        inside[utterance.audio.parent] / utterance.audio.name for utterance in utterances if utterance.audio.parent in inside
    }


def _flac_path(folder: Path, utterance_id: str) -> Path:
    """Path of the audio of an utterance: its id made safe for a file name, with a hash if that changed the id."""
    parts = [re.sub(r"[^\w.,=+-]", "_", part).lstrip(".")[:50] for part in utterance_id.split("/")]
    safe = "/".join(part for part in parts if part)
    if safe != utterance_id:
        digest = hashlib.sha256(utterance_id.encode(errors="surrogatepass")).hexdigest()[:12]
        safe = f"{safe}-{digest}" if safe else digest
    return folder / f"{safe}.flac"


def _is_plain(path: Path, num_samples: int) -> bool:
    """Whether a file is WAV or FLAC at 16 kHz mono, which Lhotse reads without conversion."""
    if path.suffix.lower() not in (".wav", ".flac") or not path.is_file():  # a pipe cannot be read again
        return False
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    with suppress(AudioLoadingError, OSError, RuntimeError, ValueError):  # what Lhotse cannot open is converted
        recording = Recording.from_file(path)
        shape = (recording.sampling_rate, recording.num_channels, recording.num_samples)
        return shape == (SAMPLE_RATE_HZ, 1, num_samples)
    return False


def _segment_samples(samples: np.ndarray, utterance: Utterance) -> np.ndarray | Rejected:
    """The samples of a recording that belong to an utterance."""
    length_s = len(samples) / SAMPLE_RATE_HZ
    end_s = length_s if utterance.duration_s is None else utterance.start_s + utterance.duration_s
    if end_s > length_s + OVERSHOOT_S or (utterance.start_s > 0 and utterance.start_s >= length_s):
        detail = f"expected audio from {utterance.start_s:g} to {end_s:g} s, got a recording of {length_s:.2f} s"
        return reject(utterance, Reason.UNREADABLE, detail)
    if utterance.start_s == 0 and end_s > length_s - _ROUNDING_S:
        return samples
    return samples[round(utterance.start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]


def _is_clipped(samples: np.ndarray) -> bool:
    """Whether FLAC clips enough of a recording to be told."""
    if max(samples.max(initial=0.0), -samples.min(initial=0.0)) <= 1:
        return False
    lost = np.square(np.maximum(np.abs(samples) - 1, 0), dtype=np.float64).mean()
    return bool(lost > _MAX_CLIPPED * np.square(samples, dtype=np.float64).mean())


def _load(utterance: Utterance, config: PrepareConfig) -> tuple[np.ndarray, bool]:
    """Decode the channel and track of an utterance; also return whether that needed `allow_damaged`."""
    audio, channel, audio_track = utterance.audio, utterance.channel, utterance.audio_track
    try:
        return load_audio(audio, channel=channel, audio_track=audio_track), False
    except AudioError:
        if not config.allow_damaged:
            raise
        return load_audio(audio, channel=channel, audio_track=audio_track, allow_damaged=True), True
