"""A run for the user's own data: properties of a prepared folder -> a `TrainConfig`, and the reasons in words.

    zipasr prepare recordings --out data/mine
    zipasr train data/mine --out exp/mine

The rules were measured on corpora of ten minutes to an hour and a half (docs/own_data.md); for more data they follow the
published recipes. Hours are those of the training set.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.noise import NoiseConfig
from zipasr.data.plan import BatchPlan
from zipasr.data.variation import VariationConfig
from zipasr.losses.lattice import LatticeKind
from zipasr.recipes import prompts
from zipasr.train.config import TokenizerConfig, TrainConfig
from zipasr.train.data import encoder_frames_at, read_split
from zipasr.train.length import Length, scaled_to

MADE_FOR = Length(num_steps=4670, num_epochs=18)
"""The run that `prompts:tiny` was tuned for: 17 minutes of prompts."""
USUAL_EPOCHS = 18
"""Default number of epochs, with each utterance at three speeds, within the limits below."""
FEWEST_BATCHES, MOST_BATCHES = 3000, 12_000
"""Minimum and maximum number of batches: with fewer nothing is learned, and more take hours on two cores."""
FEWEST_EPOCHS = 2
"""Minimum number of epochs for any amount of data, with each utterance at three speeds."""
PIECES_FROM_HOURS = 20.0
"""Hours from which the vocabulary consists of pieces, as published; with less data, pieces were worse than characters."""
FEWEST_LONG_PIECES = 250
"""Minimum number of pieces of several characters: texts with more characters than this, as in Korean, get more than the 500
pieces that were published for English. Characters that are rare cost little, and no text is too rich for a vocabulary."""
REGULAR_FROM_HOURS = 100.0
"""Hours from which the lattice is `regular`, as published."""
DENSE_SHARE = 0.01
"""Share of utterances with more characters than encoder frames from which on the vocabulary consists of pieces: such
utterances, mostly single words of a third of a second, can neither be trained on nor recognized letter by letter."""
MIN_DURATION_S = 0.15
"""Duration below which utterances are skipped: a short word, trimmed tightly, is longer."""
MASKS_FROM_EPOCH = 4
"""First epoch with masks, of `MADE_FOR`: half an hour of many voices learns to align in fewer than 17 minutes of one."""
VARIED_BELOW_HOURS = 20.0
"""Hours below which voices, levels and silence are varied, and an n-gram of the texts is tried; the published recipes, for
more data, have neither."""
NOISE_FILE = "noise_cuts.jsonl.gz"
"""Noise of the data (`zipasr prepare SOURCE --as noise`), which is mixed in if it is there."""
NOISE_ALONE_PROB = 0.05
"""Share of utterances that noise replaces, so that a model writes nothing where nobody speaks."""
LARGE_FROM_HOURS = 20.0
"""Hours from which `tiny` is too small."""
FEW_TEXTS_SHARE = 0.5
"""Ratio of distinct texts to utterances below which texts count as repeated."""
MOST_TEXTS, MOST_SPEAKER_CUTS = 200_000, 2000
"""Number of texts, and of cuts for their speakers, that are examined."""
_SPACELESS_RANGES = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u3040", "\u30ff"),  # Hiragana, Katakana
    ("\u3400", "\u4dbf"),  # Han
    ("\u4e00", "\u9fff"),
    ("\uf900", "\ufaff"),
    ("\U00020000", "\U0003ffff"),
)


class DataFacts(NamedTuple):
    """Properties of the training set that the rules use."""

    num_utterances: int
    hours: float
    num_words: int
    """Number of words in all texts."""
    num_distinct_words: int
    num_distinct_characters: int
    num_distinct_texts: int
    num_speakers: int
    """Number of speakers; 0 if they are not labeled."""
    dense_share: float
    """Share of utterances with more characters than encoder frames at the highest speed."""
    is_spaceless: bool
    """Whether the script writes no spaces between words, as Chinese, Japanese and Thai do."""


class FittedRun(NamedTuple):
    """A configuration and the reasons for it."""

    config: TrainConfig
    reasons: tuple[str, ...]
    """Sentences to print."""
    recipe: TrainConfig
    """The configuration before it was scaled to its length, for `MADE_FOR`."""


def fit_to_data(folder: str, *, batches_per_step: int = 1) -> FittedRun:
    """The run for a folder written by `zipasr prepare`.

    Args:
        folder: the folder.
        batches_per_step: number of batches that all processes together take in a step.
    Raises:
        DataError: there are no cuts to train on.
    """
    cuts = read_split(folder, "train")
    base = prompts.tiny()
    facts = describe(cuts, max_speed=max(base.batch.speed_factors))
    batches_per_epoch = BatchPlan(cuts.durations_s, base.batch, seed=base.seed).num_batches(0)
    return fit(facts, folder, batches_per_epoch=batches_per_epoch, batches_per_step=batches_per_step)


def fit(facts: DataFacts, folder: str, *, batches_per_epoch: float, batches_per_step: int = 1) -> FittedRun:
    """The run for data with these properties.

    Args:
        facts: properties of the training set.
        folder: folder of the data.
        batches_per_epoch: number of batches, with each utterance at every speed.
        batches_per_step: number of batches that all processes together take in a step.
    """
    steps_per_epoch = batches_per_epoch / batches_per_step
    tiny, num_steps = prompts.tiny(), batches_to_train(steps_per_epoch)
    tokenizer, why_tokens = _tokenizer(facts)
    lattice: LatticeKind = "regular" if facts.hours >= REGULAR_FROM_HOURS else "modified"
    assert tiny.model.transducer is not None
    model = dataclasses.replace(tiny.model, transducer=dataclasses.replace(tiny.model.transducer, lattice=lattice))
    variation = VariationConfig() if facts.hours < VARIED_BELOW_HOURS else None
    noise_file = Path(folder) / NOISE_FILE
    noise = NoiseConfig(cuts=str(noise_file), alone_prob=NOISE_ALONE_PROB) if noise_file.is_file() else None
    recipe = dataclasses.replace(
        tiny,
        data=folder,
        model=model,
        tokenizer=tokenizer,
        batch=dataclasses.replace(tiny.batch, variation=variation, noise=noise, spec_augment_from_epoch=MASKS_FROM_EPOCH),
        min_duration_s=MIN_DURATION_S,
        selection="best",
        ngram_order=tiny.ngram_order if facts.hours < VARIED_BELOW_HOURS else None,
    )
    config = scaled_to(recipe, num_steps, steps_per_epoch=steps_per_epoch, made_for=MADE_FOR)
    reasons = [
        f"data: {facts.num_utterances:,} utterances, {facts.hours:.2f} h, {facts.num_distinct_words:,} distinct words in "
        f"{facts.num_words:,}, {facts.num_distinct_texts:,} distinct texts"
        + (f", {facts.num_speakers:,} speakers" if facts.num_speakers else ""),
        f"tokens: {why_tokens}",
        f"lattice: {lattice}, "
        + ("as published" if lattice == "regular" else "since little data teaches a transducer to emit in bursts otherwise"),
        f"length: {num_steps:,} {'' if batches_per_step == 1 else f'× {batches_per_step} '}batches of "
        f"{config.batch.max_duration_s:g} s, which are {num_steps / steps_per_epoch:.1f} epochs at "
        f"{len(config.batch.speed_factors)} speeds each",
        *_notes(recipe, facts),
    ]
    return FittedRun(config, tuple(reasons), recipe)


def batches_to_train(batches_per_epoch: float) -> int:
    """Number of batches, or steps of several processes, to train: enough for little data, several epochs for much data."""
    usual = min(max(USUAL_EPOCHS * batches_per_epoch, FEWEST_BATCHES), MOST_BATCHES)
    return math.ceil(max(usual, FEWEST_EPOCHS * batches_per_epoch))


def describe(cuts: IndexedCuts, *, max_speed: float = 1.0) -> DataFacts:
    """Properties of cuts at up to a speed; for very many cuts, texts and speakers come from an evenly spread sample."""
    hours = float(cuts.durations_s.sum()) / 3600
    is_dense_N = cuts.num_characters > encoder_frames_at(cuts.durations_s, max_speed)
    chosen = cuts if len(cuts) <= MOST_TEXTS else cuts.take(np.linspace(0, len(cuts) - 1, MOST_TEXTS).astype(np.int64))
    words, texts, num_words = set[str](), set[int](), 0
    num_characters = num_spaceless = 0
    for text in chosen.texts():
        found = text.split()
        words.update(found)
        texts.add(hash(text))
        num_words += len(found)
        num_characters += sum(map(len, found))
        num_spaceless += sum(map(_is_spaceless, "".join(found)))
    some = np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), MOST_SPEAKER_CUTS)).astype(np.int64))
    speakers = {cuts[int(i)].supervisions[0].speaker for i in some} - {None}
    return DataFacts(
        num_utterances=len(cuts),
        hours=hours,
        num_words=num_words,
        num_distinct_words=len(words),
        num_distinct_characters=len(cuts.characters.keys() - {" "}),
        num_distinct_texts=len(texts),
        num_speakers=len(speakers),
        dense_share=float(is_dense_N.mean()),
        is_spaceless=num_spaceless > 0.5 * num_characters,
    )


def _tokenizer(facts: DataFacts) -> tuple[TokenizerConfig, str]:
    """The vocabulary, and the reason for it."""
    if facts.is_spaceless:
        return TokenizerConfig(kind="spaceless", vocab_size=None), "single characters, as the script has no spaces"
    pieces, num_least = TokenizerConfig(), facts.num_distinct_characters + FEWEST_LONG_PIECES
    assert pieces.vocab_size is not None
    why_more = ""
    if num_least > pieces.vocab_size:
        pieces = TokenizerConfig(vocab_size=num_least)
        why_more = f"{num_least:,} pieces, since the texts have {facts.num_distinct_characters:,} different characters"
    if facts.hours >= PIECES_FROM_HOURS:
        return pieces, why_more or "500 pieces, as published"
    if facts.dense_share > DENSE_SHARE:
        why = f"pieces, since {facts.dense_share:.1%} of the utterances have more characters than encoder frames"
        return dataclasses.replace(pieces, kind="bpe"), f"{why}; {why_more}" if why_more else why
    why = f"characters, since there are less than {PIECES_FROM_HOURS:g} hours"
    return TokenizerConfig(kind="char", vocab_size=None), why


def _notes(recipe: TrainConfig, facts: DataFacts) -> list[str]:
    """What else the run uses, and limitations of the data."""
    said = []
    if recipe.ngram_order is not None:
        said.append(
            f"n-gram: of order {recipe.ngram_order}, of the texts; its beam searches are tried beside those without it"
        )
    noise = recipe.batch.noise
    if noise is not None:
        low_db, high_db = noise.snr_db
        said.append(
            f"noise: {noise.cuts}, in {noise.prob:.0%} of the utterances at {low_db:g} to {high_db:g} dB, and alone instead "
            f"of {noise.alone_prob:.0%}"
        )
    if facts.num_speakers == 1:
        said.append("note: one speaker; other voices will be recognized worse")
    if facts.num_distinct_texts < FEW_TEXTS_SHARE * facts.num_utterances:
        said.append("note: most texts come again and again; other sentences will be recognized worse")
    if facts.hours >= LARGE_FROM_HOURS:
        said.append(
            f"note: from {LARGE_FROM_HOURS:g} hours on a larger model than `tiny` learns more, on a GPU: "
            "zipasr train librispeech:small --set data=DATA"
        )
    return said


def _is_spaceless(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces between words."""
    return any(first <= character <= last for first, last in _SPACELESS_RANGES)
