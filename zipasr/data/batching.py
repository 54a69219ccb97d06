"""From utterances on disk to padded batches: `BatchReader` reads the items of a plan into a `Batch`.

`zipasr.data.plan` decides what is read, and `zipasr.data.reading` in which processes. The augmentation of a batch depends
only on (seed, epoch, index), so a resumed run gets the same batches. Lhotse reads the audio of the cuts and changes its
speed; features are (N, T, F) at 100 Hz, padded with `features.PADDING_VALUE`, or (2N, T, F) with two views of every
utterance.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.config import require_fields
from zipasr.data.augment import SpecAugmentConfig, seeded, spec_augment, two_views
from zipasr.data.noise import NoiseConfig, NoiseDraws, NoiseMixer
from zipasr.data.reverberation import ReverberationConfig, draw_room, reverberated
from zipasr.data.variation import Variation, VariationConfig
from zipasr.encoder.rates import FEATURE_RATE_HZ
from zipasr.errors import ConfigError, DataError
from zipasr.features import PADDING_VALUE, Fbank, FbankConfig
from zipasr.randomness import stable_seed
from zipasr.tokenizer import Tokenizer

_VARIATION = 1
"""Number of the variation's random draws among those of a batch."""
_ROOMS = 2
"""Number of those of the reverberation."""
_SAMPLES_PER_FRAME = SAMPLE_RATE_HZ / FEATURE_RATE_HZ


class Batch(NamedTuple):
    """A padded batch of features and labels."""

    features: Tensor
    """(N, T, F) at 100 Hz; or (2N, T, F), rows n and N + n are two views of one utterance."""
    feature_lens: Tensor
    """(N,) or (2N,) valid frames, int64."""
    labels: Tensor
    """(N, S) ids, padded with the blank, int64."""
    label_lens: Tensor
    """(N,) valid labels, int64."""
    ids: tuple[str, ...]
    """Names of the utterances, for messages."""
    audio_s: float
    """Seconds of audio, without padding; two views count once."""


