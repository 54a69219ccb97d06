"""N-gram models as scores of labels: `NgramModel` (symbols in, log-probabilities out), and the priors built on it.

`TokenNgram` is a model of the tokenizer's pieces, `WordNgram` one of words, which scores a word once it is complete.
Both have `start`, `extend` and `finish`, the prior interface of the searches. Scores are in nats and unweighted; the caller
applies weights: LODR is a `TokenNgram` with a negative weight.
Source: shallow fusion, Gulcehre et al. 2015, arXiv:1503.03535; LODR, Zheng et al. 2022, arXiv:2203.16776.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import ConfigError
from zipasr.lm.arpa import BACKOFF, BEGIN, END, NgramGraph, read_arpa
from zipasr.text import lower, upper
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import CONTROL_PIECES

UNKNOWN_LOG_PROB = -10.0 * math.log(10.0)
"""Log-probability, in nats, of an unknown symbol in a model without <unk>: 10^-10. Rare words of large models have 10^-6
or more, so an unknown word is less likely than all of them; weighted by 0.3 it costs a hypothesis 7 nats."""

_SPECIAL = frozenset({BACKOFF, BEGIN, END, "<unk>", "<UNK>", *CONTROL_PIECES})
_WORD_START = "\u2581"
_MIN_WRITABLE_SHARE = 0.5  # of the words of a model; the rest, such as foreign names, can never be recognized


class NgramModel:
    """An n-gram model with backoff; a state is a history, as a whole number."""

    def __init__(self, graph: NgramGraph, *, unknown_log_prob: float = UNKNOWN_LOG_PROB) -> None:
        """Create the model of a `read_arpa` graph; `unknown_log_prob` is for models without <unk>."""
        self.symbols = graph.symbols
        self.start = graph.start
        """State at the start of a sentence."""
        self.unknown_log_prob = unknown_log_prob
        self._graph = graph
        self._ids = {symbol: i for i, symbol in enumerate(graph.symbols)}
        num_symbols = len(graph.symbols)
        first, last = np.searchsorted(graph.arc_keys, [graph.bottom * num_symbols, (graph.bottom + 1) * num_symbols])
        self._is_known = np.zeros(num_symbols, np.bool_)
        self._is_known[graph.arc_keys[first:last] % num_symbols] = True  # the symbols of unigrams
        unknown = [self._ids[name] for name in ("<unk>", "<UNK>") if name in self._ids]
        self._unknown_id = next((i for i in unknown if self._is_known[i]), -1)

    def __len__(self) -> int:
        """Number of n-grams, except those that end a sentence."""
        return len(self._graph.arc_keys)

    def symbol_id(self, symbol: str) -> int:
        """The id of a symbol, -1 if it is unknown."""
        return self._ids.get(symbol, -1)

    @property
    def known_symbols(self) -> list[str]:
        """The symbols that have a probability, except special ones such as <unk>."""
        return [self.symbols[i] for i in np.flatnonzero(self._is_known) if self.symbols[i] not in _SPECIAL]

    def step(self, state: int, symbol_id: int) -> tuple[int, float]:
        """State after a symbol, and its log-probability in nats; see `step_all`."""
        states, scores = self.step_all(np.array([state]), np.array([symbol_id]))
        return int(states[0]), float(scores[0])

    def step_all(
        self, states: NDArray[np.int64], symbol_ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """States (B,) after the symbols (B,), and the symbols' log-probabilities (B,) in nats.

        An unknown symbol (such as -1) counts as <unk>; if the model has no <unk>, it costs `unknown_log_prob` and resets
        the history.
        """
        graph, num_symbols = self._graph, len(self.symbols)
        states, symbols = states.astype(np.int64), symbol_ids.astype(np.int64)
        is_known = (symbols >= 0) & self._is_known[symbols]
        symbols = np.where(is_known, symbols, self._unknown_id)
        scores = np.zeros(len(states))
        is_lost = symbols < 0
        states[is_lost], scores[is_lost] = graph.bottom, self.unknown_log_prob
        pending = np.flatnonzero(~is_lost)
        while pending.size:
            keys = states[pending] * num_symbols + symbols[pending]
            places = np.minimum(np.searchsorted(graph.arc_keys, keys), len(graph.arc_keys) - 1)
            is_found = graph.arc_keys[places] == keys
            found, places = pending[is_found], places[is_found]
            scores[found] += graph.arc_scores[places]
            states[found] = graph.arc_targets[places]
            pending = pending[~is_found]  # terminates: the bottom state has an arc for every known symbol
            scores[pending] += graph.backoff_scores[states[pending]]
            states[pending] = graph.backoff_targets[states[pending]]
        return states, scores

    def final(self, states: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probability (B,), in nats, that sentences end in these states (B,); 0 in a model without </s>."""
        graph, states = self._graph, states.astype(np.int64)
        scores = np.zeros(len(states))
        if math.isnan(graph.final_scores[graph.bottom]):
            return scores
        pending = np.arange(len(states))
        while pending.size:
            ends = graph.final_scores[states[pending]]
            is_found = ~np.isnan(ends)
            scores[pending[is_found]] += ends[is_found]
            pending = pending[~is_found]
            scores[pending] += graph.backoff_scores[states[pending]]
            states[pending] = graph.backoff_targets[states[pending]]
        return scores

    def sentence_log_prob(self, symbols: Sequence[str]) -> float:
        """Log-probability of a whole sentence and its end, in nats."""
        state, total = self.start, 0.0
        for symbol in symbols:
            state, score = self.step(state, self.symbol_id(symbol))
            total += score
        return total + float(self.final(np.array([state]))[0])


