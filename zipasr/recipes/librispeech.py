"""LibriSpeech, 960 hours of English read aloud: the published Zipformer runs.

    zipasr prepare librispeech:/path/to/LibriSpeech --out data/librispeech
    zipasr prepare musan:/path/to/musan --out data/musan
    torchrun --nproc-per-node 4 -m zipasr train librispeech:medium --out exp/medium
    zipasr evaluate exp/medium data/librispeech/test-clean_cuts.jsonl.gz

Error rates are those that were published for the recipe, in percent of words on test-clean and test-other; none of these
runs was repeated here. `batch.max_duration_s` is for one GPU and the rates are for the number of GPUs that each recipe
names. An epoch holds every utterance at three speeds, 2881 hours. What differs from the original: docs/recipes.md.
Source: Yao et al. 2024, arXiv:2310.11230, tables 2, 7 and 8; Yao et al. 2024, arXiv:2410.05101 (CR-CTC); the settings, and
the other error rates, come from the LibriSpeech recipe of icefall.
"""

import dataclasses

from zipasr import model
from zipasr.data.batching import BatchConfig
from zipasr.data.noise import NoiseConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.heads.attention import AttentionConfig
from zipasr.heads.ctc import CtcConfig
from zipasr.model import AsrConfig
from zipasr.search.strategy import SearchConfig
from zipasr.train.config import ConsistencyConfig, TokenizerConfig, TrainConfig

RESCORING = SearchConfig(method="attention_rescoring", beam=100)
"""The published search of models with an attention decoder. Each validation tunes its scale on dev-clean and dev-other."""


def small() -> TrainConfig:
    """Zipformer-S, pruned transducer: 2.42 / 5.73.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:small --out exp/small

    Hardware: 2 V100 (32 GB). Hours: 73 (50 epochs of 87 minutes). Parameters: 23.3 M.
    Follows: icefall of May 2023 (pull request 1058).
    Published: beam search (4), epoch 50, mean of 23 epochs; greedy search 2.46 / 5.86.
    """
    return _recipe(model.small(), max_duration_s=1500.0, lr=0.04, average_share=23 / 50)


def medium() -> TrainConfig:
    """Zipformer-M, pruned transducer: 2.21 / 4.79.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium --out exp/medium

    Hardware: 4 V100 (32 GB). Hours: 58 (50 epochs of 69 minutes). Parameters: 65.5 M.
    Follows: icefall of May 2023 (pull request 1058).
    Published: beam search (4), epoch 50, mean of 25 epochs; greedy search 2.22 / 4.87.
    """
    return _recipe(model.medium(), max_duration_s=1000.0, average_share=25 / 50)


def large() -> TrainConfig:
    """Zipformer-L, pruned transducer: 2.06 / 4.63.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:large --out exp/large

    Hardware: 4 V100 (32 GB). Hours: 67 (50 epochs of 80 minutes). Parameters: 148.4 M.
    Follows: icefall of May 2023 (pull request 1058).
    Published: beam search (4), epoch 50, mean of 30 epochs; greedy search 2.08 / 4.69.
    """
    return _recipe(model.large(), max_duration_s=1000.0, average_share=30 / 50)


def large_long() -> TrainConfig:
    """Zipformer-L, pruned transducer, trained longer on larger batches: 2.00 / 4.38.

        torchrun --nproc-per-node 8 -m zipasr train librispeech:large_long --out exp/large_long

    Hardware: 8 A100 (80 GB). Hours: 52 (174 epochs of 18 minutes). Parameters: 148.4 M.
    Follows: icefall of October 2023 (pull request 1058, model of 26 October).
    Published: beam search (4), epoch 174, mean of 172 epochs; greedy search 2.00 / 4.47.
    """
    return _recipe(model.large(), max_duration_s=2200.0, num_epochs=174, average_share=172 / 174)


def medium_streaming() -> TrainConfig:
    """Zipformer-M for streams, pruned transducer: 3.01 / 7.69 with chunks of 320 ms, 2.79 / 7.05 with 640 ms.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium_streaming --out exp/medium_streaming

    Hardware: 4 V100 (32 GB). Hours: not published. Parameters: 66.1 M.
    Follows: icefall of May 2023 (pull request 1058).
    Published: beam search (4) under the mask of chunks, 2.56 s and 5.12 s of left context; epoch 30 of 40, mean of 8 epochs.
    Greedy search 3.06 / 7.81 and 2.81 / 7.15.
    """
    network = model.medium()
    assert isinstance(network.encoder, ZipformerConfig)
    network = dataclasses.replace(network, encoder=dataclasses.replace(network.encoder, is_causal=True))
    return _recipe(network, max_duration_s=1000.0, num_epochs=30, average_share=8 / 30)


