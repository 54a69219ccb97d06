"""AISHELL-1, 170 hours of Mandarin read aloud: the published Zipformer runs over characters, and one over byte-level pieces.

    zipasr prepare aishell:/path/to/aishell --out data/aishell
    torchrun --nproc-per-node 2 -m zipasr train aishell:medium --out exp/aishell
    zipasr evaluate exp/aishell data/aishell/test_cuts.jsonl.gz

Error rates are those that were published for the recipe, in percent of characters (CER) on test and dev; none of these runs
was repeated here. The published vocabulary, 4336 symbols, comes from the dictionary of the corpus; give its table with
`--set tokenizer.file=data/lang_char/tokens.txt`, or characters are taken from the training texts, which are a few less.
Source: Yao et al. 2024, arXiv:2310.11230, table 3; the settings, and the other error rates, come from the AISHELL recipe of
icefall.
"""

import dataclasses

from zipasr import model
from zipasr.data.augment import SpecAugmentConfig
from zipasr.data.batching import BatchConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.heads.transducer import TransducerConfig
from zipasr.model import AsrConfig
from zipasr.train.config import ConsistencyConfig, TokenizerConfig, TrainConfig

VOCAB_SIZE = 4336
"""Symbols of the published vocabulary."""


def small() -> TrainConfig:
    """Zipformer-S, pruned transducer: 4.67 / 4.40.

        torchrun --nproc-per-node 2 -m zipasr train aishell:small --out exp/aishell_small

    Hardware: 2 GPUs, their kind not published. Hours: not published. Parameters: 30.2 M.
    Follows: icefall of October 2023 (model of 24 October).
    Published: beam search (4), epoch 55, mean of 21 epochs; greedy search 4.97 / 4.67.
    """
    return _transducer(model.small(), max_duration_s=1200.0, num_epochs=55, num_averaged=21)


def medium() -> TrainConfig:
    """Zipformer-M, pruned transducer: 4.40 / 4.13.

        torchrun --nproc-per-node 2 -m zipasr train aishell:medium --out exp/aishell_medium

    Hardware: 2 GPUs, their kind not published. Hours: not published. Parameters: 73.4 M.
    Follows: icefall of October 2023 (model of 24 October).
    Published: beam search (4), epoch 55, mean of 17 epochs; greedy search 4.67 / 4.37.
    """
    return _transducer(model.medium(), max_duration_s=1000.0, num_epochs=55, num_averaged=17)


def large() -> TrainConfig:
    """Zipformer-L, pruned transducer: 4.28 / 4.03.

        torchrun --nproc-per-node 2 -m zipasr train aishell:large --out exp/aishell_large

    Hardware: 2 GPUs, their kind not published. Hours: not published. Parameters: 157.3 M.
    Follows: icefall of October 2023 (model of 24 October).
    Published: beam search (4), epoch 56, mean of 23 epochs; greedy search 4.49 / 4.22.
    """
    return _transducer(model.large(), max_duration_s=800.0, num_epochs=56, num_averaged=23)


def medium_cr_ctc() -> TrainConfig:
    """Zipformer-M, CTC with consistency of two views: 3.98 / 3.69.

        torchrun --nproc-per-node 2 -m zipasr train aishell:medium_cr_ctc --out exp/aishell_cr_ctc

    Hardware: 2 GPUs, their kind not published. Hours: not published. Parameters: 66.2 M.
    Follows: icefall of July 2025 (pull request 1980).
    Published: greedy search, epoch 60, mean of 28 epochs; prefix beam search, mean of 21 epochs, 3.98 / 3.70.
    """
    network = dataclasses.replace(model.medium(), vocab_size=VOCAB_SIZE, transducer=None, ctc=CtcConfig())
    config = _recipe(network, max_duration_s=500.0, num_epochs=60, num_averaged=28)
    consistency = ConsistencyConfig(scale=0.2, has_warmup=False, time_mask_ratio=2.5)
    return dataclasses.replace(config, consistency=consistency)


def medium_bbpe() -> TrainConfig:
    """Zipformer-M over 500 byte-level pieces, pruned transducer: 4.37 / 4.11.

        torchrun --nproc-per-node 2 -m zipasr train aishell:medium_bbpe --out exp/aishell_bbpe

    Hardware: 2 GPUs, their kind not published. Hours: not published. Parameters: 65.5 M.
    Follows: icefall of January 2024 (model of 16 January).
    Published: beam search (4), epoch 40, mean of 10 epochs; greedy search 4.54 / 4.31.
    """
    config = _recipe(model.medium(), max_duration_s=1000.0, num_epochs=40, num_averaged=10)
    tokenizer = dataclasses.replace(config.tokenizer, kind="bbpe", vocab_size=500)
    return dataclasses.replace(config, tokenizer=tokenizer, lr_epochs=10.0)


def _transducer(network: AsrConfig, *, max_duration_s: float, num_epochs: int, num_averaged: int) -> TrainConfig:
    """Recipe of a transducer whose predictor has a context of one character."""
    network = dataclasses.replace(network, vocab_size=VOCAB_SIZE, transducer=TransducerConfig(context_size=1))
    return _recipe(network, max_duration_s=max_duration_s, num_epochs=num_epochs, num_averaged=num_averaged)


def _recipe(network: AsrConfig, *, max_duration_s: float, num_epochs: int, num_averaged: int) -> TrainConfig:
    return TrainConfig(
        data="data/aishell",
        model=network,
        tokenizer=TokenizerConfig(kind="spaceless", vocab_size=None, max_texts=None),
        batch=BatchConfig(
            max_duration_s=max_duration_s, num_buckets=15, spec_augment=SpecAugmentConfig(time_warp_frames=20)
        ),
        num_epochs=num_epochs,
        lr=0.045,
        lr_batches=7500.0,
        lr_epochs=18.0,
        lr_warmup_start=0.5,
        min_duration_s=1.0,
        max_duration_s=12.0,
        use_copy_limits=True,
        average_share=num_averaged / num_epochs,
        precision="float16",
        num_workers=8,  # Differs: the published runs use 2, with features stored on disk
    )