class TokenNgram:
    """Prior of label sequences: an n-gram model of the tokenizer's pieces. Its states are those of the model.

    The end of the utterance adds nothing, as in the published fusion and LODR.
    """

    # Differs: the published LODR takes the best over all backoff paths; this is the probability that ARPA defines.
    def __init__(self, model: NgramModel, tokenizer: Tokenizer) -> None:
        """Combine a model of pieces with the recognizer's tokenizer; pieces unknown to the model count as <unk>."""
        self.model = model
        special = tokenizer.special_ids | {tokenizer.unk_id}
        self._symbol_ids = np.array(
            [-1 if i in special else model.symbol_id(piece) for i, piece in enumerate(tokenizer.pieces)], np.int64
        )

    def start(self) -> int:
        """State of the empty sequence."""
        return self.model.start

    def extend(self, states: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[float]]:
        """For each pair of a state and a label: the state after the label, and the label's log-probability in nats."""
        if not states:
            return [], []
        new_states, scores = self.model.step_all(np.array(states), self._symbol_ids[np.array(labels)])
        return new_states.tolist(), scores.tolist()

    def finish(self, states: Sequence[int]) -> list[float]:
        """Zeros: the end of the utterance adds nothing."""
        return [0.0] * len(states)


class WordState(NamedTuple):
    """State of a `WordNgram` in a label sequence."""

    history: int
    """State of the model after the last complete word."""
    labels: tuple[int, ...] = ()
    """The labels of the word that is being spelled."""


