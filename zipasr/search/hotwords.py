"""Hotwords: phrases that a search should prefer, as a prior over label sequences; and the file format they are written in.

The phrases form a trie over token ids. Following a phrase, a hypothesis gets its boost label by label; if it turns away
before the end, all of that is taken back, and the longest suffix that begins another phrase goes on (Aho and Corasick 1975).
A phrase that was completed keeps its boost once the next label begins a new word or the utterance ends, so that "ANN" does
nothing for "ANNUAL". Completed phrases that lie inside a longer one which fails in the end count as well; none counts twice
over the same labels.

Differs: the published graph pays a completed phrase at once, whole word or not, and then forgets what came before; with
strict matching it pays phrases inside phrases twice.
"""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.errors import ConfigError
from zipasr.tokenizer import Tokenizer

DEFAULT_BOOST = 1.5
"""Nats for each token of a phrase, the default of the ecosystem's runtime."""


class Hotword(NamedTuple):
    """A phrase to prefer, in plain words."""

    text: str
    boost: float | None = None
    """Nats for each of its tokens; None: that of the recogniser."""


class HotwordState:
    """A node of the trie of phrases: labels that start at least one phrase."""

    __slots__ = (
        "boost",
        "children",
        "fail",
        "is_end",
        "label",
        "level",
        "parent",
        "score",
        "settled_at_boundary",
        "settled_inside",
    )

    def __init__(self, parent: "HotwordState | None" = None, label: int = -1) -> None:
        self.parent, self.label = parent, label
        self.level: int = parent.level + 1 if parent is not None else 0
        self.children: dict[int, HotwordState] = {}
        self.boost = self.score = 0.0
        """Nats for its own label, and for all labels from the root, which a hypothesis in this state has got."""
        self.is_end = False
        self.fail: HotwordState = self
        """State of its longest proper suffix that begins a phrase."""
        self.settled_inside: tuple[float, int] = (0.0, 0)
        """Nats that completed phrases among its labels keep if it fails in the middle of a word, and how many labels they
        settle: what comes after those may still begin another phrase."""
        self.settled_at_boundary: tuple[float, int] = (0.0, 0)
        """The same if it fails where a word ends, so that phrases which end with its last label count too."""


class HotwordGraph:
    """Phrases as a `LabelPrior`: what each next label adds to the score of a hypothesis."""

    def __init__(self, phrases: Sequence[tuple[Sequence[int], float]], *, starts_word: Sequence[bool] | None = None) -> None:
        """Build it.

        Args:
            phrases: token ids and boost in nats a token; one or more ids, a finite boost above 0.
            starts_word: for each id of the vocabulary, whether it begins a word; None: every token is a word, or words do
                not matter.
        Raises:
            ValueError: a phrase is empty, or its boost is not above 0 and finite.
        """
        self._starts_word = starts_word
        self._root = HotwordState()
        self._bonuses: dict[HotwordState, Tensor] = {}
        for ids, boost in phrases:
            if not ids:
                raise ValueError("a hotword must have one token or more, but has none")
            if not 0 < boost < math.inf:
                raise ValueError(f"the boost of a hotword must be above 0 and finite, but is {boost}")
            node = self._root
            for label in ids:
                if label not in node.children:
                    node.children[label] = HotwordState(node, label)
                node = node.children[label]
                node.boost = max(node.boost, boost)
            node.is_end = True
        self._link()

    def _link(self) -> None:
        """Sum the scores up, find where each state goes when it fails, and what it keeps then; shorter states first."""
        nodes = list(self._root.children.values())
        for node in nodes:  # grows while we walk: breadth first
            parent = node.parent
            assert parent is not None
            node.score = parent.score + node.boost
            node.fail = self._root
            if parent is not self._root:
                back = parent.fail
                while back is not self._root and node.label not in back.children:
                    back = back.fail
                node.fail = back.children.get(node.label, self._root)
            node.settled_inside = parent.settled_at_boundary if self._is_boundary(node.label) else parent.settled_inside
            node.settled_at_boundary = self._settled_with_endings(node)
            nodes.extend(node.children.values())

    def _settled_with_endings(self, node: HotwordState) -> tuple[float, int]:
        """The most that completed phrases keep if a word ends here: those before it, or one that ends here and what is
        settled before that one begins."""
        best = node.settled_inside
        ending: HotwordState = node
        while ending is not self._root:
            if ending.is_end:
                first: HotwordState = node  # up to the first label of the phrase that ends here
                while first.level > node.level - ending.level + 1:
                    assert first.parent is not None
                    first = first.parent
                kept = first.settled_inside[0] + ending.score
                if kept >= best[0]:
                    best = (kept, node.level)
            ending = ending.fail
        return best

    def _is_boundary(self, label: int) -> bool:
        return self._starts_word is None or self._starts_word[label]

    def start(self) -> HotwordState:
        """State of the empty sequence."""
        return self._root

    def extend(self, states: Sequence[HotwordState], labels: Sequence[int]) -> tuple[list[HotwordState], list[float]]:
        """For each pair of a state and a label: the state after the label, and the nats it adds or takes back."""
        steps = [self._step(state, label) for state, label in zip(states, labels, strict=True)]
        return [node for node, _ in steps], [score for _, score in steps]

    def finish(self, states: Sequence[HotwordState]) -> list[float]:
        """What the end changes: boosts of phrases that were not completed are taken back."""
        return [self._fail_at_end(state) for state in states]

    def _step(self, node: HotwordState, label: int) -> tuple[HotwordState, float]:
        is_boundary, score = self._is_boundary(label), 0.0
        while label not in node.children:
            if node is self._root:
                return node, score
            after, change = _failed(node, is_boundary)
            node, score = after, score + change
        child = node.children[label]
        return child, score + child.score - node.score

    def _fail_at_end(self, node: HotwordState) -> float:
        score = 0.0
        while node is not self._root:
            node, change = _failed(node, True)
            score += change
        return score

    def bonus_V(self, state: HotwordState, vocab_size: int) -> Tensor:
        """What `extend` gives for every label (V,); for a search that looks at all of them. Kept for the next time."""
        known = self._bonuses.get(state)
        if known is None:
            inside, boundary = self._unmatched(state)
            known = torch.full((vocab_size,), inside)
            if boundary != inside:
                begins_V = torch.ones(vocab_size, dtype=torch.bool)
                if self._starts_word is not None:
                    begins_V[: len(self._starts_word)] = torch.tensor(self._starts_word)
                known[begins_V] = boundary
            node = state
            while True:
                for label in node.children:
                    known[label] = self._step(state, label)[1]
                if node is self._root:
                    break
                node = node.fail
            self._bonuses[state] = known
        return known

    def _unmatched(self, node: HotwordState) -> tuple[float, float]:
        """What a label that is in no phrase adds, inside a word and where one begins."""
        inside, inside_node = 0.0, node
        while inside_node is not self._root:
            inside_node, change = _failed(inside_node, False)
            inside += change
        return inside, self._fail_at_end(node)


