"""Recipes of runs that finetuning tests start, small enough to train in seconds."""

import dataclasses
from pathlib import Path
from typing import Any

from tests.train.tones import minute_config, without_heads
from zipasr.train.config import TrainConfig


def ctc_recipe(data: Path | str, **changes: Any) -> TrainConfig:
    """A run of 9 s on the old words or 3 s on others, with a CTC head only; it reaches 0 % WER on the old words."""
    batch = dataclasses.replace(minute_config().batch, max_duration_s=6.0, spec_augment=None)
    config = minute_config(data, batch=batch, num_epochs=15, lr=0.08, save_interval=20, average_share=0.15)
    return dataclasses.replace(without_heads(config, has_transducer=False, has_ctc=True), **changes)


def transducer_recipe(data: Path) -> TrainConfig:
    """A run of two epochs with a transducer head only."""
    return without_heads(minute_config(data, num_epochs=2), has_transducer=True, has_ctc=False)
