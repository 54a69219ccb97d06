"""Keyword spotting: which of some keywords were said where, in audio that is still coming in."""

from zipasr.search.keywords.phrases import (
    DEFAULT_BOOST,
    DEFAULT_THRESHOLD,
    Keyword,
    KeywordSet,
    encode_keywords,
    keyword_line,
    parse_keyword,
    read_keywords,
)
from zipasr.search.keywords.spotting import Emission, KeywordMatch, KeywordSearch, SpotterConfig, SpotterState
from zipasr.search.keywords.trie import KeywordTrie, Spelling, TrieState

__all__ = [
    "DEFAULT_BOOST",
    "DEFAULT_THRESHOLD",
    "Emission",
    "Keyword",
    "KeywordMatch",
    "KeywordSearch",
    "KeywordSet",
    "KeywordTrie",
    "Spelling",
    "SpotterConfig",
    "SpotterState",
    "TrieState",
    "encode_keywords",
    "keyword_line",
    "parse_keyword",
    "read_keywords",
]
