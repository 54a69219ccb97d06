"""A recording of any length, in blocks -> its transcript: cut into pieces, transcribed in batches, stitched together.

Memory holds a few pieces, whatever the length, and the transcript. The transcript of one hour does not depend on the hours
around it.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.recognizer.stitch import PlacedTranscript, stitch
from zipasr.transcript import Token, Transcript
from zipasr.vad import Detector, Piece, SpeechDetector, VadConfig, split_recording

_GROUP_S = 600.0
"""Audio of pieces that are transcribed together, 38 MB: sorted by length they make full batches."""


@dataclass(frozen=True, kw_only=True)
class LongRecordingConfig:
    """How recordings longer than a piece are cut."""

    max_piece_s: float = 30.0
    """Recordings up to this length are transcribed whole, longer ones in pieces of at most this length. About the longest
    utterance that a model is usually trained on; attention costs the square of it."""
    overlap_s: float = 4.0
    """Audio that two pieces share, at most, where speech had to be cut."""
    use_vad: bool | None = None
    """Whether to cut in pauses and drop silence, which needs the extra `vad`; otherwise pieces are overlapping windows.
    None: yes if the extra is installed."""
    vad: VadConfig = dataclasses.field(default_factory=VadConfig)
    """When audio counts as speech."""

    def __post_init__(self) -> None:
        self.vad.check_lengths(self.max_piece_s, self.overlap_s)

    def is_long(self, samples: np.ndarray) -> bool:
        """Whether samples (samples,) at 16 kHz are too long to be transcribed whole."""
        return len(samples) > self.max_piece_s * SAMPLE_RATE_HZ

    def pieces(self, blocks: Iterable[np.ndarray], detector: Detector | None) -> Iterator[Piece]:
        """The pieces of a recording, from its consecutive blocks; see `vad.split_recording`."""
        return split_recording(
            blocks, max_piece_s=self.max_piece_s, overlap_s=self.overlap_s, detector=detector, config=self.vad
        )

    def detector(self) -> Detector | None:
        """The detector of speech, or None for windows.

        Raises:
            ConfigError: voice activity detection was requested and is not installed.
        """
        if self.use_vad is False:
            return None
        is_installed = all(importlib.util.find_spec(name) is not None for name in ("silero_vad", "onnxruntime"))
        return SpeechDetector() if is_installed or self.use_vad else None


def transcribe_blocks(
    blocks: Iterable[np.ndarray],
    transcribe_many: Callable[[Sequence[np.ndarray]], Iterable[Transcript]],
    config: LongRecordingConfig,
    *,
    detector: Detector | None,
    joiner: str,
    group_s: float = _GROUP_S,
    on_progress: Callable[[float], None] | None = None,
    on_text: Callable[[str, Sequence[Token]], None] | None = None,
) -> Transcript:
    """The transcript of a recording of any length.

    Args:
        blocks: consecutive samples (samples,) float32 at 16 kHz.
        transcribe_many: a transcript for each of some pieces, in order; they are read one by one.
        detector: finds speech; None: windows.
        joiner: separator of words.
        group_s: audio that `transcribe_many` gets at once, at least; fewer seconds need less memory.
        on_progress: called with the seconds of the recording that are done, after each group of pieces.
        on_text: called with each further part of the text as soon as it is final; see `stitch`.
    Returns:
        The transcript, with times in the recording and without alternatives, which cannot be combined across pieces.
    """
    num_samples = num_pieces = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_samples
        for block in blocks:
            num_samples += len(block)
            yield block

    def placed(group: Sequence[Piece]) -> Iterator[PlacedTranscript]:
        nonlocal num_pieces
        num_pieces += len(group)
        for piece, transcript in zip(group, transcribe_many([piece.samples for piece in group]), strict=True):
            yield PlacedTranscript(transcript, piece.start_s, piece.overlap_s)
        if on_progress is not None and group:
            on_progress(group[-1].start_s + group[-1].duration_s)

    def all_placed() -> Iterator[PlacedTranscript]:
        group: list[Piece] = []
        for piece in config.pieces(counted(), detector):
            group.append(piece)
            if sum(piece.duration_s for piece in group) >= group_s:
                yield from placed(group)
                group = []
        yield from placed(group)

    transcript = stitch(all_placed(), joiner=joiner, on_text=on_text)
    if num_pieces > 1:  # what is measured under a graph is that of a piece
        transcript = dataclasses.replace(transcript, slots=None, shortfall=None)
    return dataclasses.replace(transcript, duration_s=num_samples / SAMPLE_RATE_HZ)
