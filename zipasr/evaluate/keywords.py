"""Keyword spotting on recordings with known texts: misses, false alarms, the curve of both, and thresholds.

A recording whose text has a keyword is one that must be found, whatever is found in it besides; all others are negatives of
this keyword, and every event in them is a false alarm. The audio is searched once, with all that the beam completes told as
near misses. From these follows what is reported at any threshold: until the first event, the search does not depend on it,
and after an event all paths start over, so that what began before it is not found any more.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.rates import ReferenceUtterance, none_readable, readable_groups
from zipasr.recognizer import KeywordEvent, KeywordSpotter
from zipasr.search.keywords import KeywordSet
from zipasr.text import lower, normalize, split_words, words_only
from zipasr.tokenizer import Tokenizer

THRESHOLDS = tuple(i / 100 for i in range(1, 101))
"""Thresholds of the curves."""
CONFIDENCE = 0.95
"""Confidence of the bound on the rate of false alarms."""


class SpottedUtterance(NamedTuple):
    """A recording, and all that could be found in it."""

    id: str
    duration_s: float
    said: frozenset[str]
    """Names of the keywords that its text has."""
    candidates: tuple[KeywordEvent, ...]
    """What is reported at some threshold, in the order in which it is found; near misses are below the keyword's own."""


class Point(NamedTuple):
    """What one keyword costs at a threshold."""

    threshold: float
    num_missed: int
    num_alarms: int


@dataclass(frozen=True, kw_only=True)
class KeywordResult:
    """Misses and false alarms of one keyword, or of several together."""

    name: str
    threshold: float
    num_said: int
    """Recordings that have it."""
    num_missed: int
    """Those of them without an event."""
    num_alarms: int
    """Events in the other recordings."""
    negative_h: float
    """Hours of the other recordings."""

    @property
    def miss_rate(self) -> float:
        """Share of the recordings with the keyword in which it was not found, in percent; 0 without any."""
        return 100.0 * self.num_missed / self.num_said if self.num_said else 0.0

    @property
    def alarms_bound_per_h(self) -> float:
        """The rate of false alarms an hour that is not exceeded with 95 % confidence."""
        return alarms_bound(self.num_alarms) / self.negative_h if self.negative_h else math.inf

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary for JSON, the rate of misses in percent; no bound without negatives."""
        bound = self.alarms_bound_per_h
        return {
            "keyword": self.name,
            "threshold": self.threshold,
            "num_said": self.num_said,
            "num_missed": self.num_missed,
            "miss_rate": round(self.miss_rate, 4),
            "num_alarms": self.num_alarms,
            "negative_h": round(self.negative_h, 4),
            "alarms_bound_per_h": round(bound, 3) if math.isfinite(bound) else None,
        }


@dataclass(frozen=True, kw_only=True)
class KeywordReport:
    """Keywords on a set of recordings."""

    results: tuple[KeywordResult, ...]
    """Each keyword at its threshold."""
    chosen: tuple[KeywordResult, ...]
    """Each keyword at the threshold that has the fewest misses with the allowed false alarms."""
    curves: Mapping[str, tuple[Point, ...]]
    """The points of each keyword, by its name."""
    utterances: tuple[SpottedUtterance, ...]
    audio_s: float
    decode_s: float
    """Time from samples to events."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Id and reason of recordings that could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON, without the recordings."""
        return {
            "keywords": [result.to_dict() for result in self.results],
            "chosen": [result.to_dict() for result in self.chosen],
            "total": together(self.results).to_dict(),
            "num_utterances": len(self.utterances),
            "audio_s": round(self.audio_s, 3),
            "decode_s": round(self.decode_s, 3),
            "num_unreadable": len(self.unreadable),
        }


