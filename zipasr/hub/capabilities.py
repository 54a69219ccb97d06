"""What zipasr can do with a model, by its kind: `capabilities(kind, model)`; docs/models.md shows the same as a table.

A test tries every cell of the table with a small model of the kind (tests/test_model_kinds.py).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.features import FbankConfig
from zipasr.hub.description import ModelDescription

ABILITIES = ("loads", "decodes offline", "streams", "hotwords", "finetunes", "exports")
"""What a model may be able to do, in the order of the table."""


class Condition(NamedTuple):
    """When a kind of model can do something."""

    cell: str
    """What the table says."""
    holds: Callable[[ModelDescription], bool]
    """Whether this model can."""
    why_not: str = ""
    """Why a model cannot, and what to do."""


class Capability(NamedTuple):
    """Whether a model can do something; if not, why, and what to do."""

    can: bool
    why_not: str = ""


class Kind(NamedTuple):
    """A kind of model."""

    title: str
    """What the table calls it."""
    conditions: tuple[Condition, ...]
    """One for each of `ABILITIES`."""


def _is_exportable(model: ModelDescription) -> bool:
    published = FbankConfig(kind=model.features.kind)
    is_whole_or_causal = model.features.kind == "kaldi" or model.is_causal
    return model.encoder.kind == ZipformerConfig.kind and model.features == published and is_whole_or_causal


_YES = Condition("yes", lambda model: True)
_CAUSAL = Condition("if causal", lambda model: model.is_causal, "it is not causal: it needs whole recordings")
_CHUNKED = Condition(
    "if exported in chunks", lambda model: model.is_causal, "its graphs take whole recordings: take graphs of chunks"
)
_SPELLED = Condition(
    "if its vocabulary can spell",
    lambda model: model.vocabulary.can_encode,
    "its vocabulary can only decode: put its bpe.model, bbpe.model or .vocab beside tokens.txt, or convert it with "
    "--tokenizer FILE",
)
_TRAINED = Condition(
    "if its vocabulary can spell",
    lambda model: model.vocabulary.can_encode,
    "its vocabulary cannot spell the texts to train on: learn a new one (--set finetune.vocabulary=new)",
)
_EXPORTABLE = Condition(
    "if its filterbank is published",
    _is_exportable,
    "export writes Zipformers with the published filterbank (Whisper's only in chunks)",
)
_NO_TRAINING = Condition(
    "no", lambda model: False, "graphs cannot be trained: take the checkpoint that they were exported from"
)
_EXPORTED = Condition("no", lambda model: False, "it is exported already")

_PYTORCH = (_YES, _YES, _CAUSAL, _SPELLED, _TRAINED, _EXPORTABLE)
_GRAPHS = (_YES, _YES, _CHUNKED, _SPELLED, _NO_TRAINING, _EXPORTED)
_REFUSED = (Condition("no", lambda model: False),) * len(ABILITIES)

KINDS: Mapping[str, Kind] = {
    "zipasr": Kind("a model folder or run of zipasr", _PYTORCH),
    "zipasr export": Kind("an exported folder of zipasr", _GRAPHS),
    "icefall": Kind("icefall's checkpoints", _PYTORCH),
    "authors": Kind("checkpoints of the authors' `zipformer` package", _PYTORCH),
    "soundsgoodai": Kind("soundsgoodai's checkpoints", _PYTORCH),
    "onnx transducer": Kind("ONNX graphs of a transducer (icefall, sherpa-onnx)", _GRAPHS),
    "onnx ctc": Kind("ONNX graphs of a CTC model (icefall, sherpa-onnx)", _GRAPHS),
    "onnx zipformer 1": Kind("ONNX graphs of Zipformer 1", _GRAPHS),
    "vosk": Kind("Vosk's models (0.52 and later)", _GRAPHS),
    "keywords": Kind("keyword models of sherpa-onnx", _GRAPHS),
    "zipformer 1": Kind("PyTorch checkpoints of Zipformer 1", _REFUSED),
    "other": Kind("checkpoints of Conformers and other encoders", _REFUSED),
    "torchscript": Kind("TorchScript (`jit_script.pt`)", _REFUSED),
}
"""All kinds of models, those that are refused last."""


def capabilities(kind: str, model: ModelDescription) -> dict[str, Capability]:
    """What zipasr can do with a model of a kind, for each of `ABILITIES`."""
    found = {}
    for ability, condition in zip(ABILITIES, KINDS[kind].conditions, strict=True):
        can = condition.holds(model)
        found[ability] = Capability(can, "" if can else condition.why_not)
    return found
