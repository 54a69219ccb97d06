"""The Zipformer encoder: features (N, T, F) at 100 Hz -> `Encoded` frames (N, T', D) at 25 Hz. It needs torch alone.

`Zipformer(ZipformerConfig())` is the published medium encoder. A causal one also encodes chunk by chunk: `StreamState`
holds what it remembers, and `WindowBuffer` cuts incoming features into the windows of the chunks.
"""

from zipasr.encoder.ablation import AblationConfig
from zipasr.encoder.frontend import ConvEmbed
from zipasr.encoder.layer import Bypass, LayerShape, ZipformerLayer
from zipasr.encoder.stack import Downsample, ZipformerStack, upsample
from zipasr.encoder.state import StreamState
from zipasr.encoder.window import WindowBuffer
from zipasr.encoder.zipformer import Zipformer, ZipformerConfig

__all__ = [
    "AblationConfig",
    "Bypass",
    "ConvEmbed",
    "Downsample",
    "LayerShape",
    "StreamState",
    "WindowBuffer",
    "Zipformer",
    "ZipformerConfig",
    "ZipformerLayer",
    "ZipformerStack",
    "upsample",
]
