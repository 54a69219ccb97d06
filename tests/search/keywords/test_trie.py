"""The automaton of keywords. Law: a state is the longest suffix that starts a keyword; boosts of labels that no longer count
are taken back."""

import math
import random

import pytest

from tests.search.keywords.slow_spotter import boosts, kept, run
from zipasr.search.keywords import KeywordTrie, Spelling


@pytest.mark.parametrize("seed", range(5))
def test_states_and_boosts_equal_those_of_strings(seed: int) -> None:
    generator = random.Random(seed)
    ids = {tuple(generator.choices(range(1, 4), k=generator.randint(1, 5))) for _ in range(6)}
    spellings = [Spelling(own, i, 0.5 + 0.3 * i, 0.3) for i, own in enumerate(sorted(ids))]
    trie = KeywordTrie(spellings)
    node, labels, total = trie.root, (), 0.0
    for label in generator.choices(range(1, 5), k=200):
        node, gained = trie.advance(node, label)
        expected = boosts(run((*labels, label), spellings), spellings) - boosts(labels, spellings)
        labels = run((*labels, label), spellings)
        assert gained == pytest.approx(expected + kept(labels, spellings))
        assert node.level == len(labels)
        assert [end.ids for end in node.ends] == sorted(
            (s.ids for s in spellings if labels[-len(s.ids) :] == s.ids), key=len, reverse=True
        )
        total += gained
    assert total > 0


@pytest.mark.parametrize(
    ("spellings", "message"),
    [
        ([], "one entry or more"),
        ([Spelling((), 0, 1.0, 0.3)], "one token or more"),
        ([Spelling((1,), 0, -1.0, 0.3)], "boost of a keyword must be from 0 to"),
        ([Spelling((1,), 0, math.inf, 0.3)], "boost of a keyword must be from 0 to"),
        ([Spelling((1,), 0, 1.0, 0.0)], "threshold of a keyword must be above 0"),
        ([Spelling((1,), 0, 1.0, 0.3), Spelling((1,), 1, 1.0, 0.3)], "must differ"),
    ],
)
def test_bad_spellings_are_refused(spellings: list[Spelling], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeywordTrie(spellings)