def _failed(node: HotwordState, is_boundary: bool) -> tuple[HotwordState, float]:
    """The next state to try when no phrase goes on, and what changes: completed phrases stay, the rest is taken back."""
    kept, num_settled = node.settled_at_boundary if is_boundary else node.settled_inside
    back = node.fail
    while back.level > node.level - num_settled:
        back = back.fail
    return back, kept + back.score - node.score


def encode_hotwords(
    hotwords: Sequence["str | Hotword"], tokenizer: Tokenizer, *, default_boost: float = DEFAULT_BOOST
) -> HotwordGraph:
    """Write phrases in the tokens of a model.

    A phrase that the vocabulary cannot write as it is, is tried in upper case, then in lower case: models are trained
    on one of them, and people write names as names are written.

    Args:
        hotwords: phrases, with their boosts or without.
        tokenizer: that of the model.
        default_boost: nats a token where a phrase has no boost of its own.
    Raises:
        ConfigError: a phrase is empty or cannot be written with this vocabulary, or a boost is not above 0 and finite.
    """
    if not 0 < default_boost < math.inf:
        raise ConfigError(f"the boost of hotwords must be above 0 and finite, but is {default_boost}; 1 to 3 is usual")
    phrases = []
    for hotword in hotwords:
        text, boost = hotword if isinstance(hotword, Hotword) else (hotword, None)
        if not text.strip():
            raise ConfigError("a hotword must be a word or a phrase, but is empty; leave it out")
        boost = default_boost if boost is None else boost
        if not 0 < boost < math.inf:
            raise ConfigError(f"the boost of hotword {text!r} must be above 0 and finite, but is {boost}; 1 to 3 is usual")
        phrases.append((_ids_of(text, tokenizer), boost))
    return HotwordGraph(phrases, starts_word=None if tokenizer.is_spaceless else _word_starts(tokenizer))


def _ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    spelling = tokenizer.spelling(text)
    unknown = "".join(sorted(tokenizer.unknown_characters(spelling)))
    ids = tokenizer.encode(spelling)
    if ids and not unknown and tokenizer.unk_id not in ids:
        return ids
    raise ConfigError(
        f"hotword {text!r} must be writable in the model's vocabulary, but that lacks {unknown!r}; spell it as the training "
        "texts would, with numbers in words and without punctuation"
    )


@functools.lru_cache(maxsize=8)
def _word_starts(tokenizer: Tokenizer) -> tuple[bool, ...]:
    return tuple(tokenizer.starts_word(i) for i in range(tokenizer.vocab_size))


def read_hotwords(path: str | os.PathLike[str]) -> list[Hotword]:
    """Read a file of hotwords: a phrase a line in plain words, with ` :boost` behind it or not; empty lines do not count.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 text, or a boost is not a number above 0.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} must be a file of hotwords, a phrase a line, but cannot be read: {reason}") from error
    hotwords = []
    for number, line in enumerate(lines, start=1):
        text, colon, boost = line.strip().rpartition(" :")
        if not colon:
            text, boost = line.strip(), ""
        if not text:
            if colon or boost:
                raise ConfigError(f"line {number} of {path} must be a phrase and perhaps ` :boost`, but is {line!r}")
            continue
        hotwords.append(Hotword(text.strip(), _boost_of(boost, number, line, path) if colon else None))
    return hotwords


def _boost_of(text: str, number: int, line: str, path: str | os.PathLike[str]) -> float:
    try:
        boost = float(text)
    except ValueError:
        boost = math.nan
    if not 0 < boost < math.inf:
        raise ConfigError(
            f"the boost in line {number} of {path} must be a finite number above 0, but the line is {line!r}; write "
            "`PHRASE :2.5`, or leave it out for the default"
        )
    return boost
