"""From cuts on disk to padded batches: `BatchPlan` decides what goes together, `BatchReader` makes a `Batch` of it.

The plan of an epoch follows from (seed, epoch) alone, and the augmentation of a batch from (seed, epoch, index), so a
run that resumes at any batch sees what it would have seen, at no cost. Lhotse keeps the cuts, reads the sound and
changes its speed; features are (N, T, F) at 100 Hz, padded with `features.PADDING_VALUE`, or (2N, T, F) where every
utterance is to be seen twice.
"""

import hashlib
import signal
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from zipasr.data.augment import SpecAugmentConfig, seeded, spec_augment, two_views
from zipasr.errors import ConfigError, DataError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.tokenizer import Tokenizer


class Batch(NamedTuple):
    """A padded batch."""

    features: Tensor
    """(N, T, F) at 100 Hz; or (2N, T, F), rows n and N + n being two views of one utterance."""
    feature_lens: Tensor
    """(N,) or (2N,) valid frames, int64."""
    labels: Tensor
    """(N, S) ids, padded with the blank, int64."""
    label_lens: Tensor
    """(N,) valid labels, int64."""
    ids: tuple[str, ...]
    """Names of the utterances, for messages."""
    audio_s: float
    """Seconds of sound in it, padding not counted; a second view adds none."""


class Item(NamedTuple):
    """One or more utterances, read one after the other as if they were one, at a given speed."""

    utterances: tuple[int, ...]
    speed: float


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How utterances are put together while training."""

    max_duration_s: float = 200.0
    """Most seconds of sound in a batch, padding included."""
    num_buckets: int = 30
    """Utterances are sorted into this many groups of about equal total duration; a batch stays within one."""
    speed_factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    """An epoch holds every utterance once at each of these speeds."""
    concat_prob: float = 0.0
    """Probability that an utterance is joined to others, drawn at random, to a longer one; for short utterances."""
    concat_max_s: float = 10.0
    """A joined utterance is not longer than this, before its speed is changed."""
    spec_augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    """Warping and masks, or None."""
    spec_augment_from_epoch: int = 0
    """First epoch, from 0, with warping and masks; a small model on little data learns to align sooner without them."""
    cache_mb: int = 0
    """Features kept in memory from epoch to epoch, in MiB for each process that reads; 0 reads the sound anew each time."""

    def __post_init__(self) -> None:
        if self.max_duration_s <= 0:
            raise ConfigError(f"max_duration_s must be positive, but is {self.max_duration_s}")
        if self.num_buckets < 1:
            raise ConfigError(f"num_buckets must be at least 1, but is {self.num_buckets}")
        if not self.speed_factors or min(self.speed_factors) < 0.3 or max(self.speed_factors) > 3.0:
            raise ConfigError(f"speed_factors must be one or more numbers of 0.3 to 3, but are {self.speed_factors}")
        if not 0.0 <= self.concat_prob <= 1.0:
            raise ConfigError(f"concat_prob must be within 0 and 1, but is {self.concat_prob}")
        for name in ("concat_max_s", "cache_mb"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, but is {getattr(self, name)}")


class BatchPlan:
    """What is read when: for each epoch a list of batches, each a tuple of items."""

    def __init__(self, durations_s: Sequence[float], config: BatchConfig, *, seed: int) -> None:
        if len(durations_s) == 0:
            raise DataError("there must be at least one utterance to train on, but there is none; see rejected.jsonl")
        self.durations_s = np.asarray(durations_s, dtype=np.float64)
        self.config, self.seed = config, seed

    def epoch(self, epoch: int) -> list[tuple[Item, ...]]:
        """The batches of an epoch, counted from 0, in the order of reading."""
        rng = np.random.default_rng(stable_seed(self.seed, epoch))
        items = self._items(rng)
        durations = np.array([self.item_duration_s(item) for item in items])
        order = np.argsort(durations, kind="stable")
        batches: list[tuple[Item, ...]] = []
        for bucket in self._split(order, durations):
            batches += self._fill(rng.permutation(bucket), items, durations)
        return [batches[i] for i in rng.permutation(len(batches))]

    def item_duration_s(self, item: Item) -> float:
        """Seconds of an item as it is read."""
        return float(sum(self.durations_s[i] for i in item.utterances) / item.speed)

    def _items(self, rng: np.random.Generator) -> list[Item]:
        config = self.config
        items = []
        for speed in config.speed_factors:
            queue = [int(i) for i in rng.permutation(len(self.durations_s))]
            while queue:
                joined = [queue.pop()]
                total = self.durations_s[joined[0]]
                if config.concat_prob > 0.0 and rng.random() < config.concat_prob:
                    limit = rng.uniform(0.0, config.concat_max_s)
                    while queue and total + self.durations_s[queue[-1]] <= limit:
                        total += self.durations_s[queue[-1]]
                        joined.append(queue.pop())
                items.append(Item(tuple(joined), speed))
        return items

    def _split(self, order: np.ndarray[Any, Any], durations: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Cut the items, sorted by duration, into buckets of about equal total duration."""
        total = durations[order].cumsum()
        bucket_of = np.minimum((total * self.config.num_buckets / total[-1]).astype(int), self.config.num_buckets - 1)
        return [order[bucket_of == i] for i in range(self.config.num_buckets) if (bucket_of == i).any()]

    def _fill(
        self, bucket: np.ndarray[Any, Any], items: list[Item], durations: np.ndarray[Any, Any]
    ) -> list[tuple[Item, ...]]:
        batches: list[tuple[Item, ...]] = []
        batch: list[Item] = []
        longest = 0.0
        for i in bucket:
            longest_with = max(longest, float(durations[i]))
            if batch and longest_with * (len(batch) + 1) > self.config.max_duration_s:
                batches.append(tuple(batch))
                batch, longest_with = [], float(durations[i])
            batch.append(items[int(i)])
            longest = longest_with
        batches.append(tuple(batch))
        return batches


