"""What an exported folder holds: `ExportedConfig`, the JSON document in it."""

from dataclasses import dataclass, field
from typing import Literal

from zipasr.features import FbankConfig

EXPORT_FILE = "export.json"
"""Document of an exported folder: an `ExportedConfig`."""
HIDDEN_FRAMES = "frames"
"""Name, inside of an encoder's graph, of the encoder frames before the joiner's projection."""
VALID_FEATURES = "x_lens"
"""Input (N,) of a streaming graph that may be left out: the features of each window that are sound, by default all.
sherpa-onnx, which pads the last window with silence, does not know it."""

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExportedFiles:
    """Names of the graphs of an exported folder; None for a head that the model lacks.

    Where graphs hear chunks, encoder and ctc take a window, the memory of the streams and `VALID_FEATURES`, and give the
    memory for the next chunk after their first output.
    """

    encoder: str | None = None
    """x (N, T, F), x_lens -> encoder_out (N, T', J), already projected for the joiner, encoder_out_lens."""
    decoder: str | None = None
    """y (N, C) -> decoder_out (N, J)."""
    joiner: str | None = None
    """encoder_out, decoder_out (N, J) -> logit (N, V)."""
    ctc: str | None = None
    """x, x_lens -> log_probs (N, T', V), log_probs_len."""
    ctc_head: str | None = None
    """frames (N, T', D) -> log_probs; beside a transducer only."""


@dataclass(frozen=True, kw_only=True)
class ExportedConfig:
    """What an exported folder holds."""

    files: ExportedFiles
    """The graphs."""
    precision: Precision = "float32"
    """Of the encoder's weights."""
    context_size: int = 0
    """Labels that the decoder sees; 0 without a transducer."""
    joiner_dim: int = 0
    """Width J of the joiner; 0 without a transducer."""
    features: FbankConfig = field(default_factory=FbankConfig)
    """What the model listens to."""
    chunk_frames_50hz: int | None = None
    """Frames of a chunk at 50 Hz of streaming graphs; None for graphs of whole utterances."""
    left_context_frames_50hz: int | None = None
    """Frames before the chunk that are seen, likewise."""
