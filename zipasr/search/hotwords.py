"""Hotwords: phrases that a search should prefer, as a prior over label sequences; and the file format they are written in.

The phrases form a trie over token ids. A hypothesis that follows a phrase gets its boost label by label. If it leaves the
phrase before the end, the boost is withdrawn, and the longest suffix that starts another phrase is followed (Aho and
Corasick 1975). A completed phrase keeps its boost once the next label starts a new word or the utterance ends, so that "ANN"
does nothing for "ANNUAL". Completed phrases inside a longer one that fails count as well; no two count over the same labels.

Differs: the published graph boosts a completed phrase at once, whole word or not, and then forgets what came before; with
strict matching it boosts phrases inside phrases twice.
"""

import functools
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.errors import ConfigError
from zipasr.lfs import refuse_pointer
from zipasr.lines import decode_text, read_whole
from zipasr.text import is_unspaced, normalize, spaced, unspaced
from zipasr.tokenizer import WORD_START, Tokenizer

DEFAULT_BOOST = 1.5
"""Nats for each token of a phrase, the default of the ecosystem's runtime."""


MAX_BOOST = 1e6
"""In nats: far beyond any useful boost, while scores still fit in float32."""


class Hotword(NamedTuple):
    """A phrase to prefer, in plain words."""

    text: str
    boost: float | None = None
    """Nats for each of its tokens; None: that of the recognizer."""


@dataclass(slots=True, eq=False, repr=False)
class HotwordState:
    """A node of the trie of phrases: labels that start at least one phrase."""

    parent: "HotwordState | None" = None
    label: int = -1
    level: int = field(init=False)
    """Number of its labels."""
    children: dict[int, "HotwordState"] = field(default_factory=dict)
    boost: float = 0.0
    """Nats for its own label."""
    score: float = 0.0
    """Nats for all labels from the root, which a hypothesis in this state has received."""
    is_end: bool = False
    fail: "HotwordState" = field(init=False)
    """State of its longest proper suffix that starts a phrase."""
    ending: "HotwordState" = field(init=False)
    """State of its longest proper suffix that is a whole phrase; the root: none is. The failure links of a phrase that
    overlaps itself lead through thousands of states, few of which are."""
    kept_inside: tuple[float, int] = (0.0, 0)
    """Nats that completed phrases among its labels keep if it fails in the middle of a word, and the number of labels up to
    their end: labels after those may still start another phrase."""
    kept_at_boundary: tuple[float, int] = (0.0, 0)
    """The same if it fails at the end of a word, so that phrases that end with its last label count too."""

    def __post_init__(self) -> None:
        self.level = self.parent.level + 1 if self.parent is not None else 0
        self.fail = self.ending = self