class BatchReader(Dataset[Batch]):
    """Reads the sound of planned items and makes batches of them."""

    def __init__(
        self,
        cuts: Sequence[Any],
        tokenizer: Tokenizer,
        features: FbankConfig,
        config: BatchConfig,
        *,
        seed: int,
        time_mask_ratio: float | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            cuts: the utterances that items count.
            tokenizer: makes labels of their texts.
            features: what the model listens to.
            config: batches and augmentation.
            seed: of the augmentation.
            time_mask_ratio: make two views of every utterance, with this many times the time masks; None: one view.
        """
        self.cuts, self.tokenizer, self.config, self.seed = cuts, tokenizer, config, seed
        self.time_mask_ratio = time_mask_ratio
        self.fbank = Fbank(features)
        self._cache: OrderedDict[tuple[int, float], Tensor] = OrderedDict()
        self._cache_bytes = 0

    def __getitem__(self, key: Any) -> Batch:
        """The batch of `key` = (epoch, index, items); augmented if the configuration says so."""
        epoch, index, items = key
        features = [torch.cat([self._features(i, item.speed) for i in item.utterances]) for item in items]
        lens = torch.tensor([len(f) for f in features])
        padded = pad_sequence(features, batch_first=True, padding_value=PADDING_VALUE)
        with seeded(stable_seed(self.seed, epoch, index)):
            views = self._views(padded, lens, epoch)
        texts = [" ".join(self.cuts[i].supervisions[0].text for i in item.utterances) for item in items]
        labels = [torch.tensor(self.tokenizer.encode(text), dtype=torch.int64) for text in texts]
        return Batch(
            features=views,
            feature_lens=lens if self.time_mask_ratio is None else lens.repeat(2),
            labels=pad_sequence(labels, batch_first=True, padding_value=self.tokenizer.blank_id),
            label_lens=torch.tensor([len(label) for label in labels]),
            ids=tuple("+".join(self.cuts[i].id for i in item.utterances) for item in items),
            audio_s=float(lens.sum()) / 100.0,
        )

    def _views(self, padded: Tensor, lens: Tensor, epoch: int) -> Tensor:
        """One or two views of every utterance, augmented if that has begun."""
        config, ratio = self.config.spec_augment, self.time_mask_ratio
        if config is None or epoch < self.config.spec_augment_from_epoch:
            return padded if ratio is None else padded.repeat(2, 1, 1)
        if ratio is None:
            return spec_augment(padded, lens, config)
        return two_views(padded, lens, config, time_mask_ratio=ratio)

    def _features(self, utterance: int, speed: float) -> Tensor:
        """Features (T, F) of one utterance at one speed, from memory if they are still there."""
        cached = self._cache.get((utterance, speed))
        if cached is not None:
            self._cache.move_to_end((utterance, speed))
            return cached
        cut = self.cuts[utterance]
        try:
            samples = (cut if speed == 1.0 else cut.perturb_speed(speed)).load_audio()
        except Exception as error:  # whatever lhotse's many readers raise
            files = (
                ", ".join(str(source.source) for source in cut.recording.sources) if cut.has_recording else "no recording"
            )
            reason = next(iter(str(error).splitlines()), type(error).__name__).removesuffix(" Details:")
            raise DataError(
                f"the sound of {cut.id} ({files}) cannot be read any more: {reason} Run prepare again"
            ) from error
        features = self.fbank(samples[0])
        self._remember((utterance, speed), features)
        return features

    def _remember(self, key: tuple[int, float], features: Tensor) -> None:
        limit = self.config.cache_mb * 2**20
        if limit == 0:
            return
        self._cache[key] = features
        self._cache_bytes += features.numel() * features.element_size()
        while self._cache_bytes > limit:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= dropped.numel() * dropped.element_size()


class _Position(torch.utils.data.Sampler[Any]):
    """Yields (epoch, index, items) from a given position to the end of the last epoch; notes the place of each."""

    def __init__(self, plan: BatchPlan, *, epoch: int, index: int, num_epochs: int) -> None:
        self.plan, self.start, self.num_epochs = plan, (epoch, index), num_epochs
        self.places: deque[tuple[int, int, bool]] = deque()
        """Epoch, index and whether it ends the epoch, of what was asked for and not yet taken."""

    def __iter__(self) -> Iterator[Any]:
        first_epoch, first_index = self.start
        for epoch in range(first_epoch, self.num_epochs):
            batches = self.plan.epoch(epoch)
            start = first_index if epoch == first_epoch else 0
            for index in range(start, len(batches)):
                self.places.append((epoch, index, index == len(batches) - 1))
                yield epoch, index, batches[index]


class _Messenger(Dataset["Batch | DataError"]):
    """A reader that gives its errors back: raised in another process, they would arrive as the text of a traceback."""

    def __init__(self, reader: BatchReader) -> None:
        self.reader = reader

    def __getitem__(self, key: Any) -> Batch | DataError:
        try:
            return self.reader[key]
        except DataError as error:
            return error


class PlacedBatch(NamedTuple):
    """A batch and where in the run it stands."""

    epoch: int
    batch_index: int
    """Position in the epoch, from 0."""
    is_last: bool
    """Whether it ends its epoch."""
    batch: Batch


def read_batches(
    plan: BatchPlan, reader: BatchReader, *, epoch: int, index: int, num_epochs: int, num_workers: int
) -> Iterator[PlacedBatch]:
    """Read the batches of a run from a position on.

    Args:
        plan: what to read.
        reader: how to read it.
        epoch: first epoch, from 0.
        index: first batch in it, from 0.
        num_epochs: epochs of the whole run.
        num_workers: processes that read ahead; 0 reads in this one.
    Raises:
        DataError: an utterance cannot be read, or a process that reads ahead died.
    """
    position = _Position(plan, epoch=epoch, index=index, num_epochs=num_epochs)
    loader: DataLoader[Batch | DataError] = DataLoader(
        _Messenger(reader),
        batch_size=None,
        sampler=position,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_interrupts_to_main,
        generator=torch.Generator(),  # the global one would be drawn from here: a resumed run would go another way
    )
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads data died ({error}), most likely for lack of memory or shared memory; "
                "lower num_workers or batch.cache_mb, then run the same command again"
            ) from error
        if isinstance(batch, DataError):
            raise batch
        yield PlacedBatch(*position.places.popleft(), batch)


def _unchanged(batch: Any) -> Any:
    """Keep torch from converting the fields of a batch."""
    return batch


def _leave_interrupts_to_main(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; readers must live on until the trainer has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stable_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
