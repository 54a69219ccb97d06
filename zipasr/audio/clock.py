"""The timeline of a recording: decoded frames_TC with timestamps in, the same frames with silence in the gaps out.
`load_audio` and `read_blocks` both use it, so they agree sample for sample.

Gaps become silence and overlaps are dropped, as with FFmpeg's `aresample=async=1`. Times are in seconds, rates are those of
the file.
"""

from collections.abc import Iterator

import numpy as np

from zipasr.errors import AudioError

_TOLERANCE_S = 0.1
"""Timestamps may be off by this much before samples are added or dropped: live recorders stamp packets when they arrive.
It is `min_hard_comp` of FFmpeg's aresample. Small deviations add up until they exceed it, so time is never off by more."""
_ROUNDING_S = 0.001
"""Matroska rounds timestamps to milliseconds. The start, and the end of damage, are placed this precisely."""
_RESTART_S = 10.0
"""A timestamp that jumps back further is not an overlap but a clock that was reset (FFmpeg's `dts_delta_threshold`)."""
_MAX_SILENCE_S = 12 * 3600.0
"""Upper bound on the silence inserted into one recording; more comes from damaged timestamps and would never end."""
_SILENT_FRAMES = 1 << 16
_MAX_LISTED = 10


class Clock:
    """The timeline of one recording; it grows as frames are placed on it."""

    def __init__(self, rate_hz: int, name: str, others_start_s: float | None, *, is_seamless: bool = False) -> None:
        """Create an empty timeline.

        Args:
            name: name of the recording in messages.
            others_start_s: timestamp at which the other streams of the file start, such as its video; None: there are none.
            is_seamless: whether the format has no gaps, so that every gap means damage.
        """
        self.rate_hz = rate_hz
        self._name, self._others_start_s, self._is_seamless = name, others_start_s, is_seamless
        self.num_samples = 0
        """Length of the timeline so far."""
        self.lead_samples = 0
        """Silence before the first frame."""
        self.holes: list[tuple[float, float]] = []
        """Start and end in seconds of every stretch that could not be decoded."""
        self._num_silent = 0
        self._zero_s: float | None = None  # timestamp of sample 0 by the current clock
        self._first_s = self._last_start_s = self._last_end_s = 0.0  # timestamps since the last reset of the clock
        self._is_overlapping = False
        self._is_restart_due = False
        self._lost_s: float | None = None  # length of packets that could not be decoded since the last frame

    @property
    def now_s(self) -> float:
        """Length of the timeline so far in seconds."""
        return self.num_samples / self.rate_hz

    @property
    def end_s(self) -> float:
        """Timestamp of the end of the timeline."""
        return (self._zero_s or 0.0) + self.now_s

    def lose(self, duration_s: float) -> None:
        """Record that a packet of this length could not be decoded."""
        self._lost_s = (self._lost_s or 0.0) + duration_s

    def expect_restart(self) -> None:
        """Record that another recording with a clock of its own follows: timestamps that go back are no overlap then."""
        self._is_restart_due = True

    def place(self, frames_TC: np.ndarray, start_s: float | None) -> Iterator[np.ndarray]:
        """Yield decoded frames, preceded by silence where there is a gap and without what overlaps earlier frames.

        Args:
            frames_TC: decoded frames with any number of channels.
            start_s: their timestamp; None: they follow the frames before without a gap.
        Yields:
            The silence in small blocks, then the frames that do not overlap.
        Raises:
            AudioError: the silence exceeds `_MAX_SILENCE_S`.
        """
        is_first = self.num_samples == 0
        lead = self._lost_samples() if start_s is None else self._lead(start_s, len(frames_TC))
        if self._lost_s is not None or (self._is_seamless and lead > 0):
            self.holes.append((self.now_s, self.now_s + max(lead, 0) / self.rate_hz))
            self._lost_s = None
        if is_first:
            self.lead_samples = max(lead, 0)
        yield from self._silence(lead, frames_TC.shape[1])
        kept_TC = frames_TC[max(-lead, 0) :]
        self.num_samples += len(kept_TC)
        if len(kept_TC):
            yield kept_TC

    def finish(self, num_channels: int) -> Iterator[np.ndarray]:
        """Yield silence for packets at the end that could not be decoded."""
        if self._lost_s is not None:
            self.holes.append((self.now_s, self.now_s + self._lost_s))
            yield from self._silence(self._lost_samples(), num_channels)
            self._lost_s = None

    def _lost_samples(self) -> int:
        return round((self._lost_s or 0.0) * self.rate_hz)

    def _lead(self, start_s: float, num_frames: int) -> int:
        """Number of samples missing before a frame; negative: number of samples by which it overlaps earlier frames."""
        zero_s = self._zero_at(start_s)
        self._last_start_s, self._last_end_s = start_s, start_s + num_frames / self.rate_hz
        lead = round((start_s - zero_s) * self.rate_hz) - self.num_samples
        is_exact = self.num_samples == 0 or self._lost_s is not None or self._is_seamless
        tolerance = round((_ROUNDING_S if is_exact else _TOLERANCE_S) * self.rate_hz)
        if abs(lead) <= tolerance and not (self._is_overlapping and lead < 0):
            lead = 0
        self._is_overlapping = lead < 0
        return lead

    def _zero_at(self, start_s: float) -> float:
        """Timestamp of sample 0, after the clock is set or reset if a frame with this timestamp requires it."""
        if self._zero_s is None:
            self._first_s = start_s
            self._zero_s = start_s - self.now_s - (self._lost_s or 0.0)
            if self.num_samples == 0 and self._others_start_s is not None:
                self._zero_s = min(self._zero_s, self._others_start_s)
        elif start_s < self._last_start_s - _TOLERANCE_S and (
            self._is_restart_due or start_s <= self._first_s + _TOLERANCE_S or self._last_end_s - start_s > _RESTART_S
        ):  # several recordings in one file, each with a clock of its own
            self._zero_s, self._first_s, self._is_restart_due = start_s - self.now_s, start_s, False
        return self._zero_s

    def _silence(self, num_samples: int, num_channels: int) -> Iterator[np.ndarray]:
        if num_samples <= 0:
            return
        self._num_silent += num_samples
        if self._num_silent > _MAX_SILENCE_S * self.rate_hz:
            raise AudioError(
                f"{self._name} must have at most {_MAX_SILENCE_S / 3600:g} hours without audio, but has timestamps "
                f"{num_samples / self.rate_hz / 3600:.1f} hours apart at {self.now_s:.2f} s; they are damaged: convert the "
                "file to WAV or FLAC"
            )
        self.num_samples += num_samples
        for start in range(0, num_samples, _SILENT_FRAMES):
            yield np.zeros((min(_SILENT_FRAMES, num_samples - start), num_channels), np.float32)


def places(holes: list[tuple[float, float]]) -> str:
    """A text that lists damaged stretches: adjacent ones are merged, and only the first ten are listed."""
    joined: list[tuple[float, float]] = []
    for start_s, end_s in holes:
        if joined and start_s - joined[-1][1] < _TOLERANCE_S:
            joined[-1] = joined[-1][0], end_s
        else:
            joined.append((start_s, end_s))
    listed = ", ".join(f"{start_s:.2f} to {end_s:.2f} s" for start_s, end_s in joined[:_MAX_LISTED])
    return listed if len(joined) <= _MAX_LISTED else f"{listed} and {len(joined) - _MAX_LISTED} more places"
