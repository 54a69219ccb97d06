"""The tiny random model whose search results the golden files hold."""

from typing import Any

import torch
from torch import Tensor

from tests.golden_files import attention_config, encoder_config, load_golden, weights
from zipasr.checkpoint import load_weights
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.hub import rename_state_dict
from zipasr.model import AsrConfig, AsrModel
from zipasr.nn.encoded import Encoded


def golden_model() -> tuple[AsrModel, dict[str, Any], dict[str, Tensor]]:
    """The model in eval mode, the settings and the tensors of the file."""
    meta, tensors = load_golden("e_asr_model")
    config = AsrConfig(
        vocab_size=meta["vocab_size"],
        encoder=encoder_config(meta),
        transducer=TransducerConfig(predictor_dim=meta["decoder_dim"], joiner_dim=meta["joiner_dim"]),
        ctc=CtcConfig(),
        attention=attention_config(meta),
    )
    model = AsrModel(config).eval()
    load_weights(model, rename_state_dict(weights(tensors)), source="the golden file")
    return model, meta, tensors


def golden_encoded(tensors: dict[str, Tensor]) -> Encoded:
    """The original's encoder output."""
    return Encoded(tensors["out.encoder_out"], tensors["out.encoder_out_lens"])


def ragged(tensors: dict[str, Tensor], name: str) -> list[tuple[int, ...]]:
    """A list of sequences of different lengths."""
    pieces = torch.split(tensors[f"out.{name}.values"], tensors[f"out.{name}.lens"].tolist())
    return [tuple(piece.tolist()) for piece in pieces]