class HotwordGraph:
    """Phrases as a `LabelPrior`: the bonus of each next label."""

    def __init__(self, phrases: Sequence[tuple[Sequence[int], float]], *, starts_word: Sequence[bool] | None = None) -> None:
        """The graph of some phrases.

        Args:
            phrases: token ids and boost in nats per token; one or more ids, a boost above 0 and at most `MAX_BOOST`.
            starts_word: for each id of the vocabulary, whether it starts a word; None: every token is a word, or words do
                not matter.
        Raises:
            ValueError: a phrase is empty, or its boost is not above 0 and at most `MAX_BOOST`.
        """
        self._starts_word = starts_word
        self._root = HotwordState()
        self._bonuses: dict[HotwordState, Tensor] = {}
        for ids, boost in phrases:
            if not ids:
                raise ValueError("a hotword must have one token or more, but has none")
            if not 0 < boost <= MAX_BOOST:
                raise ValueError(f"the boost of a hotword must be above 0 and at most {MAX_BOOST:g}, but is {boost}")
            node = self._root
            for label in ids:
                if label not in node.children:
                    node.children[label] = HotwordState(node, label)
                node = node.children[label]
                node.boost = max(node.boost, boost)
            node.is_end = True
        self._link()

    def _link(self) -> None:
        """Set scores and links, and then what each state keeps when it fails; shorter states first."""
        nodes = [self._root]
        for node in nodes:  # breadth first: the list grows in the loop
            for label, child in node.children.items():
                child.score = node.score + child.boost
                back = node.fail
                while back is not self._root and label not in back.children:
                    back = back.fail
                child.fail = self._root if node is self._root else back.children.get(label, self._root)
                child.ending = child.fail if child.fail.is_end else child.fail.ending
                nodes.append(child)
        self._set_kept()

    def _set_kept(self) -> None:
        """Set what each state keeps when it fails."""
        nodes, path_kept = list(self._root.children.values()), list[float]()
        while nodes:  # depth first: `path_kept` has what the states from the root to the current one keep inside a word
            node = nodes.pop()
            parent = node.parent
            assert parent is not None
            node.kept_inside = parent.kept_at_boundary if self._is_boundary(node.label) else parent.kept_inside
            path_kept[node.level - 1 :] = [node.kept_inside[0]]
            node.kept_at_boundary = self._kept_with_endings(node, path_kept)
            nodes.extend(node.children.values())

    def _kept_with_endings(self, node: HotwordState, path_kept: list[float]) -> tuple[float, int]:
        """The most that completed phrases keep if a word ends here: phrases before it, or one that ends here and those
        before its start."""
        best = node.kept_inside
        ending = node if node.is_end else node.ending
        while ending is not self._root:
            kept = path_kept[node.level - ending.level] + ending.score  # at the first label of the phrase that ends here
            if kept >= best[0]:
                best = (kept, node.level)
            ending = ending.ending
        return best

    def _is_boundary(self, label: int) -> bool:
        return self._starts_word is None or self._starts_word[label]

    @property
    def is_empty(self) -> bool:
        """Whether there are no phrases."""
        return not self._root.children

    def start(self) -> HotwordState:
        """State of the empty sequence."""
        return self._root

    def extend(self, states: Sequence[HotwordState], labels: Sequence[int]) -> tuple[list[HotwordState], list[float]]:
        """For each pair of a state and a label: the state after the label, and the nats that it adds or withdraws."""
        steps = [self._step(state, label) for state, label in zip(states, labels, strict=True)]
        return [node for node, _ in steps], [score for _, score in steps]

    def finish(self, states: Sequence[HotwordState]) -> list[float]:
        """Change of each score at the end of the utterance: boosts of incomplete phrases are withdrawn."""
        return [self._fail_to_root(state, is_boundary=True) for state in states]

    def _step(self, node: HotwordState, label: int) -> tuple[HotwordState, float]:
        is_boundary, score = self._is_boundary(label), 0.0
        while label not in node.children:
            if node is self._root:
                return node, score
            after, change = _failed(node, is_boundary)
            node, score = after, score + change
        child = node.children[label]
        return child, score + child.score - node.score

    def _fail_to_root(self, node: HotwordState, *, is_boundary: bool) -> float:
        """The bonus of a label that continues no phrase, at the start of a word or inside one."""
        score = 0.0
        while node is not self._root:
            node, change = _failed(node, is_boundary)
            score += change
        return score

    def bonus_V(self, state: HotwordState, vocab_size: int) -> Tensor:
        """The bonus of `extend` for every label (V,), for a search that needs all of them; cached."""
        known = self._bonuses.get(state)
        if known is None:
            inside, boundary = (self._fail_to_root(state, is_boundary=is_boundary) for is_boundary in (False, True))
            known = torch.full((vocab_size,), inside)
            if boundary != inside:
                is_start_V = torch.ones(vocab_size, dtype=torch.bool)
                if self._starts_word is not None:
                    is_start_V[: len(self._starts_word)] = torch.tensor(self._starts_word)
                known[is_start_V] = boundary
            node, continued = state, set(self._root.children)
            while node is not self._root:
                continued.update(node.children)
                node = node.fail
            for label in continued:
                known[label] = self._step(state, label)[1]
            self._bonuses[state] = known
        return known


def _failed(node: HotwordState, is_boundary: bool) -> tuple[HotwordState, float]:
    """The next state to try if no phrase continues, and the change: completed phrases keep boosts, others lose them."""
    kept, num_kept_labels = node.kept_at_boundary if is_boundary else node.kept_inside
    back = node.fail
    while back.level > node.level - num_kept_labels:
        back = back.fail
    return back, kept + back.score - node.score


def encode_hotwords(
    hotwords: Sequence["str | Hotword"], tokenizer: Tokenizer, *, default_boost: float = DEFAULT_BOOST
) -> HotwordGraph:
    """The graph of phrases in the tokens of a model.

    A phrase that the vocabulary cannot write as given is tried in upper case, then in lower case: models are trained on one
    of them, while people capitalize names.

    Args:
        hotwords: phrases, with or without boosts.
        tokenizer: the one of the model.
        default_boost: nats per token of a phrase without a boost of its own.
    Raises:
        ConfigError: a phrase is empty or cannot be written with this vocabulary, the vocabulary cannot encode, or a boost is
            not above 0 and at most `MAX_BOOST`.
    """
    if not 0 < default_boost <= MAX_BOOST:
        raise ConfigError(
            f"the boost of hotwords must be above 0 and at most {MAX_BOOST:g}, but is {default_boost}; 1 to 3 is usual"
        )
    phrases = []
    given = [hotword if isinstance(hotword, Hotword) else Hotword(hotword) for hotword in hotwords]
    for (text, own_boost), ids in zip(given, _encode_all([text for text, _ in given], tokenizer), strict=True):
        boost = default_boost if own_boost is None else own_boost
        if not 0 < boost <= MAX_BOOST:
            raise ConfigError(
                f"the boost of hotword {text!r} must be above 0 and at most {MAX_BOOST:g}, but is {boost}; 1 to 3 is usual"
            )
        phrases += [(variant, boost) for variant in phrase_variants(text, ids, tokenizer)]
    return HotwordGraph(phrases, starts_word=None if tokenizer.is_spaceless else _word_starts(tokenizer))


