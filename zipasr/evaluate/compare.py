"""Comparison of a model's searches on recordings with known text, and saving the best one as the model's default."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.rates import ReferenceUtterance, is_cut, readable_groups, rewriting
from zipasr.hub import refuse_built_in
from zipasr.losses import LatticeKind
from zipasr.model import AsrModel
from zipasr.recognizer import Recognizer
from zipasr.recognizer.batches import plan_batches
from zipasr.recognizer.long_comparison import FindWithEach, transcribe_with_each
from zipasr.recognizer.opening import search_folder
from zipasr.recognizer.said_words import said_text
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
    rewrite, engine = rewriting(scoring), recognizer.engine
    own = engine.language_models.own
    searches = searches_to_compare(engine.scorer, lattice=_lattice(recognizer), has_ngram=own is not None)
    if recognizer.search not in searches:
        searches.append(recognizer.search)
    comparison = SearchComparison(engine.scorer, engine.tokenizer, searches, language_models=LanguageModels(own=own))
    num_utterances = 0
    for group in readable_groups(utterances, []):
        num_utterances += len(group)
        texts = texts_by_each(recognizer, [samples for _, samples, _ in group], comparison.find_with_each, len(searches))
        for (_, _, reference), found in zip(group, texts, strict=True):
            comparison.add_texts(reference, found, rewrite=rewrite)
    if not num_utterances:
        raise DataError("there must be utterances to compare searches on, but none can be read; check the cuts")
    return comparison.results()


def texts_by_each(
    recognizer: Recognizer, recordings: Sequence[np.ndarray], find_with_each: FindWithEach, num_searches: int
) -> list[list[str]]:
    """The text of each recording by each of several searches; empty for recordings that are too short for a frame.

    Args:
        recognizer: the model, and how it cuts long recordings.
        recordings: (samples,) float32 at 16 kHz.
        find_with_each: as in `transcribe_with_each`.
        num_searches: number of its searches.
    """
    engine = recognizer.engine
    texts = [[""] * num_searches for _ in recordings]
    short = []
    for i, samples in enumerate(recordings):
        if is_cut(recognizer, samples):
            transcripts = transcribe_with_each(recognizer, samples, find_with_each, num_searches)
            texts[i] = [transcript.text for transcript in transcripts]
        else:
            short.append(i)
    features = {i: engine.fbank(recordings[i]) for i in short}
    for batch in plan_batches(engine, [len(features[i]) for i in short]):
        chosen = [short[n] for n in batch]
        encoded = engine.encode([features[i] for i in chosen])
        for search, ranked in enumerate(find_with_each(encoded)):
            for i, (best, *_) in zip(chosen, ranked, strict=True):
                texts[i][search] = said_text(best, engine.tokenizer)
    return texts


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
