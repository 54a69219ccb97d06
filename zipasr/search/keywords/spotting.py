"""Keyword spotting: encoded frames (N, T, D) at 25 Hz -> the places where keywords were said, while the audio comes in.

A beam search of the transducer as in `search.beam`, in which labels that start no keyword are forgotten at once: the path is
then back at the root of the keywords, without a label context, and merges with all others there. So a few paths suffice for
audio of any length. Keywords are found where a path has completed one, blanks have followed, and the mean probability of its
tokens reaches the threshold; then all paths start over.

Differs: the ecosystem's spotter judges the best path alone, averages the first tokens of a path where a keyword is a suffix
of it, and takes it for a miss if a longer keyword that it ends with is below its threshold. Here all live paths are judged,
from the best, and in each all keywords that end there, each by its own tokens; a keyword waits while a better path goes on
from it.
Source: modified beam search, Kang et al. 2022, arXiv:2211.00484; the algorithm of the ecosystem's keyword spotter.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.errors import ConfigError
from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import FIRST_ROW, Contexts, KeptContexts, first_context
from zipasr.search.continuations import Beam, Chooser, Continuation
from zipasr.search.keywords.trie import KeywordTrie, Spelling, TrieState
from zipasr.search.label_tree import log_add
from zipasr.search.resumable import check_states
from zipasr.search.scorer import AdjustedScorer, Scorer

MAX_BEAM, MAX_SYMBOLS_PER_FRAME = 1000, 100


@dataclass(frozen=True, kw_only=True)
class SpotterConfig:
    """How keywords are spotted."""

    beam: int = 4
    """Paths that are kept; the ecosystem's `max_active_paths`."""
    num_trailing_blanks: int = 1
    """More blanks than these must follow a keyword before it is reported. More of them tell keywords apart that start with
    another keyword, and delay the event."""
    refractory_s: float = 0.5
    """After an event, the same keyword is not reported again if it ends within this time after the end of the first."""
    near: float | None = None
    """Report near misses too: keywords whose score is at least this share of their threshold; 0: all that the beam has;
    None: none."""
    max_symbols_per_frame: int | None = None
    """Tokens that a frame of 40 ms may emit, as in the beam search; the ecosystem's spotter emits one. None: as many as the
    recognizer's search, which training has chosen; one in a search without a recognizer."""

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= MAX_BEAM:
            raise ConfigError(f"beam must be from 1 to {MAX_BEAM}, but is {self.beam}; 4 to 16 is usual")
        if not 0 <= self.num_trailing_blanks <= 100:
            raise ConfigError(f"num_trailing_blanks must be from 0 to 100, but is {self.num_trailing_blanks}; 1 is usual")
        if not 0 <= self.refractory_s < math.inf:
            raise ConfigError(f"refractory_s must be finite and not below 0, but is {self.refractory_s}")
        if self.near is not None and not 0 <= self.near <= 1:
            raise ConfigError(f"near must be a share of the threshold from 0 to 1, but is {self.near}")
        if self.max_symbols_per_frame is not None and not 1 <= self.max_symbols_per_frame <= MAX_SYMBOLS_PER_FRAME:
            raise ConfigError(
                f"max_symbols_per_frame must be from 1 to {MAX_SYMBOLS_PER_FRAME}, but is {self.max_symbols_per_frame}"
            )


class Emission(NamedTuple):
    """A token of a path."""

    frame: int
    """Frame at 25 Hz that emitted it, from the start of the stream."""
    log_prob: float
    """Its log-probability there, in nats, without boost."""


class KeywordMatch(NamedTuple):
    """A keyword that was found, or nearly."""

    spelling: Spelling
    """What was found."""
    emissions: tuple[Emission, ...]
    """Its tokens, as they were emitted."""
    score: float
    """Mean probability of its tokens, from 0 to 1."""
    frame: int
    """Frame at 25 Hz after which it was found."""
    is_near: bool = False
    """Whether its score is below its threshold, so that it is no event but a near miss."""

    @property
    def start_frame(self) -> int:
        """Frame of its first token."""
        return self.emissions[0].frame

    @property
    def end_frame(self) -> int:
        """Frame of its last token."""
        return self.emissions[-1].frame


