"""Folders as published: small models with random weights under the original's names, each with its vocabulary and "
"settings."""

import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor

from tests.hub.icefall_models import icefall_state_dict, small_model
from zipasr.heads.attention import AttentionConfig
from zipasr.model import AsrModel

WORDS = ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", "PACK MY BOX WITH FIVE DOZEN JUGS", "ONE TWO THREE FOUR")
MODEL_YAML = """
model_type: zipformer-transducer
library_name: k2
file: model.pt
tokenizer: bpe.model
min_encoder_input_frames: 9
decoding: {beam_size: 6}
feature_opts:
  frame_opts: {samp_freq: 16000, frame_shift_ms: 10, dither: 0, preemph_coeff: 0.97, window_type: povey, snip_edges: false}
  mel_opts: {num_bins: 80, low_freq: 20, high_freq: 7600}
model_params:
  num_encoder_layers: "1,2"
  encoder_dim: "32,48"
  encoder_unmasked_dim: "32,32"
  num_heads: "2,4"
  query_head_dim: "8,16"
  value_head_dim: "6"
  pos_head_dim: "4"
  causal: false
  context_size: 2
  use_transducer: true
  use_ctc: false
"""
"""Of soundsgoodai, for the model of `soundsgoodai_folder`."""


def model_of(vocab_size: int, *, heads: Sequence[str] = ("transducer", "ctc"), **settings: Any) -> AsrModel:
    """A small model with these heads; `settings` are those of `small_model`."""
    config = dataclasses.replace(small_model(**settings).config, vocab_size=vocab_size)
    attention = AttentionConfig(num_layers=1, dim=64, attention_dim=64, num_heads=1, feedforward=32)
    config = dataclasses.replace(
        config,
        transducer=config.transducer if "transducer" in heads else None,
        ctc=config.ctc if "ctc" in heads else None,
        attention=attention if "attention" in heads else None,
    )
    torch.manual_seed(1)
    return AsrModel(config).eval()


@functools.cache
def sentencepiece_model(vocab_size: int = 40, *, is_unknown_last: bool = False, has_bytes: bool = False) -> bytes:
    """A model as the recipes train it, with `<blk>`, `<sos/eos>` and `<unk>` first; or with `<unk>` last, as "
    "soundsgoodai's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size + 256 * has_bytes,
        character_coverage=1.0,
        byte_fallback=has_bytes,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return with_unknown_last(model.getvalue()) if is_unknown_last else model.getvalue()


def with_unknown_last(model: bytes) -> bytes:
    """The same model with `<unk>` as its last piece; pieces are the fields of number 1 (key 0x0A) at its start."""
    pieces, position = [], 0
    while model[position] == 0x0A:
        end = position + 2 + model[position + 1]
        pieces.append(model[position:end])
        position = end
    unknown = next(piece for piece in pieces if b"<unk>" in piece)
    return b"".join([*(piece for piece in pieces if piece is not unknown), unknown, model[position:]])


def write(root: Path, files: dict[str, bytes | str | dict[str, Any]]) -> Path:
    """Write files: texts, bytes, and checkpoints of `torch.save`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            torch.save(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def icefall_folder(root: Path, model: AsrModel, vocabulary: bytes, name: str = "lang_bpe_40/bpe.model") -> Path:
    """A repository of icefall's form."""
    train = "./zipformer/train.py \\\n  --world-size 4 --causal 0 \\\n  --use-ctc 1\n"
    files = {"exp/pretrained.pt": {"model": icefall_state_dict(model)}, f"data/{name}": vocabulary, "exp/train.sh": train}
    return write(root, {**files, "exp/jit_script.pt": b"PK", "data/lang_bpe_40/HLG.pt": b"PK", "README.md": "# Model"})


def authors_vocabulary(pieces: Sequence[str]) -> str:
    """A vocabulary of the authors' package: special pieces, bytes, and these."""
    special = ["<blk>", "<sos>", "<eos>", "<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    scores = [0.0] * len(special) + [-2.0 - 0.1 * i for i in range(len(pieces))]
    return "".join(f"{piece}\t{score:g}\n" for piece, score in zip([*special, *pieces], scores, strict=True))


def authors_folder(root: Path, model: AsrModel, vocabulary: str) -> Path:
    """A repository of the authors' package."""
    files = {"model.pt": {"model": icefall_state_dict(model)}, "data/zh-en-300.vocab": vocabulary}
    tokens = "".join(f"{line.split(chr(9))[0]} {i}\n" for i, line in enumerate(vocabulary.splitlines()))
    return write(root, {**files, "data/tokens.txt": tokens, "jit_model.pt": b"PK"})


def soundsgoodai_model(**settings: Any) -> AsrModel:
    """A model whose heads have other widths than the published ones, and 39 outputs for 40 pieces."""
    return model_of(39, heads=("transducer",), num_heads=(2, 4), head_dims=((8, 16), 6, 4), **settings)


def soundsgoodai_folder(root: Path, model: AsrModel, model_yaml: str = MODEL_YAML) -> Path:
    """A repository of soundsgoodai's form."""
    files: dict[str, Any] = {"model.pt": {"model": icefall_state_dict(model)}, "config.yaml": model_yaml}
    files |= {"bpe.model": sentencepiece_model(is_unknown_last=True), "tokens.txt": "<blk> 0\n<unk> 39\n"}
    return write(root, files)


def same_numbers(ours: AsrModel, theirs: AsrModel) -> None:
    """Check that two models compute the same, bit by bit, with every head."""
    generator = torch.Generator().manual_seed(3)
    features, lens = torch.randn(2, 70, 80, generator=generator), torch.tensor([70, 51])
    labels, label_lens = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    with torch.no_grad():
        first, second = (results(model, features, lens, labels, label_lens) for model in (ours, theirs))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, second[name]), name


def results(model: AsrModel, features: Tensor, lens: Tensor, labels: Tensor, label_lens: Tensor) -> dict[str, Tensor]:
    """The frames of a model and the scores of its heads."""
    encoded = model.encode(features, lens)
    found = {"frames": encoded.frames, "lens": encoded.lens}
    if model.has_transducer:
        contexts = torch.full((1, model.context_size), 5)
        found["joiner"] = model.join(model.project_frames(encoded.frames), model.predict(contexts))
    if model.has_ctc:
        found["ctc"] = model.ctc_log_probs(encoded.frames)
    if model.has_attention:
        found["attention"] = model.attention_log_probs(encoded, labels[:, None], label_lens[:, None])
    return found
