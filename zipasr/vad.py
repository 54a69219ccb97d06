"""Voice activity detection in long recordings: blocks of samples at 16 kHz -> pieces short enough to transcribe, lazily.

Probabilities of speech come in windows of 32 ms (512 samples); a piece is (samples,) float32 with its place in the
recording. Pieces start and end in pauses where possible. Longer speech is cut at its quietest point, and both pieces
contain the audio around the cut, for `recognizer.stitch` to join. Memory does not grow with the recording.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError

WINDOW_SAMPLES = 512
"""Samples per speech probability: 32 ms, as the detector was trained."""
_CONTEXT_SAMPLES = 64  # context from the previous window, as in the detector's own front end
_STATE_SIZE = 128
_MAX_WINDOWS = 512  # per call; from 32 to 1024 the time is the same, 3.4 s per hour of audio on one core


@dataclass(frozen=True, kw_only=True)
class VadConfig:
    """Thresholds and durations that decide what is speech and what is a pause."""

    onset: float = 0.35
    """Probability at which speech starts. It is lower than the detector's default of 0.5, because a missed word is lost,
    while a recognizer outputs nothing for noise. Of prompts clipped at a twentieth of their peak 0.5 % of the speech is
    missed instead of 2 %, of prompts 50 dB too quiet 14 % instead of 29 %; noise and clicks give no speech either way."""
    offset: float = 0.2
    """Probability below which speech may end: 0.15 below `onset`, as in the detector's defaults."""
    min_pause_s: float = 0.2
    """Shortest pause; a shorter silence counts as speech, because the closure of a plosive takes up to 0.15 s."""
    padding_s: float = 0.25
    """Audio kept before and after speech, or half the pause if that is less. Of 508 prompts, with 0.15 s none loses audio
    within 35 dB of its loud parts, with 0.1 s 1 % lose up to 50 ms, and without padding most do."""
    max_gap_s: float = 2.0
    """A longer pause is dropped, and the words before and after it go into separate pieces."""
    cut_search_s: float = 3.0
    """Speech without a pause is cut at the quietest point within this duration before the maximum piece length."""

    def __post_init__(self) -> None:
        if not 0 < self.offset <= self.onset < 1:
            raise ConfigError(f"offset and onset must be 0 < offset <= onset < 1, but are {self.offset} and {self.onset}")
        if not self.min_pause_s > 0 or not self.cut_search_s > 0:
            raise ConfigError(
                f"min_pause_s and cut_search_s must be positive, but are {self.min_pause_s} and {self.cut_search_s}"
            )
        if not self.padding_s >= 0 or not self.max_gap_s >= max(2 * self.padding_s, self.min_pause_s):
            raise ConfigError(
                f"max_gap_s must be at least min_pause_s and twice padding_s, which is 0 or more, but max_gap_s is "
                f"{self.max_gap_s}, min_pause_s {self.min_pause_s} and padding_s {self.padding_s}"
            )

    def check_lengths(self, max_piece_s: float, overlap_s: float) -> None:
        """Check that pieces of at most `max_piece_s` can overlap by `overlap_s` where speech is cut.

        Raises:
            ConfigError: the overlap is negative, or the pieces are too short for it and the search for a quiet point.
        """
        if not overlap_s >= 0:
            raise ConfigError(f"overlap_s must be 0 or more, but is {overlap_s}")
        shortest_s = 2 * overlap_s + self.cut_search_s + 4 * self.padding_s + 1
        if not max_piece_s >= shortest_s:
            raise ConfigError(
                f"max_piece_s must be at least {shortest_s:g} with an overlap of {overlap_s:g} s, but is {max_piece_s:g}; "
                "lengthen the pieces or shorten the overlap"
            )


class DetectorState(NamedTuple):
    """State of a detector between calls: its LSTM state and the end of the last window."""

    hidden: np.ndarray
    cell: np.ndarray
    context: np.ndarray


class Detector(Protocol):
    """Interface of a speech detector: the probability of speech, window by window."""

    def probabilities(self, samples: np.ndarray, state: DetectorState | None) -> tuple[np.ndarray, DetectorState]:
        """Probabilities (windows,) of samples (windows * 512,) that follow `state`, and the next state."""
        ...


