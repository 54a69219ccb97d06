"""The quick start: 17 minutes of telephone prompts by one speaker, on two CPU cores.

    zipasr prepare prompts --out data/prompts
    zipasr train prompts:tiny --out exp/quickstart

The measured error rate, with machine and date, is in the README. `zipasr train DATA_DIR` uses this recipe for other data.
"""

from zipasr.data.augment import SpecAugmentConfig
from zipasr.data.batching import BatchConfig
from zipasr.model import tiny as tiny_model
from zipasr.train.config import TokenizerConfig, TrainConfig


def tiny() -> TrainConfig:
    """The `tiny` model with transducer and CTC, for less than an hour of speech."""
    return TrainConfig(
        data="data/prompts",
        model=tiny_model(),
        tokenizer=TokenizerConfig(kind="unigram", vocab_size=150),
        batch=BatchConfig(
            max_duration_s=60.0,
            num_buckets=4,
            concat_prob=0.5,
            concat_max_s=8.0,
            spec_augment=SpecAugmentConfig(time_warp_frames=20, time_mask_frames=30),
            cache_mb=512,
        ),
        num_epochs=20,
        lr=0.045,
        lr_batches=600.0,
        lr_epochs=1000.0,
        lr_warmup_batches=50.0,
        loss_warmup_batches=200.0,
        ref_duration_s=4.0,
        min_duration_s=0.3,
        max_duration_s=30.0,
        average_period=10,
        average_share=0.2,
        valid_interval=200,
        save_interval=100,
        log_interval=20,
        num_workers=0,
    )