class WordNgram:
    """Prior of label sequences: an n-gram model of words.

    A word is scored when the next one starts, or at the end, which also adds the score of the end of the sentence.
    """

    def __init__(self, model: NgramModel, tokenizer: Tokenizer) -> None:
        """Combine a model of words with the recognizer's tokenizer.

        Raises:
            ConfigError: the tokenizer has no words.
        """
        if tokenizer.is_spaceless:
            raise ConfigError(
                "a model of words needs a tokenizer with spaces, but this one has characters only; use an n-gram model of "
                "characters"
            )
        self.model = model
        self._tokenizer = tokenizer
        self._starts_word = [tokenizer.starts_word(i) for i in range(tokenizer.vocab_size)]
        self._is_space = [piece == _WORD_START for piece in tokenizer.pieces]
        ids = {symbol: model.symbol_id(symbol) for symbol in model.known_symbols}
        self._word_ids = {tokenizer.respelled(symbol): id for symbol, id in ids.items()} | ids

    def start(self) -> WordState:
        """State of the empty sequence."""
        return WordState(self.model.start)

    def extend(self, states: Sequence[WordState], labels: Sequence[int]) -> tuple[list[WordState], list[float]]:
        """For each pair of a state and a label: the state after the label, and the label's score in nats."""
        is_ending = [self._starts_word[label] for label in labels]
        histories, scores = self._with_last_word(states, is_ending)
        new_states = [
            WordState(history, (label,) if ends else (*state.labels, label))
            for state, label, ends, history in zip(states, labels, is_ending, histories, strict=True)
        ]
        return new_states, scores

    def finish(self, states: Sequence[WordState]) -> list[float]:
        """Score of the last word and the end of the sentence for each state, in nats."""
        histories, scores = self._with_last_word(states, [True] * len(states))
        ends = self.model.final(np.array(histories, np.int64)).tolist()
        return [score + end for score, end in zip(scores, ends, strict=True)]

    def _with_last_word(self, states: Sequence[WordState], is_ending: Sequence[bool]) -> tuple[list[int], list[float]]:
        """Histories and scores after scoring the pending words of the states that end there."""
        histories, scores = [state.history for state in states], [0.0] * len(states)
        places = [
            i
            for i, (state, ends) in enumerate(zip(states, is_ending, strict=True))
            if ends and not all(self._is_space[label] for label in state.labels)
        ]
        if places:
            words = [self._word_ids.get(self._tokenizer.decode(states[i].labels), -1) for i in places]
            after, added = self.model.step_all(np.array([histories[i] for i in places]), np.array(words))
            for i, history, score in zip(places, after.tolist(), added.tolist(), strict=True):
                histories[i], scores[i] = history, score
        return histories, scores


def load_ngram(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, unknown_log_prob: float = UNKNOWN_LOG_PROB
) -> TokenNgram | WordNgram:
    """Read an ARPA file, plain or gzipped, as a prior of tokens or words, depending on its symbols.

    Args:
        path: the file. If its symbols are pieces of the tokenizer it is a model of tokens, else of words.
        tokenizer: the recognizer's.
        unknown_log_prob: log-probability, in nats, of unknown symbols in a model without <unk>.
    Raises:
        DataError: see `read_arpa`.
        ConfigError: the symbols are another tokenizer's pieces, or words that this one cannot write.
    """
    model = NgramModel(read_arpa(path), unknown_log_prob=unknown_log_prob)
    symbols = model.known_symbols
    if not symbols:
        raise ConfigError(f"{path} must hold words or pieces, but holds special symbols only; have it written from a text")
    if tokenizer.is_spaceless or any(symbol.startswith(_WORD_START) for symbol in symbols):
        check_pieces(symbols, tokenizer, path)
        return TokenNgram(model, tokenizer)
    _check_words(symbols, tokenizer, path)
    return WordNgram(model, tokenizer)


def check_pieces(symbols: list[str], tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for symbols of an n-gram model that are no pieces of the tokenizer."""
    strange = sorted(set(symbols) - set(tokenizer.pieces))
    if strange:
        raise ConfigError(
            f"{path} must hold the recognizer's pieces, but holds {len(strange)} of {len(symbols)} symbols that are none: "
            f"{', '.join(strange[:5])}; make it for this tokenizer, with: zipasr train-lm TEXT --model DIR --kind ngram"
        )


def _check_words(words: list[str], tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
    words = [tokenizer.respelled(word) for word in words]
    unknown = tokenizer.unknown_characters(" ".join(set().union(*words)))
    unwritable = [word for word in words if not unknown.isdisjoint(word)]
    if len(unwritable) <= (1 - _MIN_WRITABLE_SHARE) * len(words):
        return
    cure = "use a model of words in the recognizer's own writing"
    for name, change in (("upper", upper), ("lower", lower)):
        strange = tokenizer.unknown_characters(" ".join(set().union(*map(change, words))))
        if sum(strange.isdisjoint(change(word)) for word in words) >= _MIN_WRITABLE_SHARE * len(words):
            cure = f"in {name} case it could: have the file written from text in {name} case"
            break
    raise ConfigError(
        f"{path} must hold words that the recognizer can write, but holds {len(unwritable)} of {len(words)} that it cannot, "
        f"such as {', '.join(unwritable[:5])}; {cure}"
    )
