"""How a source is prepared: the settings of `zipasr prepare`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from zipasr.errors import ConfigError
from zipasr.prepare.splits import NOISE, SPLITS
from zipasr.prepare.validate import Limits

TEXT_STYLES = ("as-written", "words")
TAGS = ("keep", "drop")
CHOICE_OF_SPLITS = ("dev_share", "test_share", "max_held_out", "seed")
"""The settings that only matter where utterances are held out."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a source is prepared."""

    lang: str = "en"
    """Language of entries that name none; for prompts, the language of the package."""
    text_style: str | None = None
    """as-written, or words (upper case, no punctuation, digits spelled out). None: words for prompts only."""
    split: str | None = None
    """train, dev or test, to keep the whole source as this part, beside the others in the output folder; noise, for
    recordings to mix into utterances, without their texts; None: as the source names its parts, or by the shares below."""
    tags: str | None = None
    """What to do with tags in texts, such as [laughter] and <noise>: keep or drop. None: drop if the texts become words."""
    dev_share: float = 0.1
    """Share of the utterances held out for dev if the source has no splits."""
    test_share: float = 0.1
    """Share of the utterances held out for test if the source has no splits."""
    max_held_out: int = 1000
    """Upper bound on the utterances in each of dev and test if the source has no splits."""
    seed: int = 0
    """Seed of the random choice of held-out utterances."""
    limits: Limits = field(default_factory=Limits)
    """Allowed durations of an utterance."""
    num_jobs: int = 2
    """Number of recordings that are decoded at once."""
    allow_damaged: bool = False
    """Whether to accept damaged and truncated recordings, with silence for what cannot be decoded; False rejects them."""
    align_with: str | None = None
    """Model folder with a CTC head that aligns recordings that are too long with their texts, so that they can be cut."""
    min_align_confidence: float = 0.3
    """Pieces of such a recording whose words have a lower confidence are rejected (docs/own_data.md)."""
    subset: str | None = None
    """Training part of a published corpus, such as M of GigaSpeech; None: that of the published recipe."""

    def __post_init__(self) -> None:
        if self.text_style not in (None, *TEXT_STYLES):
            raise ConfigError(f"text_style must be {' or '.join(TEXT_STYLES)}, but is {self.text_style!r} instead")
        if self.split not in (None, *SPLITS, NOISE):
            raise ConfigError(f"split must be {', '.join(SPLITS)}, {NOISE}, or none, but is {self.split!r} instead")
        if self.tags not in (None, *TAGS):
            raise ConfigError(f"tags must be {' or '.join(TAGS)}, but is {self.tags!r} instead")
        if min(self.dev_share, self.test_share) < 0 or self.dev_share + self.test_share >= 1:
            raise ConfigError(
                "dev_share and test_share must be from 0 up and less than 1 together, "
                f"but are {self.dev_share} and {self.test_share} instead"
            )
        if not 0 <= self.min_align_confidence <= 1:
            raise ConfigError(f"min_align_confidence must be from 0 to 1, but is {self.min_align_confidence} instead")
        if self.num_jobs < 1 or self.max_held_out < 1:
            raise ConfigError(
                f"num_jobs and max_held_out must be 1 or more, but are {self.num_jobs} and {self.max_held_out} instead"
            )

    def refuse(self, names: Iterable[str], source: str) -> None:
        """Raise ConfigError if a setting differs from its default although it has no effect.

        Args:
            names: settings without effect, such as limits.max_duration_s.
            source: what they have no effect for, and why.
        """
        for name in names:
            value = attrgetter(name)(self)
            if value != attrgetter(name)(PrepareConfig()):
                raise ConfigError(f"{name} must be left out for {source}, but is {value}")
