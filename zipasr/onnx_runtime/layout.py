"""The contents of an exported folder: `ExportedConfig`, the JSON document that describes it."""

from dataclasses import dataclass, field
from typing import Literal

from zipasr.features import FbankConfig

EXPORT_FILE = "export.json"
"""Document of an exported folder: an `ExportedConfig`."""
HIDDEN_FRAMES = "frames"
"""Name of the encoder frames before the joiner's projection, inside an encoder's graph."""
VALID_FEATURES = "x_lens"
"""Optional input (N,) of a streaming graph: the number of valid features in each window, by default all. sherpa-onnx pads
the last window with silence and does not use it."""

Precision = Literal["float32", "float16", "int8"]
"""Precision of the graphs of an exported folder."""


@dataclass(frozen=True, kw_only=True)
class ExportedFiles:
    """Names of the graphs of an exported folder; None for a head that the model lacks.

    In streaming graphs, encoder and ctc take a window, the state of the streams and `VALID_FEATURES`, and return the state
    for the next chunk after their first output.
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
    """frames (N, T', D) -> log_probs; only together with a transducer."""

    def named(self) -> dict[str, str]:
        """The names of the graphs that there are, by field."""
        return {part: name for part, name in vars(self).items() if name is not None}


@dataclass(frozen=True, kw_only=True)
class ExportedConfig:
    """The description of an exported folder: its graphs, their sizes and the features they take."""

    files: ExportedFiles
    """The graphs."""
    precision: Precision = "float32"
    """Precision of the encoder's weights."""
    blank_id: int = 0
    """Id of the blank."""
    context_size: int = 0
    """Number of previous labels that the decoder takes; 0 without a transducer."""
    joiner_dim: int = 0
    """Width J of the joiner; 0 without a transducer."""
    features: FbankConfig = field(default_factory=FbankConfig)
    """Feature configuration of the model."""
    chunk_frames_50hz: int | None = None
    """Frames per chunk at 50 Hz in streaming graphs; None for graphs of whole utterances."""
    left_context_frames_50hz: int | None = None
    """Frames of left context that attention sees in streaming graphs; None for graphs of whole utterances."""