class SpotterPath(NamedTuple):
    """A live path: all label sequences with one state and one label context, with the tokens of the best of them."""

    node: TrieState
    """The keywords that it is in."""
    context: tuple[int, ...]
    """The last labels that the predictor sees."""
    context_row: int
    """Their row in the table of the current call."""
    score: float
    """Log-probability and boosts, in nats."""
    emissions: tuple[Emission, ...]
    """As many tokens as the state has."""


class SpotterState:
    """Progress of the search in one stream."""

    def __init__(self, trie: KeywordTrie, context: tuple[int, ...], near: float | None) -> None:
        self.trie, self.near, self.num_frames = trie, near, 0
        self.first = SpotterPath(trie.root, context, FIRST_ROW, 0.0, ())
        self.paths = [self.first]
        """The live paths, the best first."""
        self.found: list[KeywordMatch] = []
        """Events and near misses that nobody has taken yet."""
        self.last_end: dict[int, int] = {}
        """Frame at which the last event of a keyword ended."""
        self.told: dict[int, KeywordMatch] = {}
        """The last near miss of each keyword."""

    def take(self) -> list[KeywordMatch]:
        """Return what was found since the last call."""
        found, self.found = self.found, []
        return found


class KeywordSearch:
    """The search with its settings; streams with keywords of their own advance in one batch."""

    def __init__(self, scorer: Scorer, config: SpotterConfig, *, unk_id: int | None = None) -> None:
        """Configure the search; `unk_id` is a label that counts as blank, None: the vocabulary has none.

        Raises:
            ConfigError: the model has no transducer head.
        """
        if not scorer.has_transducer:
            raise ConfigError("keyword spotting needs a transducer head, but this model has none; train one with it")
        self.scorer, self.config = scorer, config
        self._max_symbols = config.max_symbols_per_frame or 1
        self.silent = {scorer.blank_id, unk_id}
        self._chooser = Chooser(adjusted=AdjustedScorer(scorer), beam=config.beam)
        self._contexts = KeptContexts(scorer)

    def start(self, trie: KeywordTrie, *, near: float | None = None) -> SpotterState:
        """State of a stream before its first frame; `near` as in `SpotterConfig`, None: that of the settings."""
        return SpotterState(trie, first_context(self.scorer), self.config.near if near is None else near)

    @torch.inference_mode()
    def advance(self, states: Sequence[SpotterState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; what is found waits in `SpotterState.found`.

        Raises:
            ValueError: there is not one row for each state, or lengths do not fit the frames.
        """
        lens = check_states(states, encoded)
        contexts = self._contexts.get()
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        for state in states:
            state.paths = [path._replace(context_row=contexts.row_of(path.context)) for path in state.paths]
        for frame in range(max(lens, default=0)):
            active = [n for n, length in enumerate(lens) if frame < length]
            rows = torch.tensor(active, device=projected_NTJ.device)
            self._advance_frame([states[n] for n in active], projected_NTJ[rows, frame], contexts)

    def _advance_frame(self, states: Sequence[SpotterState], projected_NJ: Tensor, contexts: Contexts) -> None:
        beams = [Beam(state.paths, []) for state in states]
        active, projected_AJ = list(range(len(states))), projected_NJ
        for num_symbols in range(1, self._max_symbols + 1):
            chosen = self._chooser.choose([beams[n] for n in active], projected_AJ, contexts)
            is_last = num_symbols == self._max_symbols
            for n, continuations in zip(active, chosen, strict=True):
                beams[n] = self._merged(states[n], continuations, contexts, is_last=is_last)
            active = [n for n in active if beams[n].open]
            if not active:
                break
            projected_AJ = projected_NJ[torch.tensor(active, device=projected_NJ.device)]
        for state, beam in zip(states, beams, strict=True):
            state.paths = sorted(beam.finished, key=lambda path: -path.score)
            state.num_frames += 1
            self._judge(state, self.config.num_trailing_blanks)

    def _merged(
        self,
        state: SpotterState,
        continuations: Iterable[Continuation[SpotterPath]],
        contexts: Contexts,
        *,
        is_last: bool,
    ) -> Beam[SpotterPath]:
        """The beam after a sub-step; in the last one of a frame, a label finishes it as blank does."""
        still_open: dict[tuple[TrieState, int], SpotterPath] = {}
        finished: dict[tuple[TrieState, int], SpotterPath] = {}
        for path, label, step in continuations:
            is_silent = label in self.silent
            merged = finished if is_silent or is_last else still_open
            new = path._replace(score=path.score + step)
            if not is_silent:
                new = _after_label(state, new, Emission(state.num_frames, step), label, contexts)
            key = new.node, new.context_row
            if (better := merged.get(key)) is not None:
                new = better._replace(score=log_add(better.score, new.score))
            merged[key] = new
        return Beam(list(still_open.values()), list(finished.values()))

    def finish(self, states: Sequence[SpotterState]) -> None:
        """Judge the paths of streams that have ended once more: no blank can follow any more."""
        for state in states:
            self._judge(state, -1)

    def _judge(self, state: SpotterState, num_blanks: int) -> None:
        """Report the keyword of the best path whose score reaches its threshold, and start over; or the near misses.

        A keyword waits while a better path goes on from it: in the middle of PLEASE ENTER, PLEASE is in a worse path.
        """
        near: list[KeywordMatch] = []
        begun: frozenset[Spelling] = frozenset()
        for path in state.paths:
            if path.node.ends and state.num_frames - 1 - path.emissions[-1].frame > num_blanks:
                matches = [match for match in _matches(path, state.num_frames - 1) if match.spelling not in begun]
                event = next((match for match in matches if not match.is_near), None)
                if event is not None:
                    self._report(state, event)
                    state.paths = [state.first]
                    return
                near += matches
            begun |= path.node.begun
        if state.near is not None:
            for match in near:
                _tell(state, match, state.near)

    def _report(self, state: SpotterState, match: KeywordMatch) -> None:
        """Add an event, unless the keyword has just been reported."""
        keyword, end = match.spelling.keyword, match.end_frame
        last = state.last_end.get(keyword)
        if last is None or (end - last) * FRAME_S_25HZ >= self.config.refractory_s:
            state.last_end[keyword] = end
            state.found.append(match)


def _after_label(state: SpotterState, path: SpotterPath, emission: Emission, label: int, contexts: Contexts) -> SpotterPath:
    """A path after a label, whose probability its score includes: at the root if no keyword goes on or starts with it."""
    node, boost = state.trie.advance(path.node, label)
    score = path.score + boost
    if node is state.trie.root:
        return state.first._replace(score=score)
    row = contexts.row_after(path.context_row, label)
    return SpotterPath(node, contexts.context(row), row, score, (*path.emissions, emission)[-node.level :])


def _matches(path: SpotterPath, frame: int) -> list[KeywordMatch]:
    """The keywords that a path ends with, the longest first."""
    found = []
    for spelling in path.node.ends:
        emissions = path.emissions[-len(spelling.ids) :]
        score = math.fsum(math.exp(emission.log_prob) for emission in emissions) / len(emissions)
        found.append(KeywordMatch(spelling, emissions, score, frame, score < spelling.threshold))
    return found


def _tell(state: SpotterState, match: KeywordMatch, near: float) -> None:
    """Add a near miss, unless one of the same keyword at the same place was as good."""
    keyword = match.spelling.keyword
    told = state.told.get(keyword)
    is_new = told is None or match.start_frame > told.end_frame or match.score > told.score
    if is_new and match.score >= near * match.spelling.threshold:
        state.told[keyword] = match
        state.found.append(match)
