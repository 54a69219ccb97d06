"""Models from elsewhere as ours: checkpoints of icefall's Zipformer recipes, and the vocabularies that go with them."""

from zipasr.hub.interop import load_icefall, model_from_icefall
from zipasr.hub.known_models import KnownModel, PublishedRate, find_known, find_models, known_models, known_settings
from zipasr.hub.names import original_key, rename_key, rename_layer_key, rename_state_dict
from zipasr.hub.weights import open_tokenizer

__all__ = [
    "KnownModel",
    "PublishedRate",
    "find_known",
    "find_models",
    "known_models",
    "known_settings",
    "load_icefall",
    "model_from_icefall",
    "open_tokenizer",
    "original_key",
    "rename_key",
    "rename_layer_key",
    "rename_state_dict",
]
