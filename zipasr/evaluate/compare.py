"""Comparison of a model's searches on recordings with known text, and saving the best one as the model's default."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.rates import ReferenceUtterance, is_cut, readable_groups, rewriting
from zipasr.hub import refuse_built_in
from zipasr.losses import LatticeKind
from zipasr.model import AsrModel
from zipasr.recognizer import Recognizer
from zipasr.recognizer.batches import plan_batches
from zipasr.recognizer.long_comparison import transcribe_with_each
from zipasr.recognizer.opening import search_folder
from zipasr.search.comparison import ComparedSearch, SearchComparison, explain_differences, searches_to_compare
from zipasr.search.default_search import read_default_search, write_default_search
from zipasr.search.search_config import BEAM_METHODS
from zipasr.search.strategy import LanguageModels, SearchConfig


def compare_searches(
    recognizer: Recognizer, utterances: Iterable[ReferenceUtterance], *, scoring: str | None = None
) -> list[ComparedSearch]:
    """Count the errors of every search that the heads support, and of the recognizer's own; each batch is encoded once.

    Long recordings are cut and stitched as in `evaluate`. Of language models only the n-gram in the model's
    folder is used, and no hotwords.

    Args:
        recognizer: the model and its search.
        utterances: recordings with their text, of a dev set.
        scoring: see `evaluate`.
    Returns:
        A result for each search, the cheapest search first.
    Raises:
        ConfigError: `scoring` is unknown.
        DataError: no utterance can be read.
    """
    rewrite = rewriting(scoring)
    own = recognizer.engine.language_models.own
    searches = searches_to_compare(recognizer.engine.scorer, lattice=_lattice(recognizer), has_ngram=own is not None)
    if recognizer.search not in searches:
        searches.append(recognizer.search)
    comparison = SearchComparison(
        recognizer.engine.scorer, recognizer.engine.tokenizer, searches, language_models=LanguageModels(own=own)
    )
    num_utterances = 0
    for readable in readable_groups(utterances, []):
        num_utterances += len(readable)
        group = [one for one in readable if not is_cut(recognizer, one[1])]
        for _, samples, text in readable:
            if is_cut(recognizer, samples):
                found = transcribe_with_each(recognizer, samples, comparison.find_with_each, len(searches))
                comparison.add_texts(text, [transcript.text for transcript in found], rewrite=rewrite)
        features = [recognizer.engine.fbank(samples) for _, samples, _ in group]
        batches = list(plan_batches(recognizer.engine, [len(frames) for frames in features]))
        for batch in batches:
            encoded = recognizer.engine.encode([features[i] for i in batch])
            comparison.add(encoded, [group[i][2] for i in batch], rewrite=rewrite)
        encoded_indices = {i for batch in batches for i in batch}
        too_short = [text for i, (_, _, text) in enumerate(group) if i not in encoded_indices]
        comparison.add_skipped(too_short, rewrite=rewrite)
    if not num_utterances:
        raise DataError("there must be utterances to compare searches on, but none can be read; check the cuts")
    return comparison.results()


def explain(recognizer: Recognizer, compared: Sequence[ComparedSearch]) -> list[str]:
    """Findings about the model from the differences between its searches; see `explain_differences`."""
    return explain_differences(compared, lattice=_lattice(recognizer))


def _lattice(recognizer: Recognizer) -> LatticeKind | None:
    """The kind of lattice that the transducer head was trained with; None: unknown, or there is no such head."""
    scorer = recognizer.engine.scorer
    head = scorer.config.transducer if isinstance(scorer, AsrModel) else None
    return head.lattice if head is not None else None


def save_default_search(
    folder: str | os.PathLike[str], search: SearchConfig, compared: Sequence[ComparedSearch], *, chosen_on: str
) -> Path:
    """Make a search the default of a model, a run or a folder of graphs, and return the file.

    Raises:
        CheckpointError: there is no model, or the file cannot be written.
        ConfigError: the search returns n-best hypotheses, which a default search does not, or the model comes with the
            package.
    """
    if search.num_best > 1:
        raise ConfigError(f"a default search returns one hypothesis, but num_best is {search.num_best}; leave it out")
    place = search_folder(folder)
    refuse_built_in(place)
    return write_default_search(place, search, compared, chosen_on=chosen_on)


def keep_ngram(folder: str | os.PathLike[str], search: SearchConfig) -> SearchConfig:
    """A search that was tuned with a language model, with the `ngram_scale` of the model's default search.

    A language model replaces the n-gram of the training texts, but a default search is for calls without one too.

    Raises:
        CheckpointError: there is no model, or its default search is damaged.
    """
    known = read_default_search(search_folder(folder))
    if known is None or search.method not in BEAM_METHODS:
        return search
    return dataclasses.replace(search, ngram_scale=known.search.ngram_scale)