class SpeechDetector:
    """Silero VAD 6 (MIT license) on one CPU thread; the package contains the model, nothing is downloaded.

    Its sequence model processes many windows per call, with bit-identical probabilities to the single-window model in
    less than half the time.
    """

    def __init__(self) -> None:
        """Load the model.

        Raises:
            ConfigError: the packages of the extra `vad` are missing.
        """
        cure = 'install what finds speech in a recording: pip install "zipasr[vad]"'
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"the package onnxruntime must be installed, but is not; {cure}") from error
        spec = importlib.util.find_spec("silero_vad")  # only the model in the package is needed, not its code
        folders = spec.submodule_search_locations if spec is not None else None
        path = Path(folders[0] if folders else "silero_vad") / "data" / "silero_vad_16k_sequence.onnx"
        if not path.is_file():
            raise ConfigError(f"silero-vad must be 6.2.3 or newer, with {path.name}, but is older or missing; {cure}")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples: np.ndarray, state: DetectorState | None = None) -> tuple[np.ndarray, DetectorState]:
        """Return the probability of speech in each window.

        Args:
            samples: (windows * 512,) float32 at 16 kHz.
            state: state returned for the preceding samples; None at the start of a recording.
        Returns:
            (windows,) float32 in [0, 1], and the state for the next call; any split of a recording gives the same result.
        Raises:
            ValueError: not a whole number of windows.
        """
        if samples.ndim != 1 or samples.size % WINDOW_SAMPLES:
            raise ValueError(f"samples must be (samples,), a multiple of {WINDOW_SAMPLES}, but have shape {samples.shape}")
        if state is None:
            zeros = np.zeros((1, 1, _STATE_SIZE), np.float32)
            state = DetectorState(zeros, zeros, np.zeros(_CONTEXT_SAMPLES, np.float32))
        windows = samples.astype(np.float32, copy=False).reshape(-1, WINDOW_SAMPLES)
        found = [np.zeros(0, np.float32)]
        for first in range(0, len(windows), _MAX_WINDOWS):
            some = windows[first : first + _MAX_WINDOWS]
            contexts = np.concatenate([state.context[None], some[:-1, -_CONTEXT_SAMPLES:]])
            inputs = {"input": np.concatenate([contexts, some], axis=1), "h": state.hidden, "c": state.cell}
            values, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            state = DetectorState(hidden, cell, some[-1, -_CONTEXT_SAMPLES:].copy())
            found.append(values.reshape(-1))
        return np.concatenate(found), state


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of a recording that is transcribed separately."""

    start_samples: int
    """Start in the recording, at 16 kHz."""
    samples: np.ndarray
    """(samples,) float32 at 16 kHz."""
    overlap_samples: int = 0
    """Number of its first samples that the previous piece contains too."""

    @property
    def start_s(self) -> float:
        """Start in the recording, in seconds."""
        return self.start_samples / SAMPLE_RATE_HZ

    @property
    def overlap_s(self) -> float:
        """Duration at its start that the previous piece contains too."""
        return self.overlap_samples / SAMPLE_RATE_HZ

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


def split_recording(
    blocks: Iterable[np.ndarray],
    *,
    max_piece_s: float = 30.0,
    overlap_s: float = 4.0,
    detector: Detector | None = None,
    config: VadConfig | None = None,
) -> Iterator[Piece]:
    """Return the pieces of a recording, each as soon as its end is known.

    With a detector, audio without speech is dropped, except for short pauses. Without one, all audio is kept and all cuts
    overlap.

    Args:
        blocks: consecutive samples (samples,) float32 at 16 kHz, as returned by `audio.read_blocks`.
        max_piece_s: maximum length of a piece.
        overlap_s: maximum overlap of two pieces where speech was cut; the minimum is half of it.
        detector: detects speech; None: all audio counts as speech.
        config: thresholds and durations; None: the defaults.
    Raises:
        ConfigError: see `VadConfig.check_lengths`.
    """
    config = config or VadConfig()
    config.check_lengths(max_piece_s, overlap_s)
    splitter = _Splitter(round(max_piece_s * SAMPLE_RATE_HZ), round(overlap_s * SAMPLE_RATE_HZ), config)
    return _pieces(blocks, splitter, detector)


def _pieces(blocks: Iterable[np.ndarray], splitter: "_Splitter", detector: Detector | None) -> Iterator[Piece]:
    state: DetectorState | None = None
    rest = np.zeros(0, np.float32)
    for block in blocks:
        joined = np.concatenate([rest, block])
        num_whole = joined.size // WINDOW_SAMPLES * WINDOW_SAMPLES
        for start in range(0, num_whole, _MAX_WINDOWS * WINDOW_SAMPLES):
            whole = joined[start : min(start + _MAX_WINDOWS * WINDOW_SAMPLES, num_whole)]
            probs = np.ones(whole.size // WINDOW_SAMPLES)
            if detector is not None:
                probs, state = detector.probabilities(whole, state)
            yield from splitter.accept(whole, probs)
        rest = joined[num_whole:]
    if rest.size:
        last = np.pad(rest, (0, WINDOW_SAMPLES - rest.size))
        probs = np.ones(1) if detector is None else detector.probabilities(last, state)[0]
        yield from splitter.accept(rest, probs)
    yield from splitter.finish()


class _Pause(NamedTuple):
    """Silence between speech, in samples."""

    start: int
    end: int


class _Splitter:
    """Splits windows into pieces; positions are samples of the recording. Stores the samples of the open piece only."""

    def __init__(self, max_samples: int, overlap_samples: int, config: VadConfig) -> None:
        self.max_samples, self.overlap_samples = max_samples, overlap_samples
        self.padding, self.min_pause, self.max_gap, self.cut_search = (
            round(seconds * SAMPLE_RATE_HZ)
            for seconds in (config.padding_s, config.min_pause_s, config.max_gap_s, config.cut_search_s)
        )
        self.onset, self.offset = config.onset, config.offset
        self.chunks: list[np.ndarray] = []
        self.levels: list[float] = []  # mean square of each window in chunks
        self.kept_from = self.position = 0  # chunks hold [kept_from, position)
        self.piece_start: int | None = None
        self.piece_overlap = 0
        self.pauses: list[_Pause] = []  # inside the open piece, followed by speech
        self.is_speech = False
        self.speech_end = 0

    def accept(self, samples: np.ndarray, probs: np.ndarray) -> Iterator[Piece]:
        """Add whole windows (the last of a recording may be shorter) and yield the pieces that end in them."""
        at = self.position
        self.chunks.append(samples)
        self.position += samples.size
        for i, prob in enumerate(probs.tolist()):
            window = samples[i * WINDOW_SAMPLES : (i + 1) * WINDOW_SAMPLES]
            self.levels.append(float(np.dot(window, window)))
            yield from self._window(at, at + window.size, prob)
            at += window.size
        self._forget()

    def finish(self) -> Iterator[Piece]:
        """Yield the piece that ends with the recording."""
        if self.piece_start is not None:
            yield self._close(min(self.speech_end + self.padding, self.position))

    def _window(self, start: int, end: int, prob: float) -> Iterator[Piece]:
        if self.is_speech and prob < self.offset:
            self.is_speech = end - self.speech_end < self.min_pause
            return
        if not self.is_speech and prob < self.onset:
            if self.piece_start is not None and end - self.speech_end > self.max_gap:
                yield self._close(self.speech_end + self.padding)
            return
        if self.piece_start is None:
            self.piece_start = max(start - self.padding, self.kept_from)
        elif not self.is_speech:
            self.pauses.append(_Pause(self.speech_end, start))
        self.is_speech, self.speech_end = True, end
        while end + self.padding - self.piece_start > self.max_samples:
            yield self._cut()

    def _cut(self) -> Piece:
        """Cut a piece that would become too long: in the longest pause of its second half or of its first, or in speech."""
        assert self.piece_start is not None
        middle = self.piece_start + self.max_samples // 2
        late = [pause for pause in self.pauses if pause.start >= middle] or self.pauses
        if late:
            pause = max(late, key=lambda pause: pause.end - pause.start)
            half = (pause.start + pause.end) // 2
            later = self.pauses[self.pauses.index(pause) + 1 :]
            piece = self._close(min(pause.start + self.padding, half))
            self.piece_start, self.pauses = max(pause.end - self.padding, half), later
            return piece
        last = self.piece_start + self.max_samples - self.padding
        cut = self._quietest(last - self.cut_search, last)
        start = self._quietest(cut - self.overlap_samples, cut - self.overlap_samples // 2)
        piece = self._close(cut)
        self.piece_start, self.piece_overlap = start, cut - start
        return piece

    def _quietest(self, first: int, last: int) -> int:
        """Middle of the window in [first, last] whose surrounding 0.16 s are quietest; the latest if several are."""
        start = -(-(first - self.kept_from) // WINDOW_SAMPLES)
        end = min((last - self.kept_from) // WINDOW_SAMPLES, len(self.levels) - 2)
        if end <= start:
            return last
        smooth = np.convolve(self.levels[start - 2 : end + 2], np.ones(5), mode="valid")
        quietest = end - 1 - int(smooth[::-1].argmin())
        return self.kept_from + quietest * WINDOW_SAMPLES + WINDOW_SAMPLES // 2

    def _close(self, end: int) -> Piece:
        assert self.piece_start is not None
        joined = np.concatenate(self.chunks)
        piece = Piece(
            self.piece_start,
            joined[self.piece_start - self.kept_from : end - self.kept_from].copy(),
            self.piece_overlap,
        )
        self.piece_start, self.piece_overlap, self.pauses = None, 0, []
        return piece

    def _forget(self) -> None:
        """Drop the chunks before the open piece, or all but those that padding may need."""
        needed = self.position - self.padding - WINDOW_SAMPLES if self.piece_start is None else self.piece_start
        while self.chunks and self.kept_from + self.chunks[0].size <= needed:
            dropped = self.chunks.pop(0).size
            self.kept_from += dropped
            del self.levels[: dropped // WINDOW_SAMPLES]
