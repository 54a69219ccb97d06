"""Causal models and recognizers with random weights, for streams."""

import dataclasses
import functools
from typing import Any

from tests.tiny_model import sharpened_model, tiny_tokenizer
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