def evaluate_keywords(
    spotter: KeywordSpotter, utterances: Iterable[ReferenceUtterance], *, max_alarms_per_h: float = 1.0
) -> KeywordReport:
    """Spot keywords in recordings with known texts, and count.

    Args:
        spotter: the keywords, with the thresholds that are to be judged.
        utterances: recordings with and without keywords.
        max_alarms_per_h: false alarms an hour that a keyword may have at the chosen threshold.
    Raises:
        ConfigError: `max_alarms_per_h` is negative or not finite, or two keywords have one name.
        DataError: no recording can be read, or none has a keyword.
    """
    if not 0 <= max_alarms_per_h < math.inf:
        raise ConfigError(f"the allowed false alarms an hour must be finite and not below 0, but are {max_alarms_per_h:g}")
    names = spotter.keywords.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"keywords must have names of their own to be measured, but two are {twice!r}; add @NAME to one")
    unreadable: list[tuple[str, str]] = []
    spotted, decode_s = _spotted(spotter, utterances, unreadable)
    if not spotted:
        raise none_readable("recordings", unreadable)
    if not any(utterance.said for utterance in spotted):
        raise DataError(
            f"the texts must have keywords, but none of {len(spotted)} has one of {', '.join(names)}; "
            "spell keywords and texts alike"
        )
    thresholds = thresholds_of(spotter.keywords)
    refractory_s = spotter.config.refractory_s
    curves = {name: curve_of(name, spotted, refractory_s) for name in thresholds}
    chosen = {name: _chosen(points, _negative_h(name, spotted) * max_alarms_per_h) for name, points in curves.items()}
    return KeywordReport(
        results=results_at(thresholds, spotted, refractory_s),
        chosen=results_at(chosen, spotted, refractory_s),
        curves=curves,
        utterances=spotted,
        audio_s=sum(utterance.duration_s for utterance in spotted),
        decode_s=decode_s,
        unreadable=tuple(unreadable),
    )


def _spotted(
    spotter: KeywordSpotter, utterances: Iterable[ReferenceUtterance], unreadable: list[tuple[str, str]]
) -> tuple[tuple[SpottedUtterance, ...], float]:
    """The readable recordings with all that could be found in them, and the time that took; the others are added to
    `unreadable`."""
    phrases = _phrases(spotter.keywords, spotter.engine.tokenizer)
    joiner, everything = spotter.engine.tokenizer.word_joiner, spotter.reporting_everything()
    thresholds = thresholds_of(spotter.keywords)
    spotted, decode_s = [], 0.0
    for group in readable_groups(utterances, unreadable):
        started_s = time.perf_counter()
        found = everything.spot_many([samples for _, samples, _ in group])
        decode_s += time.perf_counter() - started_s
        for (id, samples, text), candidates in zip(group, found, strict=True):
            said = frozenset(name for name, own in phrases.items() if any(_is_said(p, text, joiner) for p in own))
            judged = tuple(_judged(candidate, thresholds[candidate.keyword]) for candidate in candidates)
            spotted.append(SpottedUtterance(id, len(samples) / SAMPLE_RATE_HZ, said, judged))
    return tuple(spotted), decode_s


def _judged(candidate: KeywordEvent, threshold: float) -> KeywordEvent:
    """What was found by a spotter that reports everything as near misses, with the threshold of the keyword."""
    return replace(candidate, threshold=threshold, is_near=candidate.score < threshold)


def thresholds_of(keywords: KeywordSet) -> dict[str, float]:
    """The threshold of each keyword, by its name."""
    return {keywords.names[spelling.keyword]: spelling.threshold for spelling in keywords.spellings}


def _phrases(keywords: KeywordSet, tokenizer: Tokenizer) -> dict[str, set[str]]:
    """What stands for each keyword in a text: its words, or also its name if the model writes no words but phones."""
    found: dict[str, set[str]] = {}
    for spelling in keywords.spellings:
        name = keywords.names[spelling.keyword]
        named = {name.replace("_", " ")} if tokenizer.are_words else set()
        found.setdefault(name, named).add(tokenizer.decode(spelling.ids))
    return found


