"""Diagnosis of deletions: how a transducer emits labels, and which words its greedy searches miss.

In: batches of speech with text, features (N, T, F) at 100 Hz. The best path through the lattice of each text shows bursts
(several labels in one frame at 25 Hz) and the delay relative to CTC; searches on the same frames show the errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zipasr.alignment.emission import EmissionStats, measure_emission
from zipasr.data.batching import Batch
from zipasr.losses.lattice import LatticeKind
from zipasr.model import AsrModel
from zipasr.search.comparison import SEVERAL_SYMBOLS, ComparedSearch, SearchComparison, explain_differences
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.validation import label_rows, with_tail_padding


@dataclass(frozen=True, kw_only=True)
class EmissionReport:
    """Result of `diagnose_emission`."""

    stats: EmissionStats
    """Bursts and delay on the best paths of the reference texts."""
    searches: tuple[ComparedSearch, ...]
    """Greedy search with 1 and with `SEVERAL_SYMBOLS` symbols a frame, then CTC greedy search if there is a CTC head."""
    lattice: LatticeKind
    """The lattice of the head, and of the paths; see `TransducerConfig.lattice`."""

    @property
    def findings(self) -> list[str]:
        """Findings from the differences between the searches, each with its likely cause and cure."""
        return explain_differences(self.searches, lattice=self.lattice)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON: shares from 0 to 1, error rates in percent, None if there is nothing to measure."""
        searches = []
        for result in self.searches:
            limit = result.search.max_symbols_per_frame if result.search.method == "greedy" else None
            searches.append(result.to_dict() | {"max_symbols_per_frame": limit, **word_errors_percent(result)})
        return {
            "burst_share": self.stats.burst_share,
            "burst_frame_share": self.stats.burst_frame_share,
            "delay_s": self.stats.delay_s,
            "num_labels": self.stats.num_labels,
            "num_unaligned": self.stats.num_unaligned,
            "lattice": self.lattice,
            "searches": searches,
            "findings": self.findings,
        }


def word_errors_percent(result: ComparedSearch) -> dict[str, float]:
    """Deletions, insertions and substitutions in percent of the words of the texts."""
    words = result.errors.words
    counts = {"deletions": words.deletions, "insertions": words.insertions, "substitutions": words.substitutions}
    return {name: round(100.0 * count / max(1, words.num_reference), 4) for name, count in counts.items()}


@torch.inference_mode()
def diagnose_emission(model: AsrModel, batches: Sequence[Batch], tokenizer: Tokenizer) -> EmissionReport:
    """Measure bursts, delay, and the errors of greedy searches, with the tail padding of decoding.

    The model is in eval mode; batches have one view of each utterance, not augmented.

    Raises:
        ValueError: the model has no transducer head.
    """
    if model.transducer is None:
        raise ValueError("this model has no transducer head, so it has no emissions to measure; use a CTC search")
    device, lattice = next(model.parameters()).device, model.transducer.config.lattice
    searches = [SearchConfig(method="greedy"), SearchConfig(method="greedy", max_symbols_per_frame=SEVERAL_SYMBOLS)]
    searches += [SearchConfig(method="ctc_greedy")] if model.has_ctc else []
    comparison, stats = SearchComparison(model, tokenizer, searches), EmissionStats()
    for batch in batches:
        encoded = model.encode(with_tail_padding(batch).features.to(device), batch.feature_lens.to(device))
        labels = label_rows(batch)
        stats = stats.plus(measure_emission(model, encoded, labels, lattice=lattice))
        comparison.add(encoded, [tokenizer.decode(ids) for ids in labels])
    return EmissionReport(stats=stats, searches=tuple(comparison.results()), lattice=lattice)