def medium_transducer_ctc() -> TrainConfig:
    """Zipformer-M, pruned transducer and CTC: 2.40 / 5.66 by the CTC head.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium_transducer_ctc --out exp/medium_transducer_ctc

    Hardware: 4 V100 (32 GB). Hours: not published. Parameters: 65.8 M.
    Follows: icefall of June 2023 (pull request 1111).
    Published: CTC search without a language model, epoch 40, mean of 16 epochs.
    """
    network = dataclasses.replace(model.medium(), ctc=CtcConfig())
    return _recipe(network, max_duration_s=1000.0, num_epochs=40, average_share=16 / 40)


def small_ctc() -> TrainConfig:
    """Zipformer-S, CTC: 2.85 / 6.91.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:small_ctc --out exp/small_ctc

    Hardware: 2 V100 (32 GB). Hours: 143 (100 epochs of 86 minutes). Parameters: 22.1 M.
    Follows: icefall of October 2023 (the paper gives no other date).
    Published: table 8, which does not say over how many epochs the model was averaged.
    """
    # The rate is inferred: all published commands of small models have it.
    return _ctc(model.small(), max_duration_s=1700.0, lr=0.04)


def medium_ctc() -> TrainConfig:
    """Zipformer-M, CTC: 2.51 / 6.02.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium_ctc --out exp/medium_ctc

    Hardware: 4 V100 (32 GB). Hours: 100 (100 epochs of 60 minutes). Parameters: 64.3 M.
    Follows: icefall of October 2023 (the paper gives no other date).
    Published: table 8, which does not say over how many epochs the model was averaged.
    """
    return _ctc(model.medium(), max_duration_s=1400.0)


def large_ctc() -> TrainConfig:
    """Zipformer-L, CTC: 2.49 / 5.70.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:large_ctc --out exp/large_ctc

    Hardware: 4 V100 (32 GB). Hours: 127 (100 epochs of 76 minutes). Parameters: 147.0 M.
    Follows: icefall of October 2023 (the paper gives no other date).
    Published: table 8, which does not say over how many epochs the model was averaged.
    """
    return _ctc(model.large(), max_duration_s=1200.0)


def small_ctc_aed() -> TrainConfig:
    """Zipformer-S, CTC and attention decoder: 2.45 / 6.08 by rescoring.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:small_ctc_aed --out exp/small_ctc_aed

    Hardware: 2 V100 (32 GB). Hours: 88 (50 epochs of 105 minutes). Parameters: 46.3 M.
    Follows: icefall of July 2024 (pull request 1389).
    Published: attention rescoring, epoch 50, mean of 30 epochs; CTC alone 3.04 / 7.04.
    """
    return _ctc_aed(model.small(), max_duration_s=1700.0, average_share=30 / 50, lr=0.04)


def medium_ctc_aed() -> TrainConfig:
    """Zipformer-M, CTC and attention decoder: 2.23 / 4.98 by rescoring.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium_ctc_aed --out exp/medium_ctc_aed

    Hardware: 4 V100 (32 GB). Hours: 56 (50 epochs of 67 minutes). Parameters: 90.0 M.
    Follows: icefall of July 2024 (pull request 1389).
    Published: attention rescoring, epoch 50, mean of 22 epochs; CTC alone 2.46 / 5.57.
    """
    return _ctc_aed(model.medium(), max_duration_s=1200.0, average_share=22 / 50)


def large_ctc_aed() -> TrainConfig:
    """Zipformer-L, CTC and attention decoder: 2.10 / 4.57 by rescoring.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:large_ctc_aed --out exp/large_ctc_aed

    Hardware: 4 V100 (32 GB). Hours: 70 (50 epochs of 84 minutes). Parameters: 174.3 M.
    Follows: icefall of May 2024 (pull request 1389).
    Published: attention rescoring, epoch 50, mean of 29 epochs; CTC alone 2.29 / 5.14.
    """
    return _ctc_aed(model.large(), max_duration_s=1200.0, average_share=29 / 50)


def small_cr_ctc() -> TrainConfig:
    """Zipformer-S, CTC with consistency of two views: 2.52 / 5.85.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:small_cr_ctc --out exp/small_cr_ctc

    Hardware: 2 V100 (32 GB). Hours: not published. Parameters: 22.1 M.
    Follows: icefall of October 2024 (pull request 1766).
    Published: prefix beam search, epoch 50, mean of 25 epochs; greedy search 2.57 / 5.95.
    """
    config = _cr_ctc(_only_ctc(model.small()), max_duration_s=850.0, scale=0.2, average_share=25 / 50)
    # Half the batches of this run are more than 30 checkpoints at the published interval.
    return dataclasses.replace(config, lr=0.04, keep_checkpoints=45)