def _is_said(phrase: str, text: str, joiner: str) -> bool:
    """Whether the words of a phrase follow each other in a text, in any case."""
    wanted, words = (split_words(lower(words_only(normalize(written))), joiner) for written in (phrase, text))
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def events_at(
    thresholds: Mapping[str, float], candidates: Sequence[KeywordEvent], refractory_s: float
) -> list[KeywordEvent]:
    """The events among candidates, in their order, at some thresholds; other keywords are not looked for."""
    events, restart_s, last_end_s = [], 0.0, dict[str, float]()
    for candidate in candidates:
        name = candidate.keyword
        if name not in thresholds or candidate.score < thresholds[name] or candidate.start_s < restart_s:
            continue
        restart_s = candidate.found_s
        if name not in last_end_s or round(candidate.end_s - last_end_s[name], 6) >= refractory_s:
            last_end_s[name] = candidate.end_s
            events.append(candidate)
    return events


def results_at(
    thresholds: Mapping[str, float], utterances: Sequence[SpottedUtterance], refractory_s: float
) -> tuple[KeywordResult, ...]:
    """The result of each keyword, if all are looked for together at these thresholds."""
    events = [
        [event.keyword for event in events_at(thresholds, utterance.candidates, refractory_s)] for utterance in utterances
    ]
    results = []
    for name, threshold in thresholds.items():
        pairs = [(name in utterance.said, names.count(name)) for utterance, names in zip(utterances, events, strict=True)]
        results.append(
            KeywordResult(
                name=name,
                threshold=threshold,
                num_said=sum(is_said for is_said, _ in pairs),
                num_missed=sum(is_said and not number for is_said, number in pairs),
                num_alarms=sum(number for is_said, number in pairs if not is_said),
                negative_h=_negative_h(name, utterances),
            )
        )
    return tuple(results)


def together(results: Sequence[KeywordResult], name: str = "all") -> KeywordResult:
    """The sums over keywords. An hour without any of them is one of each: rates are those of a keyword on average."""
    return KeywordResult(
        name=name,
        threshold=math.fsum(result.threshold for result in results) / len(results),
        num_said=sum(result.num_said for result in results),
        num_missed=sum(result.num_missed for result in results),
        num_alarms=sum(result.num_alarms for result in results),
        negative_h=math.fsum(result.negative_h for result in results),
    )


def curve_of(name: str, utterances: Sequence[SpottedUtterance], refractory_s: float) -> tuple[Point, ...]:
    """Misses and false alarms of a keyword at each of `THRESHOLDS`, if it is the only one."""
    results = (results_at({name: threshold}, utterances, refractory_s)[0] for threshold in THRESHOLDS)
    return tuple(Point(result.threshold, result.num_missed, result.num_alarms) for result in results)


def _chosen(points: Sequence[Point], max_alarms: float) -> float:
    """The threshold with the fewest misses among those with few enough alarms; of equal ones that in the middle."""
    allowed = [point for point in points if point.num_alarms <= max_alarms] or [points[-1]]
    fewest = min(point.num_missed for point in allowed)
    best = [point.threshold for point in allowed if point.num_missed == fewest]
    return best[len(best) // 2]


def _negative_h(name: str, utterances: Sequence[SpottedUtterance]) -> float:
    return math.fsum(utterance.duration_s for utterance in utterances if name not in utterance.said) / 3600.0


def alarms_bound(num_alarms: int) -> float:
    """The largest expected number of events of which so few occur with a probability of 1 - `CONFIDENCE`: 3.0 for none.

    Source: Garwood 1936, the exact one-sided bound of a Poisson mean.
    """
    low, high = 0.0, 10.0 * (num_alarms + 5)
    for _ in range(100):
        middle = (low + high) / 2
        terms = (math.exp(n * math.log(middle) - middle - math.lgamma(n + 1)) for n in range(num_alarms + 1))
        low, high = (low, middle) if math.fsum(terms) < 1 - CONFIDENCE else (middle, high)
    return high
