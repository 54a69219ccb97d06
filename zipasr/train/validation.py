"""Validation during training: losses of the averaged model on the dev set, and error rates of its searches."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from zipasr.alignment.emission import EmissionStats, measure_emission
from zipasr.data.batching import Batch
from zipasr.features import PADDING_VALUE
from zipasr.lm.arpa import NgramGraph
from zipasr.lm.ngram_file import ngram_of_texts
from zipasr.model import AsrModel
from zipasr.recognizer import TAIL_PADDING_FRAMES
from zipasr.search.comparison import ComparedSearch, ScaleTuning, SearchComparison, best_search, searches_to_compare
from zipasr.search.default_search import DefaultSearch
from zipasr.search.prior import AnyPrior
from zipasr.search.strategy import LanguageModels, SearchConfig
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import plain_batches

COMPARED_S = 1800.0
"""Audio of the dev set on which all searches are compared. Of a longer dev set they decode evenly spread batches, and only
the greedy searches decode the rest: half an hour suffices to find the best search, and beams over ten hours are slow."""
EMISSION_S = 300.0
"""Audio on which emissions are measured; they are means over all its labels."""
_SET_NAME = "dev"
GREEDY = {"transducer_wer": SearchConfig(method="greedy"), "ctc_wer": SearchConfig(method="ctc_greedy")}
"""Searches that decode the whole dev set, by the name of their error rate."""


class Validation(NamedTuple):
    """Result of a validation: metrics, and the comparison of the searches."""

    metrics: dict[str, float]
    """Losses per second of audio, `transducer_wer` and `ctc_wer` (greedy, one symbol a frame) over the whole dev set, `wer`
    and `deletions` of the best search in percent, and of a transducer `burst_share` and `delay_s`."""
    searches: list[ComparedSearch]
    """Results of all searches on the part of the dev set that all of them decoded."""
    num_utterances: int
    """Number of utterances in that part."""
    is_whole: bool
    """Whether that part is the whole dev set."""
    own: ComparedSearch | None = None
    """The search that the run names (`TrainConfig.search`), tuned; also the last of `searches`. None: it names none."""

    @property
    def best(self) -> ComparedSearch:
        """The run's own search, or else the one with the lowest error rate."""
        return self.own if self.own is not None else best_search(self.searches)

    @property
    def what(self) -> str:
        """Description of the utterances on which the searches were compared."""
        return f"{_SET_NAME} ({self.num_utterances} utterances{'' if self.is_whole else ', a part'})"


def is_chosen_by_training(search: DefaultSearch) -> bool:
    """Whether a validation chose the default search of a folder; `evaluate --save` names the file of its set."""
    return search.chosen_on.startswith(f"{_SET_NAME} (")


