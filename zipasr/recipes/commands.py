"""The model that ships: single words, digits, coffee orders and wake words, in English, streaming.

    zipasr prepare noise --out data/commands --as noise
    zipasr prepare speech --out data/commands --set limits.min_duration_s=0.15
    zipasr prepare speech_weighted --out data/commands_weighted --set limits.min_duration_s=0.15
    zipasr train commands:pretrained --out exp/commands
    zipasr train commands:refined --out exp/refined
    zipasr convert exp/refined --out commands --int8

`speech` is a folder with train.jsonl and dev.jsonl that list these recordings, which may be redistributed with credit:

- Speech Commands v0.02 by P. Warden, its official test set (CC-BY-4.0), 35 single words, as in
  github.com/thegtagamer/PICO-tinyML-benchmark, commit c66f6b0d;
- github.com/Picovoice/speech-to-intent-benchmark (Apache-2.0), coffee orders;
- github.com/Picovoice/wake-word-benchmark (Apache-2.0), commit 84919190fb1891bf0936dcb577d9268e467f876f, six wake words;
- alphanumeric-audio-dataset (MIT), digits and spelled names;
- LJSpeech 1.1 (public domain), chapters 1 to 3 of its recordings.

`noise` has folds 1 to 3 of ESC-10 by K. J. Piczak (CC0 and CC-BY-3.0, github.com/karolpiczak/ESC-10, commit
553c8f1743b9dba6b282e1323c3ca8fa76923448). `speech_weighted` lists the digits and spelled names six times, under ids of their
own. The error rates are in docs/commands.md.
"""

import dataclasses

from zipasr.data.noise import NoiseConfig
from zipasr.data.variation import VariationConfig
from zipasr.recipes import prompts
from zipasr.recipes.own_data import MIN_DURATION_S
from zipasr.train.config import FinetuneConfig, TrainConfig

NUM_BATCHES = 14_000
"""Length of the run: nearly four epochs of three hours of speech, each utterance at three speeds."""


def pretrained() -> TrainConfig:
    """The causal `tiny` model, for three hours of mostly short utterances in noise.

    What own data gets by default (docs/own_data.md) and, in addition, noise, noise alone, and utterances of several commands
    one after another, since people do not press a button before each word.
    """
    config = prompts.streaming()
    assert config.model.transducer is not None
    return dataclasses.replace(
        config,
        data="data/commands",
        model=dataclasses.replace(config.model, transducer=dataclasses.replace(config.model.transducer, lattice="modified")),
        batch=dataclasses.replace(
            config.batch,
            concat_prob=0.3,
            concat_max_s=6.0,
            noise=NoiseConfig(cuts="data/commands/noise_cuts.jsonl.gz", prob=0.5, snr_db=(0.0, 20.0), alone_prob=0.05),
            variation=VariationConfig(),
            spec_augment_from_epoch=1,
            cache_mb=1024,
        ),
        num_epochs=4,
        max_batches=NUM_BATCHES,
        lr_epochs=2.23,
        min_duration_s=MIN_DURATION_S,
        selection="best",
        valid_interval=5000,
        save_interval=750,
    )


def refined() -> TrainConfig:
    """The second run, from the model of the first, in which digits and spelled names occur six times as often.

    In the first one they are so rare, 14 of 189 minutes, that it learns little of them. The rate starts at about twice that
    at which the first run ended.
    """
    config = pretrained()
    return dataclasses.replace(
        config,
        data="data/commands_weighted",
        finetune=FinetuneConfig(checkpoint="exp/commands"),
        num_epochs=2,
        max_batches=4800,
        lr=0.016,
        lr_batches=1500.0,
        lr_epochs=1.0,
        loss_warmup_batches=0.0,
        valid_interval=4800,
    )
