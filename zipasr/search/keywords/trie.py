"""`KeywordTrie`: keywords as token sequences, and where in them the last labels of a path are.

A state is the longest run of last labels that starts a keyword. Each label that continues a keyword earns its boost; a label
that does not takes back what the labels that no longer count have earned. A path that completes a keyword keeps its boosts
for good, so that it outlives its neighbors until it is judged. Boosts are in nats.
Source: Aho and Corasick 1975; boosts as the ecosystem's spotter counts them, so that both report the same events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zipasr.search.hotwords import MAX_BOOST


class Spelling(NamedTuple):
    """One way to write a keyword in tokens; a keyword may have several."""

    ids: tuple[int, ...]
    """Its tokens, one or more."""
    keyword: int
    """Index of the keyword."""
    boost: float
    """Nats for each token, 0 or more."""
    threshold: float
    """Least mean probability of its tokens, above 0."""


@dataclass(slots=True, eq=False, repr=False)
class TrieState:
    """Labels that start a keyword."""

    label: int = -1
    """The last of them."""
    level: int = 0
    """Their number; 0: the root."""
    children: dict[int, "TrieState"] = field(default_factory=dict)
    boost: float = 0.0
    """Nats for the last label."""
    score: float = 0.0
    """Nats for all labels."""
    end_score: float = 0.0
    """Nats for the keywords that end here, which a path keeps."""
    own: Spelling | None = None
    """The spelling that these labels are."""
    ends: tuple[Spelling, ...] = ()
    """All spellings that end with the last label, the longest first."""
    begun: frozenset[Spelling] = frozenset()
    """All spellings that the labels start with and go on from."""
    fail: "TrieState" = field(init=False)
    """State of the longest proper suffix that starts a keyword."""

    def __post_init__(self) -> None:
        self.fail = self


class KeywordTrie:
    """The automaton of some keywords."""

    def __init__(self, spellings: Sequence[Spelling]) -> None:
        """Build it.

        Raises:
            ValueError: there is no spelling, one is empty or occurs twice, a boost is not from 0 to `MAX_BOOST`, or a
                threshold is not above 0.
        """
        if not spellings:
            raise ValueError("spellings must have one entry or more, but have none")
        self.root = TrieState()
        for spelling in spellings:
            self._add(spelling)
        self._link()

    def _add(self, spelling: Spelling) -> None:
        if not spelling.ids:
            raise ValueError("a keyword must have one token or more, but has none")
        if not 0 <= spelling.boost <= MAX_BOOST:
            raise ValueError(f"the boost of a keyword must be from 0 to {MAX_BOOST:g}, but is {spelling.boost}")
        if not spelling.threshold > 0:
            raise ValueError(f"the threshold of a keyword must be above 0, but is {spelling.threshold}")
        node = self.root
        for label in spelling.ids:
            if label not in node.children:
                node.children[label] = TrieState(label, node.level + 1)
            node = node.children[label]
            node.boost = max(node.boost, spelling.boost)
        if node.own is not None:
            raise ValueError(f"the tokens of keywords must differ, but {spelling.ids} occur twice; leave one out")
        node.own = spelling

    def _link(self) -> None:
        """Set scores, failure links and ends, those of shorter states first."""
        nodes = [self.root]
        for node in nodes:  # breadth first: the list grows in the loop
            for label, child in node.children.items():
                child.score = node.score + child.boost
                child.fail = self.root if node is self.root else self._after(node.fail, label)
                child.end_score = child.fail.end_score + (child.score if child.own is not None else 0.0)
                child.begun = node.begun if node.own is None else node.begun | {node.own}
                child.ends = (() if child.own is None else (child.own,)) + child.fail.ends
                nodes.append(child)

    def _after(self, node: TrieState, label: int) -> TrieState:
        while node is not self.root and label not in node.children:
            node = node.fail
        return node.children.get(label, self.root)

    def advance(self, node: TrieState, label: int) -> tuple[TrieState, float]:
        """The state after a label, and the nats that the label earns or takes back."""
        after = self._after(node, label)
        return after, after.score - node.score + after.end_score
