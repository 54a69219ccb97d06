"""The keyword spotter, written slowly and plainly, as a reference: labels instead of a trie, a stream at a time."""

import math

import numpy as np
from torch import Tensor

from tests.search.toy_scorer import ToyScorer, label_scores
from zipasr.search.keywords import Spelling, SpotterConfig

Labels = tuple[int, ...]
Found = tuple[int, tuple[int, ...], float, int, bool]
"""Index of the keyword, frames of its tokens, score, frame after which it was found, and whether it is a near miss."""


def run(labels: Labels, spellings: list[Spelling]) -> Labels:
    """The longest run of last labels that starts a keyword."""
    return next(labels[i:] for i in range(len(labels) + 1) if any(s.ids[: len(labels) - i] == labels[i:] for s in spellings))


def boosts(labels: Labels, spellings: list[Spelling]) -> float:
    """The boosts of labels that start a keyword: of each the largest that a keyword with these labels has."""
    return sum(max(s.boost for s in spellings if s.ids[:n] == labels[:n]) for n in range(1, len(labels) + 1))


def kept(labels: Labels, spellings: list[Spelling]) -> float:
    """What a path keeps for the keywords that end with its last label."""
    return sum(boosts(s.ids, spellings) for s in spellings if labels[-len(s.ids) :] == s.ids)


class SlowPath:
    """A path: its labels since the root, their frames and probabilities, the predictor's context, and the score."""

    def __init__(self, score: float = 0.0) -> None:
        self.labels: Labels = ()
        self.context: Labels = ()
        self.frames: tuple[int, ...] = ()
        self.probs: tuple[float, ...] = ()
        self.score = score

    def after(self, label: int, step: float, frame: int, spellings: list[Spelling]) -> "SlowPath":
        """The path after a label."""
        labels = run((*self.labels, label), spellings)
        earned = boosts(labels, spellings) - boosts(self.labels, spellings) + kept(labels, spellings)
        new = SlowPath(self.score + step + earned)
        if labels:
            new.labels, new.context = labels, (*self.context, label)
            new.frames = (*self.frames, frame)[-len(labels) :]
            new.probs = (*self.probs, math.exp(step))[-len(labels) :]
        return new

    def same(self, score: float) -> "SlowPath":
        """The path with another score."""
        new = SlowPath(score)
        new.labels, new.context, new.frames, new.probs = self.labels, self.context, self.frames, self.probs
        return new

    def key(self, size: int) -> tuple[Labels, Labels]:
        """What decides its future."""
        return self.labels, ((-1,) * (size - 1) + (0, *self.context))[-size:]


def merge(paths: list[SlowPath], size: int) -> list[SlowPath]:
    """Paths with one future are one: the first of them, with all their probability."""
    merged: dict[tuple[Labels, Labels], SlowPath] = {}
    for path in paths:
        old = merged.get(path.key(size))
        merged[path.key(size)] = path if old is None else old.same(float(np.logaddexp(old.score, path.score)))
    return list(merged.values())


def slow_step(
    scorer: ToyScorer,
    frame: Tensor,
    t: int,
    live: list[SlowPath],
    spellings: list[Spelling],
    config: SpotterConfig,
    unk: int,
) -> list[SlowPath]:
    """The paths after a frame."""
    max_symbols = config.max_symbols_per_frame or 1
    inside, finished = live, []
    for num_symbols in range(1, max_symbols + 1):
        pool = [(path.score, path, -1, 0.0) for path in finished]
        for path in inside:
            steps = label_scores(scorer, frame, path.context).tolist()
            pool += [(path.score + step, path, label, step) for label, step in enumerate(steps)]
        inside, finished = [], []
        for score, path, label, step in sorted(pool, key=lambda entry: -entry[0])[: config.beam]:
            if label in (-1, 0, unk):
                finished.append(path.same(score))
            else:
                group = inside if num_symbols < max_symbols else finished
                group.append(path.after(label, step, t, spellings))
        inside, finished = merge(inside, scorer.context_size), merge(finished, scorer.context_size)
        if not inside:
            break
    return finished


def slow_spotter(
    scorer: ToyScorer, frames: Tensor, spellings: list[Spelling], config: SpotterConfig, unk: int = -2
) -> list[Found]:
    """What the spotter finds in frames (T, V)."""
    live, found = [SlowPath()], []
    last_end: dict[int, int] = {}
    told: dict[int, Found] = {}
    for t in [*range(len(frames)), None]:
        if t is not None:
            live = slow_step(scorer, frames[t], t, live, spellings, config, unk)
        now = len(frames) - 1 if t is None else t
        matches: list[Found] = []
        ranked = sorted(live, key=lambda path: -path.score)
        for rank, path in enumerate(ranked):
            is_over = t is None or now - (path.frames or (now,))[-1] > config.num_trailing_blanks
            ends = [s for s in spellings if s.ids == path.labels[-len(s.ids) :]] if is_over else []
            better = [other.labels for other in ranked[:rank]]
            ends = [s for s in ends if not any(b[: len(s.ids)] == s.ids and len(b) > len(s.ids) for b in better)]
            for s in sorted(ends, key=lambda s: -len(s.ids)):
                score = float(np.mean(path.probs[-len(s.ids) :]))
                matches.append((s.keyword, path.frames[-len(s.ids) :], score, now, score < s.threshold))
        event = next((match for match in matches if not match[4]), None)
        if event is not None:
            keyword, places = event[:2]
            if keyword not in last_end or (places[-1] - last_end[keyword]) * 0.04 >= config.refractory_s:
                last_end[keyword] = places[-1]
                found.append(event)
            live = [SlowPath()]
        elif config.near is not None:
            for match in matches:
                keyword, places, score = match[:3]
                threshold = next(s.threshold for s in spellings if s.keyword == keyword)
                old = told.get(keyword)
                is_new = old is None or places[0] > old[1][-1] or score > old[2]
                if is_new and score >= config.near * threshold:
                    told[keyword] = match
                    found.append(match)
    return found
