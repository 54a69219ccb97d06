"""Causal models and recognizers with random weights, for streams."""

import copy
import dataclasses
import functools
from typing import Any

import torch

from tests.tiny_model import noise, sharpened_model, tiny_tokenizer
from zipasr.heads.attention import AttentionConfig
from zipasr.model import AsrModel, tiny
from zipasr.recognizer import Recognizer, SearchConfig


@functools.cache
def causal_model(*, has_transducer: bool = True, has_attention: bool = False, **encoder: Any) -> AsrModel:
    """The tiny preset as a causal model with random weights, its joiner sharpened so that it emits tokens."""
    settings = dataclasses.replace(tiny().encoder, is_causal=True, **encoder)
    config = dataclasses.replace(tiny(), vocab_size=tiny_tokenizer().vocab_size, encoder=settings)
    if not has_transducer:
        config = dataclasses.replace(config, transducer=None)
    if has_attention:
        attention = AttentionConfig(num_layers=1, dim=32, attention_dim=32, num_heads=2, feedforward=64)
        config = dataclasses.replace(config, attention=attention)
    return sharpened_model(config, seed=0)


@functools.cache
def causal_recognizer(method: Any = "auto", max_symbols_per_frame: int = 1) -> Recognizer:
    """A recognizer with `causal_model`."""
    search = SearchConfig(method=method, max_symbols_per_frame=max_symbols_per_frame)
    return Recognizer(causal_model(), tiny_tokenizer(), search=search)


KEYWORDS = ("▁JU ▁JU @TWICE", "▁O @OH", "▁JU ▁O J @LONG", "▁JU CK @JUCK")
"""Keywords in tokens that `pausing_model` emits in noise, some of them with a score above 0.55."""
RECORDINGS = (noise(4.0, seed=1), noise(2.5, seed=2), noise(5.2, seed=3))


@functools.cache
def pausing_model() -> AsrModel:
    """`causal_model` with blanks between its tokens, as keywords need."""
    model = copy.deepcopy(causal_model())
    assert model.transducer is not None
    with torch.no_grad():
        model.transducer.joiner.output.bias[model.blank_id] += 14.0
    return model


@functools.cache
def pausing_recognizer() -> Recognizer:
    """A recognizer with `pausing_model`."""
    return Recognizer(pausing_model(), tiny_tokenizer())
