"""Grammars in plain text: what may be said, and what it means as slots."""

from zipasr.grammar.grammar import Grammar, read_grammar, require_spelling
from zipasr.grammar.matching import match_words
from zipasr.grammar.slots import is_tag, slots_of

__all__ = ["Grammar", "is_tag", "match_words", "read_grammar", "require_spelling", "slots_of"]
