"""Checkpoints of models that are no Zipformer 2: known by the names of their tensors, and refused with what to do."""

import re
from collections.abc import Iterable

from zipasr.errors import CheckpointError

_ELSEWHERE = "run its ONNX graphs with sherpa-onnx, or take a model of the zipformer recipes"
_OTHERS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"encoder\.encoders\.\d+\.(encoder\.)?layers\.\d+\.(self_attn|pooling|norm_final)\."),
        "a Zipformer 1 (icefall's pruned_transducer_stateless7 and 8, zipformer_ctc), whose blocks are different",
        "run its ONNX graphs, which zipasr opens (zipasr transcribe FOLDER a.wav), or take a model of the zipformer recipes",
    ),
    (re.compile(r".*\.emformer_layers\..*"), "an Emformer", _ELSEWHERE),
    (re.compile(r".*\.(pos_bias_u|linear_pos\.weight)"), "a Conformer", _ELSEWHERE),
    (re.compile(r"encoder\..*\.(lstm|rnn)\."), "an LSTM", _ELSEWHERE),
    (
        re.compile(r"(model\.)?(encoder|decoder)\.(blocks|layers)\.\d+\.(attn|self_attn)\.(query|k_proj)\."),
        "a Whisper",
        _ELSEWHERE,
    ),
    (re.compile(r"(model\.)?(wav2vec2|hubert|wavlm|data2vec_audio)\."), "a wav2vec 2.0 or one of its relatives", _ELSEWHERE),
    (re.compile(r"preprocessor\.featurizer\."), "a model of NeMo", _ELSEWHERE),
    (re.compile(r"encoder\.encoders0?\.\d+\.(self_attn|feed_forward)\."), "a model of WeNet, ESPnet or FunASR", _ELSEWHERE),
)
_ZIPFORMER_2 = re.compile(r"encoder\.encoders\.\d+\.(encoder\.)?layers\.\d+\.self_attn_weights\.")
_HEADS = ("decoder.", "ctc_output.", "attention_decoder.")


def refuse_other_models(keys: Iterable[str]) -> None:
    """Raise if names of tensors are those of a model of another kind.

    Raises:
        CheckpointError: they are; the message names the kind.
    """
    names = [key.removeprefix("module.") for key in keys]
    if any(map(_ZIPFORMER_2.match, names)):
        if not any(name.startswith(_HEADS) for name in names):
            raise CheckpointError(
                "the checkpoint must have heads, but has only an encoder (as AudenAI's do): there is no decoder, ctc_output "
                "or attention_decoder in the checkpoint, so that it gives no text; take the checkpoint of a whole recognizer"
            )
        return
    for pattern, kind, cure in _OTHERS:
        if found := next(filter(pattern.match, names), None):
            raise CheckpointError(f"the checkpoint must be of a Zipformer 2, but is of {kind} (it has {found}); {cure}")