def phrase_variants(text: str, ids: list[int], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of a phrase, and in mixed scripts those that a model may emit instead.

    They have ▁ before every character of Chinese and Japanese or before the first of a run only, however the phrase is
    written, or none in front of a phrase that follows such a character.
    """
    variants = [ids]
    if tokenizer.is_byte_level or not tokenizer.is_mixed:
        return variants
    spelling = tokenizer.spelling(text)
    for other in (tokenizer.encode(unspaced(spelling)), tokenizer.encode(spaced(spelling))):
        if other not in variants and tokenizer.unk_id not in other:
            variants.append(other)
    if is_unspaced(normalize(text).strip()[0]):
        variants += [inside for variant in variants if (inside := _without_word_start(variant, tokenizer))]
    return variants


def _without_word_start(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a phrase without ▁ in front; empty if the vocabulary cannot write it so."""
    first = tokenizer.pieces[ids[0]]
    rest = first.removeprefix(WORD_START)
    if not rest:
        return ids[1:]
    return [tokenizer.pieces.index(rest), *ids[1:]] if rest != first and rest in tokenizer.pieces else []


def is_writable(text: str, tokenizer: Tokenizer) -> bool:
    """Whether a model can write a text, as given or in another case."""
    return phrase_ids(text, tokenizer) is not None


def check_writable(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Check that a model can write all phrases.

    Raises:
        ConfigError: a phrase is empty, or some cannot be written; the message names all of them. Or the vocabulary cannot
            encode.
    """
    _encode_all(texts, tokenizer)


def _encode_all(texts: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    found, wrong, lacking = [], [], set[str]()
    for text in texts:
        tokenizer.require_encoding(f"hotword {text!r}")
        if not normalize(text).strip():
            raise ConfigError("a hotword must be a word or a phrase, but is empty; leave it out")
        if WORD_START in text:
            raise ConfigError(f"hotword {text!r} must be plain words, but has {WORD_START}, as tokens have; write the words")
        ids = phrase_ids(text, tokenizer)
        if ids is None:
            wrong.append(repr(text))
            lacking |= tokenizer.unknown_characters(tokenizer.spelling(text))
        else:
            found.append(ids)
    if wrong:
        names = f"hotword{'s' if len(wrong) > 1 else ''} {', '.join(wrong)}"
        raise ConfigError(
            f"{names} must be writable in the model's vocabulary, but that lacks {''.join(sorted(lacking))!r}; spell as the "
            "training texts would, with numbers in words and without punctuation"
        )
    return found


def phrase_ids(text: str, tokenizer: Tokenizer) -> list[int] | None:
    """The tokens of a phrase in plain words; None: the vocabulary cannot write it."""
    if WORD_START in text:  # tokens, whose ▁ would be taken for a space
        return None
    spelling = tokenizer.spelling(text)
    ids = tokenizer.encode(spelling)
    return ids if ids and tokenizer.unk_id not in ids and not tokenizer.unknown_characters(spelling) else None


@functools.lru_cache(maxsize=8)
def _word_starts(tokenizer: Tokenizer) -> tuple[bool, ...]:
    return tuple(tokenizer.starts_word(i) for i in range(tokenizer.vocab_size))


def read_phrase_lines(path: str | os.PathLike[str], *, what: str) -> list[str]:
    """The lines of a file of phrases; `what` is the plural that messages call them.

    Raises:
        ConfigError: there is no such file, or it is not UTF-8 text, nor UTF-16.
    """
    try:
        content = read_whole(path)
        refuse_pointer(content, path, ConfigError)
        return decode_text(content).replace("\r\n", "\n").removesuffix("\n").split("\n") if content else []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text, nor UTF-16"
        raise ConfigError(f"{path} must be a file of {what}, a phrase a line, but cannot be read: {reason}") from error


def read_hotwords(path: str | os.PathLike[str]) -> list[Hotword]:
    """The hotwords of a file: one phrase per line in plain words, optionally followed by ` :boost`; empty lines are skipped.

    Raises:
        ConfigError: there is no such file, it is not UTF-8 text, or a boost is not a number above 0 and at most `MAX_BOOST`.
    """
    hotwords = []
    for number, line in enumerate(read_phrase_lines(path, what="hotwords"), start=1):
        phrase = line.strip()
        text, colon, boost = phrase.rpartition(" :")
        if colon:
            hotwords.append(Hotword(text.strip(), _boost_of(boost, number, line, path)))
        elif phrase:
            hotwords.append(Hotword(phrase))
    return hotwords


def _boost_of(text: str, number: int, line: str, path: str | os.PathLike[str]) -> float:
    try:
        boost = float(text)
    except ValueError:
        boost = math.nan
    if not 0 < boost <= MAX_BOOST:
        raise ConfigError(
            f"the boost in line {number} of {path} must be a number above 0 and at most {MAX_BOOST:g}, but the line is "
            f"{line!r}; write `PHRASE :2.5`, or leave it out for the default"
        )
    return boost
