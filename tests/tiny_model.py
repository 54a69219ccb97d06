"""A whole recognizer with random weights, small enough for every test that needs one."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.model import AsrConfig, AsrModel, tiny
from zipasr.recognizer import Recognizer, SearchConfig
from zipasr.tokenizer import Tokenizer

TEXTS = ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", "PACK MY BOX WITH FIVE DOZEN JUGS", "ONE TWO THREE FOUR")


@functools.cache
def tiny_tokenizer() -> Tokenizer:
    """A tokenizer of letters and a few pieces."""
    return Tokenizer.train(TEXTS, kind="bpe", vocab_size=48)


def tiny_config(vocab_size: int | None = None) -> AsrConfig:
    """The preset `tiny` with half its stacks, and narrower ones, enough for tests of anything but the encoder."""
    preset = tiny()
    assert isinstance(preset.encoder, ZipformerConfig)
    encoder = dataclasses.replace(
        preset.encoder,
        downsample=(1, 4, 2),
        channels=(32, 64, 48),
        unmasked_channels=(32, 48, 32),
        num_layers=(1, 1, 1),
        feedforward=(64, 128, 96),
        num_heads=(2, 4, 2),
        kernel_sizes=(15, 15, 15),
    )
    return dataclasses.replace(preset, vocab_size=vocab_size or tiny_tokenizer().vocab_size, encoder=encoder)


def tiny_asr_model(
    seed: int = 11,
    *,
    has_transducer: bool = True,
    has_ctc: bool = True,
    has_attention: bool = False,
    vocab_size: int | None = None,
) -> AsrModel:
    """A model of `tiny_config` with random weights, its joiner sharpened so that it emits tokens, here several words."""
    config = tiny_config(vocab_size)
    if not has_transducer:
        config = dataclasses.replace(config, transducer=None)
    if not has_ctc:
        config = dataclasses.replace(config, ctc=None)
    if has_attention:
        attention = AttentionConfig(num_layers=2, dim=32, attention_dim=32, num_heads=4, feedforward=64)
        config = dataclasses.replace(config, attention=attention)
    return sharpened_model(config, seed)


def sharpened_model(config: AsrConfig, seed: int) -> AsrModel:
    """A model with random weights, in eval mode, its joiner sharpened so that it emits tokens."""
    torch.manual_seed(seed)
    model = AsrModel(config).eval()
    if model.transducer is not None:
        with torch.no_grad():
            model.transducer.joiner.output.weight.mul_(20)
    return model


@functools.cache
def tiny_recognizer(method: str = "auto") -> Recognizer:
    """A recognizer with `tiny_asr_model`, with an attention decoder where the search needs one."""
    model = tiny_asr_model(has_attention=method == "attention_rescoring")
    return Recognizer(model, tiny_tokenizer(), search=SearchConfig(method=method))


def save_tiny(folder: Path, **heads: bool) -> Path:
    """The folder that holds `tiny_asr_model` and its tokenizer."""
    return tiny_asr_model(**heads).save(folder, tiny_tokenizer())


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    """Samples (samples,) at 16 kHz whose level goes up and down, the same in every run."""
    generator = np.random.default_rng(seed)
    num_samples = round(duration_s * 16_000)
    envelope = 0.2 * np.sin(np.arange(num_samples) / 16_000 * (3 + seed)) ** 2
    return (envelope * generator.standard_normal(num_samples)).astype(np.float32)