class Item(NamedTuple):
    """One or more utterances that are concatenated, at a given speed."""

    utterances: tuple[int, ...]
    speed: float


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How utterances are batched and augmented in training."""

    max_duration_s: float = 200.0
    """Upper bound on the seconds of audio in a batch, padding included."""
    num_buckets: int = 30
    """Number of buckets by duration, of about equal total duration; a batch is drawn from one bucket."""
    speed_factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    """An epoch contains every utterance once at each of these speeds."""
    concat_prob: float = 0.0
    """Probability that an utterance is concatenated with random others; for data with short utterances."""
    concat_max_s: float = 10.0
    """Upper bound on the duration of a concatenated utterance, before its speed is changed."""
    noise: NoiseConfig | None = None
    """Noise to mix into the features, or None."""
    reverberation: ReverberationConfig | None = None
    """Random rooms, or None; reverberated utterances do not come from the cache."""
    variation: VariationConfig | None = None
    """Variation of voice, level and silence, or None; for data with few voices."""
    spec_augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    """Time warping and masks, or None."""
    spec_augment_from_epoch: int = 0
    """First epoch, from 0, with warping and masks; a small model on little data learns to align earlier without them."""
    max_unreadable_share: float = 0.01
    """Utterances whose audio cannot be read are skipped; the run stops if they exceed this share."""
    cache_mb: int = 0
    """Size of the feature cache in MiB per worker process, kept across epochs; 0: audio is read every time."""

    def __post_init__(self) -> None:
        require_fields(self, "positive", "max_duration_s")
        require_fields(self, "at least 1", "num_buckets")
        if not self.speed_factors or not all(0.3 <= factor <= 3.0 for factor in self.speed_factors):
            raise ConfigError(f"speed_factors must be one or more numbers of 0.3 to 3, but are {self.speed_factors}")
        require_fields(self, "within 0 and 1", "concat_prob", "max_unreadable_share")
        require_fields(self, "0 or more", "concat_max_s", "cache_mb")


class _Utterance(NamedTuple):
    """Clean features of one or more utterances."""

    features: Tensor
    """(T, F) at 100 Hz."""
    num_samples: int
    """Samples at 16 kHz."""


class _UnreadableError(DataError):
    """The audio of one utterance cannot be read."""


class Unreadable(NamedTuple):
    """An utterance that was dropped from a batch."""

    utterance: int
    """Its number in the plan."""
    reason: str
    """A sentence with its id and file."""


class ReadBatch(NamedTuple):
    """The readable part of a planned batch."""

    batch: Batch | None
    """None if nothing could be read, or the plan was empty."""
    unreadable: tuple[Unreadable, ...]
    """The utterances that were dropped."""
    num_planned: int
    """Number of utterances in the plan of the batch."""


class BatchReader(Dataset[Batch]):
    """Reads the audio of planned items and returns batches."""

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
        """Create a reader; files are opened on access.

        Args:
            cuts: the utterances, by their numbers in the plan.
            tokenizer: converts texts to labels.
            features: feature configuration of the model.
            config: batches and augmentation.
            seed: seed of the augmentation.
            time_mask_ratio: factor of the number of time masks for two views of every utterance; None: one view.
        """
        self.cuts, self.tokenizer, self.config, self.seed = cuts, tokenizer, config, seed
        self.time_mask_ratio = time_mask_ratio
        self.fbank = Fbank(features)
        self._noise = NoiseMixer(config.noise, self.fbank) if config.noise is not None else None
        self._variation = Variation(config.variation, features) if config.variation is not None else None
        self._cache: OrderedDict[tuple[int, float], _Utterance] = OrderedDict()
        self._cache_bytes = 0

    def __getitem__(self, key: Any) -> Batch:
        """The batch of `key` = (epoch, index, items), augmented as configured.

        Raises:
            DataError: an utterance cannot be read.
        """
        read = self.read(key)
        if read.unreadable:
            raise DataError(read.unreadable[0].reason)
        assert read.batch is not None, "a batch must have an item"
        return read.batch

    def read(self, key: Any) -> ReadBatch:
        """The readable part of the batch of `key` = (epoch, index, items)."""
        epoch, index, items = key
        ids, texts, utterances, unreadable = [], [], [], []
        seed = stable_seed(self.seed, epoch, index)
        rooms = np.random.default_rng((seed, _ROOMS))
        num_planned = sum(len(item.utterances) for item in items)
        for item in items:
            parts = []
            for utterance in item.utterances:
                config = self.config.reverberation
                room = draw_room(config, rooms) if config is not None else None
                try:
                    cut = self.cuts[utterance]
                    parts.append((cut.id, cut.supervisions[0].text, self._read(utterance, cut, item.speed, room)))
                except _UnreadableError as error:
                    unreadable.append(Unreadable(utterance, str(error)))
            if parts:
                ids.append("+".join(part[0] for part in parts))
                texts.append(" ".join(part[1] for part in parts))
                features = torch.cat([part[2].features for part in parts])
                utterances.append(_Utterance(features, sum(part[2].num_samples for part in parts)))
        if not utterances:
            return ReadBatch(None, tuple(unreadable), num_planned)
        utterances = self._varied(utterances, np.random.default_rng((seed, _VARIATION)))
        lens = torch.tensor([len(utterance.features) for utterance in utterances])
        draws = self._noise.draw(len(utterances), np.random.default_rng(seed)) if self._noise is not None else None
        if draws is not None and draws.is_alone is not None:
            texts = ["" if is_alone else text for text, is_alone in zip(texts, draws.is_alone, strict=True)]
        padded = self._padded(utterances, draws)
        with seeded(seed):
            views = self._views(padded, lens, epoch)
        labels = [torch.tensor(self.tokenizer.encode(text), dtype=torch.int64) for text in texts]
        batch = Batch(
            features=views,
            feature_lens=lens if self.time_mask_ratio is None else lens.repeat(2),
            labels=pad_sequence(labels, batch_first=True, padding_value=self.tokenizer.blank_id),
            label_lens=torch.tensor([len(label) for label in labels]),
            ids=tuple(ids),
            audio_s=float(lens.sum()) / FEATURE_RATE_HZ,
        )
        return ReadBatch(batch, tuple(unreadable), num_planned)

    def _varied(self, utterances: list[_Utterance], rng: np.random.Generator) -> list[_Utterance]:
        """The utterances, varied if configured."""
        if self._variation is None:
            return utterances
        varied = [self._variation(utterance.features, rng) for utterance in utterances]
        return [
            _Utterance(frames, utterance.num_samples + round((len(frames) - len(utterance.features)) * _SAMPLES_PER_FRAME))
            for frames, utterance in zip(varied, utterances, strict=True)
        ]

    def _padded(self, utterances: Sequence[_Utterance], draws: NoiseDraws | None) -> Tensor:
        """Features (N, T, F) of a batch, with noise as drawn; it continues over the padding of its utterance."""
        features = [utterance.features for utterance in utterances]
        if self._noise is not None and draws is not None:
            features = self._noise.mix(features, [utterance.num_samples for utterance in utterances], draws)
        features = [self.fbank.normalized(frames) for frames in features]
        return pad_sequence(features, batch_first=True, padding_value=PADDING_VALUE)

    def _views(self, padded: Tensor, lens: Tensor, epoch: int) -> Tensor:
        """One or two views of every utterance, augmented from `spec_augment_from_epoch` on."""
        config, ratio = self.config.spec_augment, self.time_mask_ratio
        if config is None or epoch < self.config.spec_augment_from_epoch:
            return padded if ratio is None else padded.repeat(2, 1, 1)
        if ratio is None:
            return spec_augment(padded, lens, config)
        return two_views(padded, lens, config, time_mask_ratio=ratio)

    def _read(self, utterance: int, cut: Any, speed: float, room: np.ndarray | None) -> _Utterance:
        """One utterance at one speed, from the cache or from its audio; in a room if the response of one is given."""
        cached = self._cache.get((utterance, speed)) if room is None else None
        if cached is not None:
            self._cache.move_to_end((utterance, speed))
            return cached
        try:
            samples = (cut if speed == 1.0 else cut.perturb_speed(speed)).load_audio()[0]
            if not np.isfinite(samples).all():
                raise ValueError("it contains samples that are not finite")
        except Exception as error:  # lhotse's readers raise many types
            files = (
                ", ".join(str(source.source) for source in cut.recording.sources) if cut.has_recording else "no recording"
            )
            reason = next(iter(str(error).splitlines()), type(error).__name__).removesuffix(" Details:").removesuffix(".")
            raise _UnreadableError(
                f"the audio of {cut.id} ({files}) can no longer be read: {reason}; run zipasr prepare again"
            ) from error
        if room is not None:
            return _Utterance(self.fbank(reverberated(samples, room)), len(samples))
        read = _Utterance(self.fbank(samples), len(samples))
        self._remember((utterance, speed), read)
        return read

    def _remember(self, key: tuple[int, float], read: _Utterance) -> None:
        limit = self.config.cache_mb * 2**20
        if limit == 0:
            return
        self._cache[key] = read
        self._cache_bytes += read.features.nbytes
        while self._cache_bytes > limit:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= dropped.features.nbytes
