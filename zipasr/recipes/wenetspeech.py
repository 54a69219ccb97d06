"""WenetSpeech, subset L, 10,000 hours of Mandarin from podcasts and videos: the published Zipformer runs over characters.

    zipasr prepare wenetspeech:/path/to/WenetSpeech --out data/wenetspeech
    zipasr prepare musan:/path/to/musan --out data/musan
    torchrun --nproc-per-node 6 -m zipasr train wenetspeech:medium --out exp/wenetspeech
    zipasr evaluate exp/wenetspeech data/wenetspeech/test-net_cuts.jsonl.gz --blank-penalty 2

Error rates are those that were published, in percent of characters (CER) on dev, test-net and test-meeting; none of these
runs was repeated here. The published vocabulary has 5537 symbols; give its table with `--set tokenizer.file=tokens.txt`, or
characters are taken from the training texts. The published runs corrected some transcripts of L and DEV by a list that is
not part of the corpus.
Source: Yao et al. 2024, arXiv:2310.11230, table 4; the settings, and the other error rates, come from the WenetSpeech recipe
of icefall.
"""

import dataclasses

from zipasr import model
from zipasr.data.batching import BatchConfig
from zipasr.data.noise import NoiseConfig
from zipasr.encoder.zipformer import ZipformerConfig
from zipasr.model import AsrConfig
from zipasr.train.config import TokenizerConfig, TrainConfig

VOCAB_SIZE = 5537
"""Symbols of the published vocabulary."""


def small() -> TrainConfig:
    """Zipformer-S, pruned transducer: 7.96 / 8.60 / 13.97.

        torchrun --nproc-per-node 4 -m zipasr train wenetspeech:small --out exp/wenetspeech_small

    Hardware: 4 GPUs, their kind not published. Hours: not published. Parameters: 32.3 M.
    Follows: icefall of October 2023 (the paper gives no other date).
    Published: the paper only, with 14 epochs; batches and average are those of `medium`, as none are published.
    """
    return _recipe(model.small(), num_epochs=14)


def medium() -> TrainConfig:
    """Zipformer-M, pruned transducer: 7.32 / 7.61 / 12.35.

        torchrun --nproc-per-node 6 -m zipasr train wenetspeech:medium --out exp/wenetspeech_medium

    Hardware: 6 GPUs, their kind not published. Hours: not published. Parameters: 75.9 M.
    Follows: icefall of June 2023 (pull request 1130).
    Published: beam search (4) with blank penalty 2, epoch 12, mean of 4 epochs; greedy search 7.36 / 7.65 / 12.43.
    """
    return _recipe(model.medium())


def large() -> TrainConfig:
    """Zipformer-L, pruned transducer: 7.29 / 7.24 / 12.06.

        torchrun --nproc-per-node 4 -m zipasr train wenetspeech:large --out exp/wenetspeech_large

    Hardware: 4 GPUs, their kind not published. Hours: not published. Parameters: 160.1 M.
    Follows: icefall of October 2023 (the paper gives no other date).
    Published: the paper only, with 14 epochs; batches and average are those of `medium`, as none are published.
    """
    return _recipe(model.large(), num_epochs=14)


def medium_streaming() -> TrainConfig:
    """Zipformer-M for streams, pruned transducer: 8.21 / 9.77 / 16.07 at 320 ms, 7.84 / 8.94 / 14.92 at 640 ms.

        torchrun --nproc-per-node 8 -m zipasr train wenetspeech:medium_streaming --out exp/wenetspeech_streaming

    Hardware: 8 GPUs, their kind not published. Hours: not published. Parameters: 76.4 M.
    Follows: icefall of June 2023 (pull request 1130).
    Published: beam search (4) with blank penalty 1.5, epoch 12, mean of 4 epochs; greedy search 8.45 / 9.89 / 16.46 and
    8.00 / 9.00 / 15.11. Left context: 5.12 s with 640 ms; with 320 ms, one published table says 5.12 s and another 2.56 s
    for the same error rates.
    """
    network = model.medium()
    assert isinstance(network.encoder, ZipformerConfig)
    return _recipe(dataclasses.replace(network, encoder=dataclasses.replace(network.encoder, is_causal=True)))


def _recipe(network: AsrConfig, *, num_epochs: int = 12) -> TrainConfig:
    return TrainConfig(
        data="data/wenetspeech",
        model=dataclasses.replace(network, vocab_size=VOCAB_SIZE),
        tokenizer=TokenizerConfig(kind="spaceless", vocab_size=None, max_texts=None),
        batch=BatchConfig(max_duration_s=450.0, num_buckets=15, noise=NoiseConfig()),
        num_epochs=num_epochs,
        lr=0.045,
        lr_batches=7500.0,
        lr_epochs=1.5,
        lr_warmup_start=0.5,
        min_duration_s=1.0,
        max_duration_s=15.0,
        use_copy_limits=True,
        average_share=4 / num_epochs,
        # Differs: the published runs save every 4000 batches and after each epoch; four epochs exceed 30 such checkpoints.
        save_interval=8000,
        keep_checkpoints=40,
        precision="float16",
        num_workers=8,
    )
