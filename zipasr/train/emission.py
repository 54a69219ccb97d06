"""Why words are missing: how a transducer emits labels, and which words its greedy searches lose.

In: batches of speech with text, features (N, T, F) at 100 Hz. The best path through the lattice of each text gives bursts
(several labels in one frame at 25 Hz) and the delay against CTC; searches of the same frames give the errors. Words are
those that the labels spell, or characters where the vocabulary knows no spaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import kaldialign
import torch

from zipasr.data.batching import Batch
from zipasr.features import PADDING_VALUE
from zipasr.losses.lattice import LatticeKind
from zipasr.model import AsrModel
from zipasr.recognizer import TAIL_PADDING_FRAMES
from zipasr.search.emission import EmissionStats, measure_emission
from zipasr.search.greedy import ctc_greedy_search, greedy_search
from zipasr.search.hypothesis import Hypothesis
from zipasr.tokenizer import Tokenizer

SEVERAL_SYMBOLS = 5
"""Symbols a frame of the greedy search that can follow bursts."""
_NOTABLE_SHARE = 0.1
"""Bursts cost words if a search that can follow them makes more than this share of the errors fewer,"""
_NOTABLE_DELETIONS = 0.01
"""and deletes this share of the words less: in a few hundred words, anything below is a word or two."""


class SearchErrors(NamedTuple):
    """Words that a search got wrong."""

    search: str
    """`greedy` or `ctc_greedy`."""
    max_symbols_per_frame: int | None
    """None where the search knows no such limit."""
    num_words: int = 0
    """Words of the texts."""
    num_deleted: int = 0
    num_inserted: int = 0
    num_substituted: int = 0

    @property
    def num_errors(self) -> int:
        """Words that are wrong in any way."""
        return self.num_deleted + self.num_inserted + self.num_substituted

    def percent(self, count: int) -> float:
        """A count in percent of the words of the texts."""
        return 100.0 * count / max(self.num_words, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, rates in percent of the words."""
        return {
            "search": self.search,
            "max_symbols_per_frame": self.max_symbols_per_frame,
            "num_words": self.num_words,
            "wer": self.percent(self.num_errors),
            "deletions": self.percent(self.num_deleted),
            "insertions": self.percent(self.num_inserted),
            "substitutions": self.percent(self.num_substituted),
        }


@dataclass(frozen=True, kw_only=True)
class EmissionReport:
    """What `diagnose_emission` found."""

    stats: EmissionStats
    """Bursts and delay on the best paths of the true texts."""
    searches: tuple[SearchErrors, ...]
    """Greedy with 1 and with `SEVERAL_SYMBOLS` symbols a frame, then CTC greedy if there is a CTC head."""
    lattice: LatticeKind
    """The lattice of the head, and of the paths; see `TransducerConfig.lattice`."""

    @property
    def are_words_lost_to_bursts(self) -> bool:
        """Whether a search of one symbol a frame loses words for no other reason than that labels come in bursts."""
        one, several = self.searches[:2]
        fewer_deletions = one.num_deleted - several.num_deleted
        return (
            self.stats.num_burst_labels > 0
            and several.num_errors < (1.0 - _NOTABLE_SHARE) * one.num_errors
            and fewer_deletions > _NOTABLE_DELETIONS * one.num_words
        )

    @property
    def verdict(self) -> str | None:
        """One sentence with the cure if words are lost to bursts."""
        if not self.are_words_lost_to_bursts:
            return None
        one, several = (errors.percent(errors.num_deleted) for errors in self.searches[:2])
        return (
            f"the model emits labels in bursts, so that a search of one symbol a frame deletes {one:.1f} % of the words and "
            f"one of {SEVERAL_SYMBOLS} {several:.1f} %: train with --set model.transducer.lattice=modified, or decode with "
            f"--max-symbols-per-frame {SEVERAL_SYMBOLS}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: shares from 0 to 1, error rates in percent, null where there is nothing to measure."""
        return {
            "burst_share": self.stats.burst_share,
            "burst_frame_share": self.stats.burst_frame_share,
            "delay_s": self.stats.delay_s,
            "num_labels": self.stats.num_labels,
            "num_unaligned": self.stats.num_unaligned,
            "lattice": self.lattice,
            "searches": [errors.to_dict() for errors in self.searches],
            "are_words_lost_to_bursts": self.are_words_lost_to_bursts,
            "verdict": self.verdict,
        }


@torch.inference_mode()
def diagnose_emission(model: AsrModel, batches: Sequence[Batch], tokenizer: Tokenizer) -> EmissionReport:
    """Measure bursts, delay, and the errors of greedy searches, with the tail padding of decoding.

    Args:
        model: has a transducer head; in eval mode, on any device.
        batches: speech with text, one view of each utterance, not augmented.
        tokenizer: makes words of labels.
    Raises:
        ValueError: the model has no transducer head.
    """
    if model.transducer is None:
        raise ValueError("this model has no transducer head, so it has no emissions to measure; use a CTC search")
    device, lattice = next(model.parameters()).device, model.transducer.config.lattice
    stats = EmissionStats()
    errors = [SearchErrors("greedy", 1), SearchErrors("greedy", SEVERAL_SYMBOLS)]
    errors += [SearchErrors("ctc_greedy", None)] if model.has_ctc else []
    for batch in batches:
        features = torch.nn.functional.pad(batch.features, (0, 0, 0, TAIL_PADDING_FRAMES), value=PADDING_VALUE)
        encoded = model.encode(features.to(device), batch.feature_lens.to(device))
        labels = [row[:length] for row, length in zip(batch.labels.tolist(), batch.label_lens.tolist(), strict=True)]
        stats = stats.plus(measure_emission(model, encoded, labels, lattice=lattice))
        for i, of in enumerate(errors):
            if of.max_symbols_per_frame is None:
                found = ctc_greedy_search(model, encoded)
            else:
                limit = of.max_symbols_per_frame
                found = greedy_search(model, encoded, unk_id=tokenizer.unk_id, max_symbols_per_frame=limit)
            errors[i] = _add_errors(of, labels, found, tokenizer)
    return EmissionReport(stats=stats, searches=tuple(errors), lattice=lattice)


def _add_errors(
    errors: SearchErrors, labels: Sequence[Sequence[int]], found: Sequence[Hypothesis], tokenizer: Tokenizer
) -> SearchErrors:
    """Add the errors of a batch."""
    for ids, hypothesis in zip(labels, found, strict=True):
        reference, words = _words(ids, tokenizer), _words(hypothesis.ids, tokenizer)
        edits = kaldialign.edit_distance(reference, words)
        errors = errors._replace(
            num_words=errors.num_words + len(reference),
            num_deleted=errors.num_deleted + edits["del"],
            num_inserted=errors.num_inserted + edits["ins"],
            num_substituted=errors.num_substituted + edits["sub"],
        )
    return errors


def _words(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    text = tokenizer.decode(ids)
    return list(text) if tokenizer.is_spaceless else text.split()
