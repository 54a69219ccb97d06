"""Contract: models of other kinds are refused by their name, with what to do, whatever else is missing in them."""

from pathlib import Path

import pytest
import torch

from tests.hub.icefall_models import icefall_state_dict
from tests.hub.published_layouts import model_of, sentencepiece_model, write
from zipasr.errors import CheckpointError
from zipasr.hub import convert, find_local, load_icefall, model_from_icefall

ZIPFORMER_1 = (
    "encoder_embed.conv.0.weight",
    "encoder.encoders.0.layers.0.self_attn.in_proj.weight",
    "encoder.encoders.0.layers.0.self_attn.linear_pos.weight",
    "encoder.encoders.0.layers.0.feed_forward1.in_proj.weight",
    "encoder.encoders.0.layers.0.norm_final.eps",
    "encoder.encoders.1.encoder.layers.0.pooling.proj.weight",
    "decoder.embedding.weight",
    "joiner.encoder_proj.weight",
)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ZIPFORMER_1,
            r"is of a Zipformer 1 \(icefall's pruned_transducer_stateless7 .*self_attn\.in_proj.*\); run its ONNX",
        ),
        (ZIPFORMER_1[5:], "is of a Zipformer 1"),
        (("encoder.encoder_embed.out.weight", "encoder.encoder.layers.0.self_attn.pos_bias_u"), "is of a Conformer"),
        (("encoder.layers.0.self_attn.linear_pos.weight", "encoder_embed.conv.0.weight"), "is of a Conformer"),
        (("encoder.encoder.emformer_layers.0.attention.emb_to_query.weight",), "is of an Emformer"),
        (("encoder.encoder.layers.0.lstm.weight_ih_l0", "encoder.encoder_embed.conv.0.weight"), "is of an LSTM"),
        (("encoder.blocks.0.attn.query.weight", "decoder.token_embedding.weight"), "is of a Whisper"),
        (("model.encoder.layers.0.self_attn.k_proj.weight",), "is of a Whisper"),
        (("wav2vec2.encoder.layers.0.attention.k_proj.weight",), "is of a wav2vec 2.0"),
        (("preprocessor.featurizer.window", "encoder.layers.0.norm_out.weight"), "is of a model of NeMo"),
        (("encoder.encoders.0.self_attn.linear_q.weight",), "is of a model of WeNet, ESPnet or FunASR"),
    ],
)
def test_other_models_are_named(tmp_path: Path, keys: tuple[str, ...], message: str) -> None:
    tensors = {key: torch.zeros(2, 2) for key in keys}
    with pytest.raises(CheckpointError, match=message):
        model_from_icefall(tensors)
    with pytest.raises(CheckpointError, match=message):
        model_from_icefall({f"module.{key}": tensor for key, tensor in tensors.items()})
    files = {"exp/pretrained.pt": {"model": tensors}, "data/lang_bpe_40/bpe.model": sentencepiece_model()}
    root = write(tmp_path / "repository", files)
    with pytest.raises(CheckpointError, match=rf"pretrained\.pt: .*{message}"):
        convert(*find_local(root), tmp_path / "out")
    with pytest.raises(CheckpointError, match=message):
        load_icefall(root / "exp" / "pretrained.pt", root / "data" / "lang_bpe_40")
    assert not (tmp_path / "out").exists()


def test_an_encoder_without_heads(tmp_path: Path) -> None:
    """As AudenAI's encoders, which have the same names in config.json and no vocabulary."""
    tensors = {
        key: t for key, t in icefall_state_dict(model_of(40)).items() if key.startswith(("encoder.", "encoder_embed."))
    }
    root = write(tmp_path / "repository", {"model.pt": {"model": tensors}, "config.json": '{"model_type": "zipformer"}'})
    with pytest.raises(CheckpointError, match=r"must have its vocabulary .* An encoder without heads, such as AudenAI's"):
        find_local(root)
    write(root, {"bpe.model": sentencepiece_model()})
    with pytest.raises(
        CheckpointError, match=r"only an encoder \(as AudenAI's do\).* take the checkpoint of a whole recognizer"
    ):
        convert(*find_local(root), tmp_path / "out")


def test_a_transducer_without_its_joiner(tmp_path: Path) -> None:
    tensors = {key: t for key, t in icefall_state_dict(model_of(40)).items() if not key.startswith("joiner.")}
    with pytest.raises(CheckpointError, match=r"there is no joiner\.encoder_proj\.weight in the checkpoint"):
        model_from_icefall(tensors)