@torch.no_grad()
def validate(
    model: AsrModel,
    batches: Sequence[Batch],
    texts: dict[str, str],
    tokenizer: Tokenizer,
    device: torch.device,
    search: SearchConfig | None = None,
    ngram: AnyPrior | None = None,
) -> Validation:
    """Measure a model on the dev set. Each batch is encoded once.

    `wer` is that of the best search if all searches decode the whole dev set, and of the better greedy search if the dev set
    is so long that they decode only a part: the whole set is then more informative. With a vocabulary of characters without
    spaces, every character counts as a word, as is usual for Mandarin.

    Args:
        model: in eval mode, on `device`.
        batches: the dev set, without augmentation and with the tail padding of decoding.
        texts: reference by utterance id.
        tokenizer: makes words of labels.
        device: where the model is.
        search: search of the run, whose `attention_scale` is tuned; None: the best of several.
        ngram: the n-gram of the training texts, for beam searches with it and for `search`; None: there is none.
    """
    has_head = {"transducer_wer": model.has_transducer, "ctc_wer": model.has_ctc}
    greedy = {name: search for name, search in GREEDY.items() if has_head[name]}
    others = SearchComparison(model, tokenizer, list(greedy.values()))
    lattice = model.config.transducer.lattice if model.config.transducer is not None else None
    searches = searches_to_compare(model, lattice=lattice, has_ngram=ngram is not None)
    models = LanguageModels(own=ngram)
    compared = SearchComparison(model, tokenizer, searches, language_models=models)
    tuning = ScaleTuning(model, tokenizer, search, language_models=models) if search is not None else None
    losses: dict[str, float] = {}
    audio_s = sum(batch.audio_s for batch in batches)
    stride, emission_stride = (max(1, math.ceil(audio_s / most_s)) for most_s in (COMPARED_S, EMISSION_S))
    emission, num_utterances = EmissionStats(), 0
    for i, batch in enumerate(batches):
        encoded = model.encode(batch.features.to(device), batch.feature_lens.to(device))
        labels, label_lens = batch.labels.to(device), batch.label_lens.to(device)
        for name, loss in model.loss(encoded, labels, label_lens).items():
            losses[name] = losses.get(name, 0.0) + loss.item()
        if i % stride == 0:
            for comparison in (compared, tuning) if tuning is not None else (compared,):
                comparison.add(encoded, [texts[name] for name in batch.ids])
            num_utterances += len(batch.ids)
        else:
            others.add(encoded, [texts[name] for name in batch.ids])
        if lattice is not None and i % emission_stride == 0:
            emission = emission.plus(measure_emission(model, encoded, label_rows(batch), lattice=lattice))
    results = compared.results()
    metrics = {f"{name}_loss": total / max(audio_s, 1e-9) for name, total in losses.items()}
    for name, search, rest in zip(greedy, greedy.values(), others.results(), strict=True):
        same = next(result for result in results if result.search == search)
        metrics[name] = same.errors.words.plus(rest.errors.words).rate
    results, own = _with_own(results, tuning)
    found = Validation(metrics, results, num_utterances, stride == 1, own)
    metrics["wer"] = found.best.wer if stride == 1 else min(metrics[name] for name in greedy)
    metrics["deletions"] = found.best.deletions
    metrics |= _figures(emission)
    return found


def _with_own(
    results: list[ComparedSearch], tuning: ScaleTuning | None
) -> tuple[list[ComparedSearch], ComparedSearch | None]:
    """The results with that of the run's own search last, instead of an equal one; and that one, if the run has one."""
    if tuning is None:
        return results, None
    own = tuning.tuned()
    return [*(result for result in results if result.search != own.search), own], own


def text_ngram(config: TrainConfig, texts: Iterable[str], tokenizer: Tokenizer) -> NgramGraph | None:
    """The n-gram of the training texts that validation tries; None: the run has none, or the vocabulary cannot encode."""
    if config.ngram_order is None or not tokenizer.can_encode:
        return None
    return ngram_of_texts(texts, tokenizer, order=config.ngram_order)


def _figures(emission: EmissionStats) -> dict[str, float]:
    """Numbers for the log about the emissions of a transducer."""
    figures = {"burst_share": emission.burst_share, "delay_s": emission.delay_s}
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}


def validation_batches(cuts: Any, tokenizer: Tokenizer, config: TrainConfig) -> list[Batch]:
    """`plain_batches` of cuts, each utterance followed by the padding of decoding."""
    batches = plain_batches(
        cuts, tokenizer, config.model.features, max_duration_s=config.batch.max_duration_s, seed=config.seed
    )
    return [with_tail_padding(batch) for batch in batches]


def with_tail_padding(batch: Batch) -> Batch:
    """A batch with the padding that decoding appends to each utterance."""
    padded = torch.nn.functional.pad(batch.features, (0, 0, 0, TAIL_PADDING_FRAMES), value=PADDING_VALUE)
    return batch._replace(features=padded)


def label_rows(batch: Batch) -> list[list[int]]:
    """The labels of each utterance, without padding."""
    return [row[:length] for row, length in zip(batch.labels.tolist(), batch.label_lens.tolist(), strict=True)]
