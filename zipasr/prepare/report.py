"""The summary that `zipasr prepare` prints and writes to `prepare.json`."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """Counts of the utterances that `prepare` wrote and rejected."""

    num_utterances: dict[str, int]
    """By split."""
    durations_s: dict[str, float]
    """By split."""
    num_words: dict[str, int]
    """By split."""
    num_rejected: dict[str, int]
    """By reason."""
    num_unseen_words: dict[str, int] = field(default_factory=dict)
    """Distinct words of dev and test that do not occur in the training part."""
    num_repeated_sentences: dict[str, int] = field(default_factory=dict)
    """Utterances of dev and test whose whole text also occurs in the training part."""
    missing_parts: list[str] = field(default_factory=list)
    """Official parts of a published corpus of which nothing was found."""
    source: str = ""
    """What the source was recognized as, in words."""
    notes: list[str] = field(default_factory=list)
    """What may be other than the user expects, and the cure."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def format_table(self) -> str:
        """Return the report as a table for a terminal."""
        lines = [f"{'split':<8}{'utterances':>12}{'minutes':>10}{'words':>10}"]
        for split, number in self.num_utterances.items():
            minutes = self.durations_s[split] / 60
            lines.append(f"{split:<8}{number:>12,}{minutes:>10,.1f}{self.num_words[split]:>10,}")
        lines += ["", f"rejected {sum(self.num_rejected.values()):>11,}"]
        lines += [f"  {reason:<36}{number:>8,}" for reason, number in self.num_rejected.items()]
        lines += [f"source: {self.source}"] if self.source else []
        unseen = [(split, number) for split, number in self.num_unseen_words.items() if number]
        lines += [f"note: {number:,} distinct words of {split} do not occur in train" for split, number in unseen]
        repeated = [(split, number) for split, number in self.num_repeated_sentences.items() if number]
        lines += [f"note: {number:,} texts of {split} also occur in train" for split, number in repeated]
        if self.missing_parts:
            lines.append(f"note: nothing found of {', '.join(self.missing_parts)}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
