"""Models from elsewhere as ours: references to the hub (`local_model`), and checkpoints of icefall and other projects."""

from zipasr.hub.built_in import built_in_names, is_built_in, refuse_built_in
from zipasr.hub.checkpoint_files import CheckpointFiles, find_checkpoint
from zipasr.hub.conversion import MAX_CHECKPOINT_GB, OpenedCheckpoint, convert, open_checkpoint, shrink
from zipasr.hub.inspection import Inspection, inspect_model
from zipasr.hub.interop import load_icefall, model_from_icefall
from zipasr.hub.local import local_model, pinned
from zipasr.hub.local_files import find_local
from zipasr.hub.model_table import KnownModel, PublishedRate, find_known, find_models, known_models, known_settings
from zipasr.hub.names import original_key, rename_key, rename_layer_key, rename_state_dict
from zipasr.hub.origin import SOURCE_FILE, Origin, source_document
from zipasr.hub.reference import is_reference, model_name
from zipasr.hub.settings import ModelSettings, parse_sizes
from zipasr.hub.weights import open_tokenizer

__all__ = [
    "MAX_CHECKPOINT_GB",
    "SOURCE_FILE",
    "CheckpointFiles",
    "Inspection",
    "KnownModel",
    "ModelSettings",
    "OpenedCheckpoint",
    "Origin",
    "PublishedRate",
    "built_in_names",
    "convert",
    "find_checkpoint",
    "find_known",
    "find_local",
    "find_models",
    "inspect_model",
    "is_built_in",
    "is_reference",
    "known_models",
    "known_settings",
    "load_icefall",
    "local_model",
    "model_from_icefall",
    "model_name",
    "open_checkpoint",
    "open_tokenizer",
    "original_key",
    "parse_sizes",
    "pinned",
    "refuse_built_in",
    "rename_key",
    "rename_layer_key",
    "rename_state_dict",
    "shrink",
    "source_document",
]
