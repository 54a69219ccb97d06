"""Models from elsewhere as ours: references to the hub (`local_model`), and checkpoints of icefall and other projects."""

from zipasr.hub.interop import load_icefall, model_from_icefall
from zipasr.hub.known_models import KnownModel, PublishedRate, find_known, find_models, known_models, known_settings
from zipasr.hub.local import local_model, pinned
from zipasr.hub.names import original_key, rename_key, rename_layer_key, rename_state_dict
from zipasr.hub.reference import is_reference, model_name
from zipasr.hub.weights import open_tokenizer

__all__ = [
    "KnownModel",
    "PublishedRate",
    "find_known",
    "find_models",
    "is_reference",
    "known_models",
    "known_settings",
    "load_icefall",
    "local_model",
    "model_from_icefall",
    "model_name",
    "open_tokenizer",
    "original_key",
    "pinned",
    "rename_key",
    "rename_layer_key",
    "rename_state_dict",
]
