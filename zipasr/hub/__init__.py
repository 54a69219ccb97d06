"""Models from elsewhere as ours: checkpoints of icefall's Zipformer recipes, and the vocabularies that go with them."""

from zipasr.hub.interop import load_icefall, model_from_icefall, open_tokenizer
from zipasr.hub.names import original_key, rename_key, rename_layer_key, rename_state_dict

__all__ = [
    "load_icefall",
    "model_from_icefall",
    "open_tokenizer",
    "original_key",
    "rename_key",
    "rename_layer_key",
    "rename_state_dict",
]
