"""The training and dev utterances of a run, from a prepared folder, and the vocabulary learned from their texts.

Cuts and texts are not kept in memory: a selection is an array of indices. A run therefore starts as fast with ten million
utterances as with ten, except for the index of a manifest and the vocabulary, which are created once.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.batching import Batch, BatchConfig, BatchReader, Item
from zipasr.data.lengths import frames_needed
from zipasr.data.manifest_index import IndexedCuts, open_cuts
from zipasr.data.plan import BatchPlan, MixedPart
from zipasr.encoder.rates import output_lengths
from zipasr.errors import CheckpointError, DataError
from zipasr.features import Fbank, FbankConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TokenizerConfig, TrainConfig

MAX_CHARACTER_TEXTS = 500_000
"""Number of texts that are read to learn all characters, besides the first text with each."""
_BLOCK_CUTS = 1_000_000
"""Number of cuts per chunk of the checks."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixedData:
    """Utterances of another folder that are mixed in, some in each epoch."""

    cuts: IndexedCuts
    share: float
    """Maximum share of these in the hours of an epoch."""
    copies_NS: NDArray[np.bool_] | None = None
    """(N, speeds) which copies are used; None: all."""


class ChainedCuts(Sequence[Any]):
    """Several sequences of cuts, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, place: Any) -> Any:
        """The cut at an index, from 0."""
        if not 0 <= place < len(self):
            raise IndexError(f"there must be a cut {place}, but there are {len(self)}")
        number = int(np.searchsorted(self._ends, place, side="right"))
        return self.parts[number][place - int(self._ends[number]) + len(self.parts[number])]


@dataclass(frozen=True)
class TrainData:
    """Training and dev cuts that passed the checks, and the data mixed in."""

    train: IndexedCuts
    dev: IndexedCuts
    num_dropped: dict[str, int]
    """Number of skipped training utterances by reason, without those of other folders."""
    mixed: tuple[MixedData, ...] = ()
    """Data of other folders."""
    copies_NS: NDArray[np.bool_] | None = None
    """(N, speeds) which copies of the utterances are used; None: all."""

    @property
    def scored_dev(self) -> IndexedCuts:
        """The dev cuts that can be scored: all but those too short for an encoder frame, about 85 ms."""
        has_frames = encoder_frames_at(self.dev.durations_s, 1.0) > 0
        return self.dev if has_frames.all() else self.dev.take(np.flatnonzero(has_frames))

    @property
    def cuts(self) -> Sequence[Any]:
        """All cuts that training may read, numbered as in the plan."""
        return ChainedCuts([self.train, *(part.cuts for part in self.mixed)]) if self.mixed else self.train

    def texts(self) -> Iterator[str]:
        """The texts of all cuts that training may read."""
        return itertools.chain(self.train.texts(), *(part.cuts.texts() for part in self.mixed))

    def epoch_texts(self) -> Iterator[str]:
        """The texts of about as many cuts as an epoch has: all of `train`, an evenly spread sample of each other folder."""
        epoch_s = self.train.durations_s.sum() / (1.0 - sum(part.share for part in self.mixed))
        drawn = []
        for part in self.mixed:
            num = len(part.cuts) * min(1.0, part.share * epoch_s / part.cuts.durations_s.sum())
            rows = np.linspace(0, len(part.cuts) - 1, max(1, round(num))).astype(np.int64)
            drawn.append(MixedData(part.cuts.take(rows), part.share))
        return dataclasses.replace(self, mixed=tuple(drawn)).texts()

    def plan(self, config: TrainConfig) -> BatchPlan:
        """Which utterances each batch of a run has."""
        mixed = [MixedPart(part.cuts.durations_s, part.share, part.copies_NS) for part in self.mixed]
        return BatchPlan(self.train.durations_s, config.batch, seed=config.seed, mixed=mixed, copies_NS=self.copies_NS)

    def reader(self, config: TrainConfig, tokenizer: Tokenizer) -> BatchReader:
        """What reads the batches of a run."""
        ratio = config.consistency.time_mask_ratio if config.consistency is not None else None
        features, batch = config.model.features, config.batch
        return BatchReader(self.cuts, tokenizer, features, batch, seed=config.seed, time_mask_ratio=ratio)


def read_split(folder: str | Path, name: str) -> IndexedCuts:
    """The cuts of "train", "dev" or "test" in a prepared folder; see `read_cuts`."""
    path = Path(folder) / f"{name}_cuts.jsonl.gz"
    is_there = path.is_file() or path.with_suffix("").is_file()
    if name == "dev" and not is_there and list(path.parent.glob("train_cuts.jsonl*")):
        raise DataError(
            f"there must be utterances to validate on in {path}, but there is no such file; prepare a source of 3 "
            f"utterances or more (dev_share above 0), or add others with: zipasr prepare SOURCE --as dev --out {folder}"
        )
    return read_cuts(path)


def read_cuts(path: Path) -> IndexedCuts:
    """The cuts of a lhotse manifest at 16 kHz; cuts without exactly one supervision with a text are skipped.

    If `path` ends in .gz and does not exist, the uncompressed file is read instead, which needs no copy for its index.

    Raises:
        DataError: the file does not exist, is not a manifest of cuts, or has a cut with another sampling rate.
    """
    if not path.is_file() and path.suffix == ".gz" and path.with_suffix("").is_file():
        path = path.with_suffix("")
    if not path.is_file():
        raise DataError(
            f"{path} must be a manifest of cuts, but there is no such file; make it with: "
            f"zipasr prepare SOURCE --out {path.parent}"
        )
    cuts = open_cuts(path)
    if len(cuts) < cuts.num_cuts:
        logger.warning("skipped %d of %d cuts in %s: not one text each", cuts.num_cuts - len(cuts), cuts.num_cuts, path)
    return cuts


def plain_batches(
    cuts: Sequence[Any], tokenizer: Tokenizer, features: FbankConfig, *, max_duration_s: float, seed: int = 0
) -> Iterator[Batch]:
    """Yield batches of cuts with text, of similar length, the longest first, not augmented.

    A batch has at most `max_duration_s` of audio, padding included.

    Raises:
        DataError: a cut cannot be read.
    """
    plain = BatchConfig(max_duration_s=max_duration_s, speed_factors=(1.0,), spec_augment=None)
    reader = BatchReader(cuts, tokenizer, features, plain, seed=seed)
    rest = sorted(range(len(cuts)), key=lambda i: cuts[i].duration)
    while rest:
        size = max(1, int(max_duration_s / max(cuts[rest[-1]].duration, 0.1)))
        chosen, rest = rest[-size:], rest[:-size]
        yield reader[0, 0, tuple(Item((i,), 1.0) for i in chosen)]


def make_tokenizer(cuts: IndexedCuts, config: TokenizerConfig, others: Sequence[IndexedCuts] = ()) -> Tokenizer:
    """The vocabulary: learned from the texts of the training cuts and those mixed in, or opened from the configured file.

    Raises:
        CheckpointError: the file cannot be used.
    """
    if config.file is not None:
        return read_vocabulary(Path(config.file))
    limit = config.max_texts if config.vocab_size is not None else MAX_CHARACTER_TEXTS
    texts = itertools.chain.from_iterable(_vocabulary_texts(part, limit) for part in (cuts, *others))
    return Tokenizer.train(texts, kind=config.kind, vocab_size=config.vocab_size)


def read_vocabulary(path: Path) -> Tokenizer:
    """The vocabulary of a file, as `tokenizer.file` names it; see `Tokenizer.from_file`.

    Raises:
        CheckpointError: the file cannot be used.
    """
    if not path.is_file():
        raise CheckpointError(f"tokenizer.file must be a vocabulary, but {path} cannot be read: there is no such file")
    return Tokenizer.from_file(path)


def _vocabulary_texts(cuts: IndexedCuts, limit: int | None) -> Iterable[str]:
    """All texts, or if they exceed the limit a subset that contains every character."""
    if limit is None or len(cuts) <= limit:
        return cuts.texts()
    spread = np.linspace(0, len(cuts) - 1, limit).astype(np.int64)
    first_of_each = np.array(list(cuts.characters.values()), dtype=np.int64)
    chosen = np.union1d(spread, first_of_each)
    logger.info("learning the vocabulary from %d of %d texts", len(chosen), len(cuts))
    return cuts.take(chosen).texts()


def select(cuts: IndexedCuts, dev_cuts: IndexedCuts, tokenizer: Tokenizer, config: TrainConfig) -> TrainData:
    """The data of a run, without training utterances, or copies of them at other speeds, that are too short, too long, or
    have more tokens than encoder frames, as `TrainConfig.use_copy_limits` and `use_token_limit` say.

    Raises:
        DataError: no training utterances are left, there are none to validate on that are long enough, or data to mix in
            cannot be used.
    """
    if not len(dev_cuts):
        raise DataError(
            f"there must be utterances to validate on, but dev_cuts.jsonl.gz in {config.data} holds none; move some there "
            "from train_cuts.jsonl.gz, or prepare 3 utterances or more"
        )
    train, dropped, copies_NS = _usable(cuts, tokenizer, config)
    mixed = []
    for mix in config.mix:
        others, _, other_copies_NS = _usable(read_split(mix.data, "train"), tokenizer, config)
        mixed.append(MixedData(others, mix.share, other_copies_NS))
    unknown = tokenizer.unknown_characters(" ".join(dev_cuts.characters))
    if unknown:
        logger.warning("dev texts hold characters that the vocabulary lacks: %s", " ".join(sorted(unknown)))
    data = TrainData(train, dev_cuts, dropped, tuple(mixed), copies_NS)
    num_short = len(dev_cuts) - len(data.scored_dev)
    if num_short == len(dev_cuts):
        raise DataError(
            f"there must be utterances of 0.1 s or more to validate on, but all {num_short} in dev_cuts.jsonl.gz in "
            f"{config.data} are too short; prepare longer ones"
        )
    if num_short:
        what = "skipped %d of %d utterances to validate on: too short for an encoder frame"
        logger.warning(what, num_short, len(dev_cuts))
    return data


def _usable(
    cuts: IndexedCuts, tokenizer: Tokenizer, config: TrainConfig
) -> tuple[IndexedCuts, dict[str, int], NDArray[np.bool_] | None]:
    """The cuts to train on, the number of skipped ones by reason, and which copies of those left are used (None: all)."""
    durations_s = cuts.durations_s
    speeds = np.array(config.batch.speed_factors)
    # Without limits for each copy, all copies share the decision, and the fastest one decides about tokens.
    speeds_L = speeds if config.use_copy_limits else np.ones(1)
    copy_s_NL: Any = np.round(durations_s[:, None] / speeds_L, 8)  # 22 s at 1.1 are 20 s
    is_short_NL, is_long_NL = copy_s_NL < config.min_duration_s, copy_s_NL > config.max_duration_s
    is_out_NL = is_short_NL | is_long_NL
    speeds_L = speeds if config.use_copy_limits else speeds.max(keepdims=True)
    is_dense_NL = _are_dense(cuts, tokenizer, config, speeds_L, is_possible=~is_out_NL.all(1))
    is_out_NL = is_out_NL | is_dense_NL
    is_out, is_short, is_long = is_out_NL.all(1), is_short_NL.all(1), is_long_NL.all(1)
    dropped = {
        reason: int(is_there.sum())
        for reason, is_there in (
            ("too short", is_short),
            ("too long", is_long),
            ("more tokens than encoder frames", is_out & ~is_short & ~is_long),
        )
        if is_there.any()
    }
    for reason, count in dropped.items():
        logger.warning("skipped %d of %d training utterances: %s", count, len(cuts), reason)
    kept = np.flatnonzero(~is_out)
    if not len(kept):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"
        raise DataError(
            f"there must be utterances to train on, but of {len(cuts)} none is left ({reasons}); "
            f"{'use tokens of several letters (tokenizer.kind=unigram), ' if is_dense_NL.any() else ''}"
            "change min_duration_s or max_duration_s, or check the data"
        )
    copies_NS = ~is_out_NL[kept]
    if copies_NS.all():
        copies_NS = None
    else:
        logger.warning("skipped %d of %d copies at other speeds: beyond the same limits", (~copies_NS).sum(), copies_NS.size)
    return cuts if len(kept) == len(cuts) else cuts.take(kept), dropped, copies_NS


def _are_dense(
    cuts: IndexedCuts,
    tokenizer: Tokenizer,
    config: TrainConfig,
    speeds_L: NDArray[np.float64],
    *,
    is_possible: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """(N, L) whether an utterance that is possible otherwise has fewer encoder frames at a speed than its tokens need."""
    is_dense_NL = np.zeros((len(cuts), len(speeds_L)), dtype=np.bool_)
    # Only texts that may have too many tokens must be read.
    tokens_per_character = tokenizer.most_tokens_per_character
    for first in range(0, len(cuts), _BLOCK_CUTS):
        block = slice(first, first + _BLOCK_CUTS)
        frames_at = [encoder_frames_at(cuts.durations_s[block], float(speed)) for speed in speeds_L]
        num_frames_NL = np.stack(frames_at, axis=1)
        if not config.use_token_limit:
            is_dense_NL[block] = num_frames_NL < 1
            continue
        is_doubtful = num_frames_NL.min(1) < tokens_per_character * (cuts.num_characters[block] + 1)
        for i in np.flatnonzero(is_doubtful & is_possible[block]):
            tokens = tokenizer.encode(cuts[first + int(i)].supervisions[0].text)
            is_dense_NL[first + i] = num_frames_NL[i] < frames_needed(tokens, has_ctc=config.model.ctc is not None)
    return is_dense_NL


def encoder_frames_at(durations_s: NDArray[np.float64], speed: float) -> NDArray[np.int64]:
    """(N,) frames at 25 Hz of utterances of these seconds at a speed; see `data.lengths.num_encoder_frames`."""
    num_samples = np.floor(np.round(durations_s * SAMPLE_RATE_HZ, 8) + 0.5)  # as lhotse counts the samples of a cut
    at_speed: Any = (num_samples / speed).astype(np.int64)
    num_frames: Any = Fbank().num_frames(at_speed)
    return output_lengths(torch.from_numpy(num_frames)).numpy()
