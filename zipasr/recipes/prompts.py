"""The quick start: 17 minutes of telephone prompts by one speaker, on two CPU cores.

    zipasr prepare prompts --out data/prompts
    zipasr train prompts:tiny --out exp/quickstart

The measured error rate, with machine and date, is in docs/benchmarks.md. `zipasr train DATA_DIR` uses this recipe for other
data. The baseline encoders of the paper are available in the same size, trained with Adam: prompts:conformer and so on.
"""

import dataclasses

from zipasr.baselines import BranchformerConfig, ConformerConfig, EBranchformerConfig, SqueezeformerConfig
from zipasr.data.augment import SpecAugmentConfig
from zipasr.data.batching import BatchConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import EncoderConfig
from zipasr.model import tiny as tiny_model
from zipasr.nn.schedule import Schedule
from zipasr.train.config import AdamConfig, TokenizerConfig, TrainConfig


def tiny() -> TrainConfig:
    """The `tiny` model with transducer and CTC, for less than an hour of speech.

    Chosen by dev WER (benchmarks/LOG.md): characters, because with pieces the predictor seems to memorize the sentences;
    small batches, because the number of updates matters; little dropout and no masks at first, CTC at full weight, and
    schedules that end early, because such a short run ends before a published one has warmed up.
    """
    model = tiny_model()
    assert isinstance(model.encoder, ZipformerConfig)
    encoder = dataclasses.replace(model.encoder, dropout=Schedule(((0.0, 0.1),)))
    return TrainConfig(
        data="data/prompts",
        model=dataclasses.replace(model, encoder=encoder),
        tokenizer=TokenizerConfig(kind="char", vocab_size=None),
        batch=BatchConfig(
            max_duration_s=12.0,
            num_buckets=10,
            spec_augment=SpecAugmentConfig(
                time_warp_frames=0, frequency_mask_bins=20, num_time_masks=8, time_mask_frames=20, max_time_share=0.15
            ),
            spec_augment_from_epoch=8,
            cache_mb=512,
        ),
        num_epochs=18,
        lr=0.045,
        lr_batches=1000.0,
        lr_epochs=8.0,
        lr_warmup_batches=50.0,
        lr_warmup_start=0.1,
        ctc_loss_scale=1.0,
        loss_warmup_batches=300.0,
        ref_duration_s=0.5,
        min_duration_s=0.3,
        max_duration_s=30.0,
        average_period=10,
        average_share=0.2,
        valid_interval=500,
        save_interval=250,
        keep_checkpoints=8,
        ngram_order=6,
        log_interval=50,
        use_onednn_matmul=False,
        num_workers=0,
    )


def streaming() -> TrainConfig:
    """Streaming variant of `tiny`, also for the streaming graphs of sherpa-onnx.

        zipasr train prompts:streaming --out exp/streaming

    It is causal, with chunks and left contexts drawn for each batch. Conv-Embed has the published width, because sherpa-onnx
    supports no other for a streaming model.
    """
    config = tiny()
    assert isinstance(config.model.encoder, ZipformerConfig)
    encoder = dataclasses.replace(config.model.encoder, is_causal=True, conv_channels=ZipformerConfig().conv_channels)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder))


def conformer() -> TrainConfig:
    """A Conformer of the size of `tiny`."""
    return _baseline(
        ConformerConfig(subsampling_channels=32, num_layers=6, channels=112, num_heads=4, feedforward=384, kernel_size=15)
    )


def squeezeformer() -> TrainConfig:
    """A Squeezeformer of the size of `tiny`."""
    return _baseline(
        SqueezeformerConfig(
            subsampling_channels=32,
            num_layers=6,
            reduce_at=2,
            recover_at=5,
            channels=112,
            num_heads=4,
            feedforward=336,
            kernel_size=15,
        )
    )


def branchformer() -> TrainConfig:
    """A Branchformer of the size of `tiny`."""
    return _baseline(
        BranchformerConfig(
            subsampling_channels=32, num_layers=8, channels=120, num_heads=4, gating_channels=512, kernel_size=15
        )
    )


def e_branchformer() -> TrainConfig:
    """An E-Branchformer of the size of `tiny`."""
    return _baseline(
        EBranchformerConfig(
            subsampling_channels=32,
            num_layers=6,
            channels=112,
            num_heads=4,
            feedforward=224,
            gating_channels=480,
            kernel_size=15,
            merge_kernel_size=15,
        )
    )


def _baseline(encoder: EncoderConfig) -> TrainConfig:
    """`tiny` with another encoder, trained with Adam without clipping, as in the paper (tuned: docs/paper.md)."""
    config = tiny()
    adam = AdamConfig(factor=0.4, warmup_batches=300.0)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, encoder=encoder), adam=adam)
