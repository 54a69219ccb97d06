"""Compared searches with given error counts, and the tokenizer of their texts."""

from zipasr.search.comparison import ComparedSearch
from zipasr.search.edits import ErrorRates, Errors
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["LO MID HI UP DOWN"], kind="char", vocab_size=None)

GREEDY, SEVERAL = SearchConfig(method="greedy"), SearchConfig(method="greedy", max_symbols_per_frame=5)

CTC = SearchConfig(method="ctc_greedy")


def of(search: SearchConfig, words: int, characters: int = 0, *, num_words: int = 100, deletions: int = 0) -> ComparedSearch:
    """A compared search with this many word and character errors."""
    errors = Errors(0, deletions, words - deletions, num_words)
    return ComparedSearch(search=search, errors=ErrorRates(errors, Errors(0, 0, characters, 5 * num_words)), decode_s=0.25)
