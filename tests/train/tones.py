"""A language of tones, and a model that learns it in seconds, for tests that train.

A word is two tones of 0.15 s, so an utterance of three words lasts about a second.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile
import torch

from zipasr.data.batching import BatchConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrConfig, AsrModel
from zipasr.search.comparison import ComparedSearch
from zipasr.search.edits import ErrorRates, Errors
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TokenizerConfig, TrainConfig
from zipasr.train.validation import Validation

RATE_HZ = 16_000
WORDS = {"LO": (300, 500), "MID": (900, 700), "HI": (2000, 2600), "UP": (400, 3000), "DOWN": (3000, 600)}
"""The frequencies of each word, in Hz."""
NEW_WORDS = {"FAR": (1500, 800), "NEAR": (600, 1800), "EAST": (2500, 1200)}
"""Other words. Of the 11 entries of their tokenizer, 5 are also among the 14 of the old words: the special ones, ▁ and N."""


def say(
    words: list[str], generator: np.random.Generator, sounds: Mapping[str, tuple[int, int]] = MappingProxyType(WORDS)
) -> np.ndarray:
    """Samples (samples,) of the words with a little noise."""
    parts = [np.zeros(800)]
    time_s = np.arange(round(0.15 * RATE_HZ)) / RATE_HZ
    for word in words:
        parts += [0.3 * np.sin(2 * np.pi * freq_hz * time_s) * np.hanning(len(time_s)) for freq_hz in sounds[word]]
        parts.append(np.zeros(int(generator.integers(400, 1200))))
    samples = np.concatenate([*parts, np.zeros(1600)])
    return (samples + 0.001 * generator.standard_normal(len(samples))).astype(np.float32)


def cut_of(path: Path, text: str) -> Any:
    """A lhotse cut of a whole recording."""
    from lhotse import MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(path, recording_id=path.stem)
    supervision = SupervisionSegment(path.stem, path.stem, 0.0, recording.duration, text=text)
    return MonoCut(path.stem, 0.0, recording.duration, 0, supervisions=[supervision], recording=recording)


def write_cuts(path: Path, cuts: list[Any]) -> None:
    """Write a manifest."""
    from lhotse import CutSet

    CutSet.from_cuts(cuts).to_file(path)


def write_tones(
    folder: Path,
    *,
    num_train: int = 60,
    num_dev: int = 12,
    sounds: Mapping[str, tuple[int, int]] = MappingProxyType(WORDS),
    prefix: str = "",
) -> Path:
    """A data folder as `zipasr prepare` writes it, the same every time; the names of utterances start with `prefix`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, number in (("train", num_train), ("dev", num_dev)):
        cuts = []
        for i in range(number):
            words = [str(word) for word in generator.choice(list(sounds), size=generator.integers(1, 4))]
            path = folder / f"{prefix}{split}{i:03d}.flac"
            soundfile.write(path, say(words, generator, sounds), RATE_HZ)
            cuts.append(cut_of(path, " ".join(words)))
        write_cuts(folder / f"{split}_cuts.jsonl.gz", cuts)
    return folder


def minute_config(data: Path | str = "", **changes: Any) -> TrainConfig:
    """A run whose steps take 50 ms, with two stacks and 60 thousand parameters."""
    encoder = ZipformerConfig(
        conv_channels=(4, 8, 16),
        channels=(32, 32),
        unmasked_channels=(32, 32),
        num_layers=(1, 1),
        downsample=(1, 2),
        feedforward=(64, 64),
        num_heads=(2, 2),
        kernel_sizes=(7, 7),
        query_head_dim=8,
        value_head_dim=8,
        pos_dim=16,
    )
    config = TrainConfig(
        data=str(data),
        model=AsrConfig(encoder=encoder, transducer=TransducerConfig(predictor_dim=32, joiner_dim=32), ctc=CtcConfig()),
        tokenizer=TokenizerConfig(kind="char", vocab_size=20),
        batch=BatchConfig(max_duration_s=12.0, num_buckets=2, speed_factors=(1.0,), cache_mb=32),
        num_epochs=2,
        lr_batches=1000.0,
        lr_epochs=1000.0,
        lr_warmup_batches=10.0,
        lr_warmup_start=0.1,
        loss_warmup_batches=20.0,
        ref_duration_s=0.03,  # so that dropout is at its final rate in the first batch
        min_duration_s=0.1,
        average_period=2,
        valid_interval=1000,
        save_interval=1000,
        log_interval=5,
        device="cpu",
        num_workers=0,
    )
    return dataclasses.replace(config, **changes)


def without_heads(config: TrainConfig, *, has_transducer: bool, has_ctc: bool) -> TrainConfig:
    """The same run without one of its heads."""
    off: dict[str, None] = {} if has_transducer else {"transducer": None}
    off |= {} if has_ctc else {"ctc": None}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **off))


def with_attention(config: TrainConfig) -> TrainConfig:
    """The same run with an attention decoder as small as the rest."""
    attention = AttentionConfig(num_layers=1, dim=32, attention_dim=32, num_heads=2, feedforward=64)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention=attention))


@functools.cache
def minute_model(seed: int = 0, vocab_size: int = 14) -> AsrModel:
    """The model of `minute_config`, untrained."""
    torch.manual_seed(seed)
    return AsrModel(dataclasses.replace(minute_config().model, vocab_size=vocab_size))


def validation_of(*, wer: float) -> Validation:
    """The result of a validation whose only search has this error rate in percent, over ten words."""
    errors = Errors(substitutions=round(wer / 10), num_reference=10)
    search = ComparedSearch(search=SearchConfig(method="greedy"), errors=ErrorRates(errors, errors), decode_s=0.0)
    return Validation({"wer": wer}, [search], 1, True)


def vocabulary(words: Any) -> Tokenizer:
    """A tokenizer of the characters in the words."""
    return Tokenizer.train(list(words), kind="char", vocab_size=None)
