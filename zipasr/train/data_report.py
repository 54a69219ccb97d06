"""What a run would skip of its data, and why: counts by reason, as a table and as an error where too much would be lost."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import DataError
from zipasr.train.bars import bars

_NUM_EXAMPLES = 3
_NUM_CHARACTERS = 30


class Finding(StrEnum):
    """What is found about an utterance, as it is printed."""

    NO_TEXT = "without exactly one text"
    NO_AUDIO = "without audio"
    SAMPLING_RATE = f"not at {SAMPLE_RATE_HZ // 1000} kHz"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    TOO_MANY_TOKENS = "with more tokens than encoder frames"
    NOT_EVERY_SPEED = "not used at every speed"
    REPEATED_ID = "with an id that came before"
    SHARED_ID = "with an id of the training part"
    SHARED_TEXT = "with a text of the training part"
    BEYOND_RECORDING = "ending after the recording does"
    UNKNOWN_CHARACTERS = "with characters that the vocabulary lacks"
    NO_RECORDING = "without their recording"


@dataclass
class SplitReport:
    """Findings in one split, or in a folder that is mixed in."""

    name: str
    mixed_from: str = ""
    """Folder that is mixed in, or empty for a split of the data of the run."""
    num_utterances: int = 0
    """Number of checked utterances."""
    num_there: int | None = None
    """Total number of utterances; None if unknown without reading on."""
    num_textless: int = 0
    """Number of further utterances that the index skips because they have no text or several."""
    durations_s: list[float] = field(default_factory=list)
    token_counts: list[int] = field(default_factory=list)
    """Number of tokens of each utterance that has a text."""
    num_lost: Counter[Finding] = field(default_factory=Counter)
    """Number of utterances that cannot be used, by reason; each counts once."""
    num_missing: int = 0
    """Number of utterances without their recording, of `num_files_checked`."""
    num_files_checked: int = 0
    num_noted: Counter[Finding] = field(default_factory=Counter)
    """Number of utterances that are used despite an irregularity, by kind."""
    examples: dict[Finding, list[str]] = field(default_factory=dict)
    """Ids of the first affected utterances, by reason."""
    unknown: str = ""
    """Characters that are not in the vocabulary."""

    @property
    def is_trained_on(self) -> bool:
        """Whether a run learns from these utterances, so that its limits apply to them."""
        return self.name == "train" or bool(self.mixed_from)

    @property
    def noun(self) -> str:
        """What the utterances are called in messages."""
        return f"utterances mixed in from {self.mixed_from}" if self.mixed_from else "training utterances"

    @property
    def is_sample(self) -> bool:
        """Whether only a part of the utterances was checked."""
        return self.num_there is None or self.num_there > self.num_utterances

    @property
    def lost_share(self) -> float:
        """Share of the utterances that cannot be used."""
        missing = self.num_missing / max(self.num_files_checked, 1)
        lost = min(1.0, self.num_lost.total() / max(self.num_utterances, 1) + missing)
        textless = self.num_textless / max(self.num_textless + (self.num_there or self.num_utterances), 1)
        return textless + (1.0 - textless) * lost

    def lose(self, reason: Finding, id: str) -> None:
        """Count an utterance that cannot be used."""
        self.num_lost[reason] += 1
        self.remember(reason, id)

    def note(self, what: Finding, id: str) -> None:
        """Count an utterance with an irregularity."""
        self.num_noted[what] += 1
        self.remember(what, id)

    def remember(self, reason: Finding, id: str) -> None:
        """Keep an id as an example, up to a maximum number."""
        known = self.examples.setdefault(reason, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(id)


@dataclass(frozen=True)
class DataReport:
    """Findings in the data of a run."""

    splits: dict[str, SplitReport]
    max_lost_share: float
    max_unknown_share: float = 1.0
    vocabulary_cure: str = ""
    """What to do if the vocabulary lacks characters."""
    mixtures: str = ""
    """A line about spellings that are mixed, or empty."""

    def require_usable(self) -> None:
        """Check that enough training data is left, that it is in the vocabulary, and that validation is meaningful.

        Raises:
            DataError: the training set, or a folder that is mixed in, would lose more than `max_lost_share`, or everything;
                more than `max_unknown_share` of it has unknown characters; the dev set is empty or has a repeated id.
        """
        for split in self.splits.values():
            if split.is_trained_on:
                self._require_enough(split)
                self._require_known_characters(split)
        dev = self.splits["dev"]
        if dev.num_utterances == 0:
            raise DataError(
                "there must be utterances to validate on, but the dev manifest holds none; move some there from the "
                "training manifest, or prepare 3 utterances or more"
            )
        num_repeated = dev.num_noted[Finding.REPEATED_ID]
        if num_repeated:
            names = ", ".join(dev.examples[Finding.REPEATED_ID])
            raise DataError(
                f"every utterance to validate on must have an id of its own, but {num_repeated:,} ids come "
                f"again ({names}), so that errors would be counted against another text; rename them"
            )

    def _require_enough(self, split: SplitReport) -> None:
        if split.num_utterances == 0:
            manifest = f"train_cuts.jsonl.gz in {split.mixed_from}" if split.mixed_from else "the training manifest"
            raise DataError(f"there must be utterances to train on, but {manifest} holds none; prepare the data again")
        if split.lost_share <= self.max_lost_share and split.lost_share < 1.0:
            return
        reasons = [f"{count:,} {reason}" for reason, count in split.num_lost.most_common()]
        if split.num_textless:
            reasons.append(f"{split.num_textless:,} {Finding.NO_TEXT}")
        if split.num_missing:
            missing = f"{split.num_missing:,} of {split.num_files_checked:,} without their recording"
            reasons.append(f"{missing}, such as {split.examples[Finding.NO_RECORDING][0]}")
        raise DataError(
            f"at most {self.max_lost_share:.0%} of the {split.noun} may be lost (max_lost_share), but "
            f"{split.lost_share:.1%} of {split.num_utterances:,} would be: {', '.join(reasons)}; "
            f"{', or '.join(_cures(split))}"
        )

    def _require_known_characters(self, split: SplitReport) -> None:
        num_unknown = split.num_noted[Finding.UNKNOWN_CHARACTERS]
        if num_unknown > self.max_unknown_share * split.num_utterances:
            raise DataError(
                f"at most {self.max_unknown_share:.0%} of the {split.noun} may have characters that the vocabulary "
                f"lacks (max_unknown_share), but {num_unknown / split.num_utterances:.1%} of {split.num_utterances:,} have: "
                f"{' '.join(split.unknown[:_NUM_CHARACTERS])}{' ...' if len(split.unknown) > _NUM_CHARACTERS else ''}; the "
                f"model would learn to write <unk> there. {self.vocabulary_cure}"
            )

    def format_table(self) -> str:
        """The report as a table for a terminal."""
        lines = [f"{'split':<8}{'utterances':>12}{'hours':>10}{'lost':>9}   looked at"]
        for name, split in self.splits.items():
            looked_at = "all"
            if split.is_sample:
                looked_at = f"{split.num_utterances:,}, spread evenly" if split.num_there else "the first ones only"
            looked_at += f" of {split.mixed_from}" if split.mixed_from else ""
            number = split.num_there or split.num_utterances
            hours = sum(split.durations_s) / 3600.0 * number / max(split.num_utterances, 1)
            lines.append(f"{name:<8}{number:>12,}{hours:>10,.2f}{split.lost_share:>9.2%}   {looked_at}")
        for name, split in self.splits.items():
            lines += _problems(name, split)
        lines += [self.mixtures] if self.mixtures else []
        train = self.splits["train"]
        lines += bars("train: seconds of an utterance", train.durations_s)
        lines += bars("train: tokens of an utterance", train.token_counts)
        return "\n".join(line.rstrip() for line in lines)


def _problems(name: str, split: SplitReport) -> list[str]:
    """Messages about skipped utterances and irregularities of a split."""
    lines = []
    verb = "lost" if split.is_trained_on else "cannot be scored"
    found = [(count, split.num_utterances, reason, verb) for reason, count in split.num_lost.most_common()]
    found += [(split.num_missing, split.num_files_checked, Finding.NO_RECORDING, verb)] if split.num_missing else []
    found += [(count, split.num_utterances, what, "note") for what, count in split.num_noted.most_common()]
    if split.num_textless:
        found.append((split.num_textless, split.num_textless + (split.num_there or 0), Finding.NO_TEXT, verb))
    for count, total, reason, kind in found:
        examples = split.examples.get(reason, [])
        more = ", ..." if count > len(examples) > 0 else ""
        ids = f": {', '.join(examples)}{more}" if examples else ""
        lines.append(f"{name}: {kind}: {count:,} of {total:,} ({count / total:.2%}) {reason}{ids}")
    if split.unknown:
        lines.append(f"{name}: note: the vocabulary lacks {' '.join(split.unknown)}")
    return lines


def _cures(split: SplitReport) -> Iterator[str]:
    """What to do about the utterances that are lost."""
    if split.num_missing:
        yield "put the recordings back, or prepare the data again from where they are now"
    if split.num_lost[Finding.TOO_MANY_TOKENS]:
        yield "use tokens of several letters, which are fewer (tokenizer.kind=unigram, a larger tokenizer.vocab_size)"
    if split.num_lost[Finding.TOO_SHORT] or split.num_lost[Finding.TOO_LONG]:
        yield "change min_duration_s or max_duration_s"
    if split.num_textless or split.num_lost:
        yield "fix the data"
    if split.lost_share < 1.0:
        yield "raise max_lost_share"