def medium_cr_ctc() -> TrainConfig:
    """Zipformer-M, CTC with consistency of two views: 2.10 / 4.61.

        torchrun --nproc-per-node 4 -m zipasr train librispeech:medium_cr_ctc --out exp/medium_cr_ctc

    Hardware: 4 V100 (32 GB). Hours: not published. Parameters: 64.3 M.
    Follows: icefall of October 2024 (pull request 1766).
    Published: prefix beam search, epoch 50, mean of 24 epochs; greedy search 2.12 / 4.62.
    """
    return _cr_ctc(_only_ctc(model.medium()), max_duration_s=700.0, scale=0.2, average_share=24 / 50)


def large_cr_ctc() -> TrainConfig:
    """Zipformer-L, CTC with consistency of two views: 2.02 / 4.35.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:large_cr_ctc --out exp/large_cr_ctc

    Hardware: 2 A100 (80 GB). Hours: not published. Parameters: 147.0 M.
    Follows: icefall of October 2024 (pull request 1766).
    Published: prefix beam search, epoch 50, mean of 26 epochs; greedy search 2.03 / 4.37.
    """
    return _cr_ctc(_only_ctc(model.large()), max_duration_s=1400.0, scale=0.2, average_share=26 / 50)


def large_cr_ctc_aed() -> TrainConfig:
    """Zipformer-L, CTC with consistency of two views and attention decoder: 1.96 / 4.08 by rescoring.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:large_cr_ctc_aed --out exp/large_cr_ctc_aed

    Hardware: 2 A100 (80 GB). Hours: not published. Parameters: 174.3 M.
    Follows: icefall of October 2024 (pull request 1766).
    Published: attention rescoring, epoch 50, mean of 20 epochs.
    """
    return _with_rescoring(_cr_ctc(_only_ctc(model.large()), max_duration_s=1200.0, scale=0.02, average_share=20 / 50))


def large_transducer_cr_ctc() -> TrainConfig:
    """Zipformer-L, pruned transducer and CTC with consistency of two views: 1.88 / 3.95.

        torchrun --nproc-per-node 2 -m zipasr train librispeech:large_transducer_cr_ctc --out exp/large_transducer_cr_ctc

    Hardware: 2 A100 (80 GB). Hours: not published. Parameters: 148.8 M.
    Follows: icefall of October 2024 (pull request 1766).
    Published: beam search (4), epoch 50, mean of 26 epochs; greedy search 1.90 / 3.96.
    """
    network = dataclasses.replace(model.large(), ctc=CtcConfig())
    config = _cr_ctc(network, max_duration_s=1400.0, scale=0.02, average_share=26 / 50)
    return dataclasses.replace(config, ctc_loss_scale=0.1)


# What they share


def _recipe(
    network: AsrConfig, *, max_duration_s: float, average_share: float, num_epochs: int = 50, lr: float = 0.045
) -> TrainConfig:
    """Settings that all runs share; the other settings are the defaults of their classes, which are this recipe's values."""
    return TrainConfig(
        data="data/librispeech",
        model=network,
        tokenizer=TokenizerConfig(kind="unigram", vocab_size=500, max_texts=None),
        batch=BatchConfig(max_duration_s=max_duration_s, noise=NoiseConfig()),
        num_epochs=num_epochs,
        lr=lr,
        min_duration_s=1.0,
        max_duration_s=20.0,
        use_copy_limits=True,
        average_share=average_share,
        precision="float16",
        # Differs: the published runs use 2, with features stored on disk; here they are computed while audio is read.
        num_workers=8,
    )


def _only_ctc(network: AsrConfig) -> AsrConfig:
    """The model with a CTC head instead of its transducer."""
    return dataclasses.replace(network, transducer=None, ctc=CtcConfig())


def _ctc(network: AsrConfig, *, max_duration_s: float, lr: float = 0.045) -> TrainConfig:
    return _recipe(_only_ctc(network), max_duration_s=max_duration_s, num_epochs=100, average_share=0.3, lr=lr)


def _ctc_aed(network: AsrConfig, *, max_duration_s: float, average_share: float, lr: float = 0.045) -> TrainConfig:
    return _with_rescoring(_recipe(_only_ctc(network), max_duration_s=max_duration_s, average_share=average_share, lr=lr))


def _with_rescoring(config: TrainConfig) -> TrainConfig:
    """The run with an attention decoder in addition, which rescores the hypotheses of CTC."""
    network = dataclasses.replace(config.model, attention=AttentionConfig())
    return dataclasses.replace(config, model=network, ctc_loss_scale=0.1, attention_loss_scale=0.9, search=RESCORING)


def _cr_ctc(network: AsrConfig, *, max_duration_s: float, scale: float, average_share: float) -> TrainConfig:
    config = _recipe(network, max_duration_s=max_duration_s, average_share=average_share)
    consistency = ConsistencyConfig(scale=scale, has_warmup=False, time_mask_ratio=2.5)
    return dataclasses.replace(config, consistency=consistency)
