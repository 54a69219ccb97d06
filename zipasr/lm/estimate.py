"""N-gram models from sentences: interpolated modified Kneser-Ney smoothing, as an ARPA file or as a graph.

Counts are sorted arrays, one order at a time: an n-gram is the number of its first n-1 symbols together with its last one.
Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3.
"""

# Differs: no library. kaldingram 0.1.2 gives seen n-grams probability 0 and weights above 1 on small texts and knows no
# <unk>, arpabo 0.3.0 has a single discount, and kenlm comes without its estimator and without wheels.

import gzip
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zipasr.errors import ConfigError, DataError
from zipasr.lines import replacing
from zipasr.lm.arpa import BACKOFF, BEGIN, END, NgramGraph

UNKNOWN = "<unk>"
MAX_ORDER = 9

_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Discounts for texts that are too small for the formula, as KenLM's --discount_fallback."""
_NO_PROBABILITY = "-99"  # value of <s> in ARPA files, which is never predicted
_RESERVED = frozenset({BEGIN, END, BACKOFF, "<eps>"})


@dataclass(frozen=True)
class _Order:
    """All n-grams of one order, sorted by their symbols; arrays are of one entry each."""

    prefix: NDArray[np.int64]
    """Number of the n-gram without its last symbol, in the order below."""
    suffix: NDArray[np.int64]
    """Number of the n-gram without its first symbol, in the order below."""
    symbol: NDArray[np.int64]
    """The last symbol."""
    is_initial: NDArray[np.bool_]
    """Whether the first symbol is the start of a sentence."""
    count: NDArray[np.int64]
    """Number of occurrences."""


def estimate_ngram(sentences: Iterable[Sequence[str]], path: str | os.PathLike[str], *, order: int) -> list[int]:
    """Estimate an n-gram model of sentences and write it as an ARPA file, gzipped if its name ends in .gz.

    With a(h w) the count of an n-gram of the highest order or at the start of a sentence, else the number of different
    symbols seen before it, and D the discount for that count:

        p(w | h) = (a(h w) - D) / a(h .) + gamma(h) p(w | shorter h),    p(w | no h) mixes in 1 / V

    where gamma(h) makes the sum 1. V counts the symbols, </s> and <unk>, so that <unk> has a probability.

    Args:
        sentences: their symbols, pieces or words, without <s> and </s>; symbols named so count as <unk>.
        path: the file to write, atomically.
        order: length of the longest n-grams, 1 to 9.
    Returns:
        The number of n-grams of each order.
    Raises:
        ConfigError: the order is out of range.
        DataError: there are no symbols, one of them holds white space, or the file cannot be written.
    Source: Chen and Goodman 1998, section 3. Checked against sums over dictionaries in
        tests/lm/test_estimate.py::test_equals_slow_code.
    """
    symbols, orders, scores, gammas = _estimate(sentences, order, what=os.fspath(path))
    _write(Path(path), _lines(orders, scores, gammas, symbols))
    return [len(grams.symbol) for grams in orders]


def estimate_graph(sentences: Iterable[Sequence[str]], *, order: int) -> tuple[NgramGraph, list[int]]:
    """The model of `estimate_ngram` as `read_arpa` would read it, without a file; and the number of n-grams of each order.

    Raises:
        ConfigError: the order is out of range.
        DataError: there are no symbols, or one of them holds white space.
    """
    symbols, orders, scores, gammas = _estimate(sentences, order, what="an n-gram model")
    num_histories = [len(grams.symbol) for grams in orders[: len(gammas)]]
    first_states = np.cumsum([1, *num_histories])  # state 0 is the empty history
    num_states = int(first_states[-1])
    backoff_targets, backoff_scores = np.zeros(num_states, np.int32), np.zeros(num_states, np.float32)
    final_scores = np.full(num_states, np.nan, np.float32)
    keys, targets, arc_scores = [], [], []
    begin, end = symbols.index(BEGIN), symbols.index(END)
    for n, grams in enumerate(orders):
        histories, shorter = (_states(first_states, n - 1, of) for of in (grams.prefix, grams.suffix))
        with np.errstate(divide="ignore"):
            logs = np.log(scores[n])
        own = shorter
        if n < len(gammas):
            own = first_states[n] + np.arange(len(grams.symbol))
            backoff_targets[own] = shorter
            backoff_scores[own] = np.log(np.where(np.isnan(gammas[n]), 1.0, gammas[n]))
        is_end, is_arc = grams.symbol == end, (grams.symbol != end) & (grams.symbol != begin)
        final_scores[histories[is_end]] = logs[is_end]
        keys.append(histories[is_arc] * len(symbols) + grams.symbol[is_arc])
        targets.append(own[is_arc])
        arc_scores.append(logs[is_arc])
    all_keys = np.concatenate(keys).astype(np.int64)
    by_key = np.argsort(all_keys)
    graph = NgramGraph(
        symbols,
        int(first_states[0] + begin) if gammas else 0,
        0,
        all_keys[by_key],
        np.concatenate(targets).astype(np.int32)[by_key],
        np.concatenate(arc_scores).astype(np.float32)[by_key],
        backoff_targets,
        backoff_scores,
        final_scores,
    )
    return graph, [len(grams.symbol) for grams in orders]


def _states(first_states: NDArray[np.int64], order: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The states of n-grams as histories, by their numbers in an order from 0; below it is the empty history alone."""
    return first_states[order] + numbers if order >= 0 else np.zeros_like(numbers)


def _estimate(
    sentences: Iterable[Sequence[str]], order: int, *, what: str
) -> tuple[list[str], list[_Order], list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """The symbols, the n-grams of each order, their probabilities, and the gamma of each as a history."""
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"the order of an n-gram model must be 1 to {MAX_ORDER}, but is {order}")
    symbols, text, ends = _numbered(sentences)
    if len(text) == 2 * len(ends):
        raise DataError(f"there must be sentences to estimate {what} from, but there is no symbol; check the texts")
    orders = _count(text, ends, len(symbols), order)
    return symbols, orders, *_smooth(orders, symbols)


def _numbered(sentences: Iterable[Sequence[str]]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Sorted symbols, the text as one row of their numbers, and the place after the end of each sentence."""
    numbers: dict[str, int] = {BEGIN: 0, END: 1, UNKNOWN: 2}
    text, ends = array("i"), array("q")
    for sentence in sentences:
        text.append(0)
        for symbol in sentence:
            symbol = UNKNOWN if symbol in _RESERVED else symbol
            number = numbers.setdefault(symbol, len(numbers))
            text.append(number)
        text.append(1)
        ends.append(len(text))
    spaced = [symbol for symbol in numbers if symbol.split() != [symbol]]
    if spaced:
        raise DataError(
            f"symbols must be without white space, but one is {spaced[0]!r}; split the sentences into words first"
        )
    symbols = sorted(numbers)
    place = {symbol: i for i, symbol in enumerate(symbols)}
    new = np.array([place[symbol] for symbol in numbers], np.int64)
    return symbols, new[np.array(text, np.int64)], np.array(ends, np.int64)


def _count(text: NDArray[np.int64], ends: NDArray[np.int64], num_symbols: int, order: int) -> list[_Order]:
    """The n-grams of each order up to `order`, or up to that of the longest sentence."""
    lengths = np.diff(ends, prepend=0)
    room = np.repeat(ends, lengths) - np.arange(len(text))  # remaining symbols of the sentence
    is_start = np.zeros(len(text), np.bool_)
    is_start[ends - lengths] = True
    used, numbers = np.unique(text, return_inverse=True)
    # <unk> has a unigram even if it does not occur in the text.
    count = np.zeros(num_symbols, np.int64)
    count[used] = np.bincount(numbers)
    everything, nothing = np.arange(num_symbols), np.zeros(num_symbols, np.int64)
    is_bos = everything == text[0]
    orders = [_Order(nothing, nothing, everything, is_bos, count)]
    ids = text
    for n in range(2, order + 1):
        starts = np.flatnonzero(room >= n)
        if not starts.size:
            break
        keys = ids[starts] * num_symbols + text[starts + n - 1]
        unique, first, inverse, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        suffix, is_initial = ids[starts[first] + 1], is_start[starts[first]]
        orders.append(_Order(unique // num_symbols, suffix, unique % num_symbols, is_initial, count))
        ids = np.full(len(text), -1, np.int64)
        ids[starts] = inverse
    return orders


def _smooth(orders: list[_Order], symbols: list[str]) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Probabilities of the n-grams of each order, and the gamma of each as a history (NaN if it is not a history)."""
    scores: list[NDArray[np.float64]] = []
    gammas: list[NDArray[np.float64]] = []
    lower = np.full(1, 1.0 / (len(symbols) - 1))  # all but <s> can come next
    for n, grams in enumerate(orders):
        adjusted = grams.count.copy()
        if n + 1 < len(orders):
            preceded = np.bincount(orders[n + 1].suffix, minlength=len(adjusted))
            adjusted = np.where(grams.is_initial, adjusted, preceded)
        if n == 0:
            adjusted[grams.is_initial] = 0
        discounts = np.array((0.0, *_discounts(adjusted)))[np.minimum(adjusted, 3)]
        num_histories = 1 if n == 0 else len(orders[n - 1].symbol)
        total = np.bincount(grams.prefix, adjusted, num_histories)
        with np.errstate(invalid="ignore"):
            gamma = np.bincount(grams.prefix, discounts, num_histories) / total
            probability = (adjusted - discounts) / total[grams.prefix] + gamma[grams.prefix] * lower[grams.suffix]
        scores.append(probability)
        gammas.append(gamma)
        lower = probability
    return scores, gammas[1:]


def _discounts(counts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Discounts of counts of 1, of 2, and of 3 or more."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return _FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return found if min(found) > 0 else _FALLBACK_DISCOUNTS


def _write(path: Path, lines: Iterator[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            is_gzipped = path.suffix == ".gz"
            opened = gzip.open(partial, "wt", encoding="utf-8") if is_gzipped else partial.open("w", encoding="utf-8")
            with opened as file:
                file.writelines(lines)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; free some space or choose another place") from error


def _lines(
    orders: list[_Order], scores: list[NDArray[np.float64]], gammas: list[NDArray[np.float64]], symbols: list[str]
) -> Iterator[str]:
    yield "\\data\\\n"
    for n, grams in enumerate(orders, start=1):
        yield f"ngram {n}={len(grams.symbol)}\n"
    names: list[str] = []
    for n, grams in enumerate(orders, start=1):
        yield f"\n\\{n}-grams:\n"
        ends = [symbols[i] for i in grams.symbol.tolist()]
        heads = grams.prefix.tolist()
        names = ends if n == 1 else [f"{names[head]} {end}" for head, end in zip(heads, ends, strict=True)]
        log_scores = np.log10(scores[n - 1]).tolist()
        log_gammas = np.log10(gammas[n - 1]).tolist() if n <= len(gammas) else [np.nan] * len(names)
        for name, score, gamma in zip(names, log_scores, log_gammas, strict=True):
            shown = _NO_PROBABILITY if name == BEGIN else f"{score:.7g}"
            yield f"{shown}\t{name}\n" if np.isnan(gamma) else f"{shown}\t{name}\t{gamma:.7g}\n"
    yield "\n\\end\\\n"
