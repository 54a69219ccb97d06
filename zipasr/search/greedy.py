"""Greedy searches: the best label of every frame. Encoded frames (N, T, D) at 25 Hz -> one `Hypothesis` an utterance.

The transducer search emits at most one label a frame, as the published decoder does, unless configured otherwise. It looks
ahead: one joiner call scores a window of frames of every utterance with the contexts that follow from guessed labels, and
what comes after the first wrong guess is discarded. The result is that of going frame by frame, with far fewer calls.
Guesses are the labels of the CTC head, if there is one, and those that were discarded.
Source: Graves 2012, section 2.4; the published recipe's `greedy_search_batch`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import FIRST_ROW, Contexts, KeptContexts, first_context
from zipasr.search.hotwords import HotwordGraph, HotwordState
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.resumable import check_states, search_all
from zipasr.search.scorer import AdjustedScorer, Scorer

WINDOW_FRAMES_25HZ = 8
"""Frames scored ahead in one joiner call (benchmarks/search.py)."""


class _Found:
    """Labels that a greedy search has found in one utterance so far."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.ids: list[int] = []
        self.frames: list[int] = []
        self.log_probs: list[float] = []
        self.score = 0.0
        self._hypothesis = Hypothesis()

    def emit(self, label: int, frame: int, log_prob: float) -> None:
        """Append a label; its log-probability is added to the score separately."""
        self.ids.append(label)
        self.frames.append(frame)
        self.log_probs.append(log_prob)

    def hypothesis(self) -> Hypothesis:
        """The hypothesis so far, as if the utterance ended here; without new labels, its tuples are those of the last."""
        ids, frames, log_probs = self._hypothesis[:3]
        if len(ids) < len(self.ids):
            ids, frames, log_probs = tuple(self.ids), tuple(self.frames), tuple(self.log_probs)
        self._hypothesis = Hypothesis(ids, frames, log_probs, self.score)
        return self._hypothesis


class GreedyState(_Found):
    """Progress of the transducer search in one utterance."""

    def __init__(self, context: tuple[int, ...], hotwords: HotwordGraph) -> None:
        """Start after the labels of `context`."""
        super().__init__()
        self.context, self.context_row = context, FIRST_ROW
        self.hotwords, self.hotword_state = hotwords, hotwords.start()

    def emit(self, label: int, frame: int, log_prob: float) -> None:
        """Append a label; the bonus of hotwords is added to the score here."""
        if not self.hotwords.is_empty:
            (self.hotword_state,), (bonus,) = self.hotwords.extend([self.hotword_state], [label])
            self.score += bonus
        super().emit(label, frame, log_prob)

    def hypothesis(self) -> Hypothesis:
        """The hypothesis so far, without the boosts of phrases that are not complete."""
        found = super().hypothesis()
        if self.hotwords.is_empty:
            return found
        return found._replace(score=found.score + self.hotwords.finish([self.hotword_state])[0])


class _Ahead:
    """Frames of an utterance that are not decided yet: guesses of their labels, and the steps that one joiner call scores.

    A step finds one label: that of a frame, or of the same frame again after a label that leaves room for another.
    """

    def __init__(self, state: GreedyState, number: int, num_frames: int) -> None:
        self.state, self.number, self.num_frames = state, number, num_frames
        self.frame = 0
        """The next frame to decide."""
        self.num_here = 0
        """Labels that it has emitted already."""
        self.guesses: list[int | None] = [None] * num_frames
        """The label that each frame is guessed to emit; None: none."""
        self.frames: Sequence[int] = ()
        """The frame of each step."""
        self.expected: Sequence[int | None] = ()
        """The guess of each step."""
        self.rows: list[int] = []
        """Row of the label context of each step, if all guesses before it are right."""
        self.hotwords: list[HotwordState] = []
        """State of the hotwords of each step, likewise."""

    def guess(self, frames: Sequence[int], labels: Sequence[int], silent: set[int | None], previous: int | None) -> None:
        """Take the first label of each frame as a guess, but not if it repeats the one before: the context knows of it then.

        The frames are in order, `silent` labels count as none, and `previous` is the label before all of them.
        """
        latest = -1
        for frame, label in zip(frames, labels, strict=True):
            if frame > latest:
                self.guesses[frame] = None if label == previous or label in silent else label
                previous, latest = label, frame

    def plan(self, num_frames: int, max_symbols: int, contexts: Contexts) -> None:
        """Plan the steps of the next frames."""
        self.frames = range(self.frame, min(self.frame + num_frames, self.num_frames))
        self.expected = self.guesses[self.frame : self.frame + num_frames]
        if max_symbols > 1:
            if self.num_here:
                self.expected[0] = None
            steps = [
                (frame, label)
                for frame, guess in zip(self.frames, self.expected, strict=True)
                for label in ((None,) if guess is None else (guess, None))
            ]
            self.frames, self.expected = zip(*steps, strict=True)
        row, hotwords, graph = self.state.context_row, self.state.hotword_state, self.state.hotwords
        self.rows = []
        for label in self.expected:
            self.rows.append(row)
            if label is not None:
                row = contexts.row_after(row, label)
        self.hotwords = [hotwords] * len(self.rows)
        if not graph.is_empty:
            for i, label in enumerate(self.expected):
                self.hotwords[i] = hotwords
                if label is not None:
                    hotwords = graph.extend([hotwords], [label])[0][0]


class GreedySearch:
    """The transducer search as a `ResumableSearch`; see `greedy_search`."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
        unk_id: int | None = None,
        max_symbols_per_frame: int = 1,
        window_frames_25hz: int = WINDOW_FRAMES_25HZ,
    ) -> None:
        """Configure the search; arguments as in `greedy_search`."""
        if max_symbols_per_frame < 1:
            raise ValueError(f"max_symbols_per_frame must be at least 1, but is {max_symbols_per_frame}")
        if window_frames_25hz < 1:
            raise ValueError(f"window_frames_25hz must be at least 1, but is {window_frames_25hz}")
        self.scorer, self.silent = scorer, {scorer.blank_id, unk_id}
        self._adjusted = AdjustedScorer(scorer, blank_penalty, temperature)
        self.max_symbols_per_frame, self.window_frames_25hz = max_symbols_per_frame, window_frames_25hz
        self._contexts = KeptContexts(scorer)

    def start(self, hotwords: HotwordGraph | None = None) -> GreedyState:
        """State of an utterance before its first frame."""
        return GreedyState(first_context(self.scorer), HotwordGraph([]) if hotwords is None else hotwords)

    @torch.inference_mode()
    def advance(self, states: Sequence[GreedyState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        contexts = self._contexts.get()
        for state in states:
            state.context_row = contexts.row_of(state.context)
        utterances = [_Ahead(state, n, length) for n, (state, length) in enumerate(zip(states, lens, strict=True))]
        if self.scorer.has_ctc and max(lens, default=0) > 1:
            labels_NT = self.scorer.ctc_log_probs(encoded.frames).argmax(-1).tolist()
            for utterance, labels, length in zip(utterances, labels_NT, lens, strict=True):
                utterance.guess(range(length), labels[:length], self.silent, None)
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        active = [utterance for utterance in utterances if utterance.num_frames]
        while active:
            for utterance in active:
                utterance.plan(self.window_frames_25hz, self.max_symbols_per_frame, contexts)
            labels, log_probs = self._best(active, projected_NTJ, contexts)
            first = 0
            for utterance in active:
                last = first + len(utterance.rows)
                self._follow(utterance, labels[first:last], log_probs[first:last], contexts)
                first = last
            active = [utterance for utterance in active if utterance.frame < utterance.num_frames]
        for state in states:
            state.context = contexts.context(state.context_row)

    def _best(self, active: Sequence[_Ahead], projected_NTJ: Tensor, contexts: Contexts) -> tuple[list[int], list[float]]:
        """The label of every planned step of some utterances, one after the other, with its log-probability."""
        places: tuple[list[int], list[int], list[int]] = [], [], []
        for utterance in active:
            places[0].extend([utterance.number] * len(utterance.rows))
            places[1].extend(utterance.frames)
            places[2].extend(utterance.rows)
        rows_M, frames_M, contexts_M = torch.from_numpy(np.array(places)).to(projected_NTJ.device).unbind()
        log_probs_MV = self._adjusted.transducer_log_probs(projected_NTJ[rows_M, frames_M], contexts.gather(contexts_M))
        if all(utterance.state.hotwords.is_empty for utterance in active):
            best_log_probs_M, best_M = log_probs_MV.max(-1)
        else:
            bonus_MV, is_inside_M = _bonus(active, log_probs_MV)
            best_log_probs_M, best_M = _best_with_bonus(log_probs_MV, bonus_MV, is_inside_M, self.silent)
        return best_M.tolist(), best_log_probs_M.tolist()

    def _follow(self, ahead: _Ahead, labels: Sequence[int], log_probs: Sequence[float], contexts: Contexts) -> None:
        """Follow the steps up to the first wrong guess; the labels after it become guesses."""
        state, score, silent = ahead.state, ahead.state.score, self.silent
        first_frame, num_followed = ahead.frame, 0
        for frame, guess, label, log_prob in zip(ahead.frames, ahead.expected, labels, log_probs, strict=True):
            score += log_prob
            num_followed += 1
            is_silent = label in silent
            if not is_silent:
                state.score = score
                state.emit(label, state.num_frames + frame - first_frame, log_prob)
                state.context_row, score = contexts.row_after(state.context_row, label), state.score
                ahead.num_here += 1
            if is_silent or ahead.num_here == self.max_symbols_per_frame:
                ahead.frame, ahead.num_here = frame + 1, 0
            else:
                ahead.frame = frame
            if guess != (None if is_silent else label):
                ahead.guess(ahead.frames[num_followed:], labels[num_followed:], silent, label)
                break
        state.score = score
        state.num_frames += ahead.frame - first_frame

    def hypotheses(self, states: Sequence[GreedyState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """The one hypothesis of each state; see `ResumableSearch`."""
        return [[state.hypothesis()] for state in states]

    def restart(self, state: GreedyState) -> GreedyState:
        """State of the next utterance; see `ResumableSearch`."""
        return GreedyState(state.context, state.hotwords)


def greedy_search(
    scorer: Scorer,
    encoded: Encoded,
    *,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    unk_id: int | None = None,
    hotwords: HotwordGraph | None = None,
    max_symbols_per_frame: int = 1,
    window_frames_25hz: int = WINDOW_FRAMES_25HZ,
) -> list[Hypothesis]:
    """The hypothesis of each utterance that follows the most probable label of every frame, by the transducer head.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        blank_penalty: subtracted from the blank's logit; positive values delete fewer words.
        temperature: divides the logits; changes the probabilities, not the labels.
        unk_id: a label that is skipped like blank; None: the vocabulary has none.
        hotwords: phrases to prefer. Boosts choose between labels; against blank they count only inside a phrase, and
            boosts that are withdrawn never do, since a search that cannot backtrack would stutter or fall silent.
        max_symbols_per_frame: labels that a frame may emit before the search advances to the next.
        window_frames_25hz: frames scored in one joiner call; changes the speed, not the result.
    Returns:
        One hypothesis for each utterance.
    Raises:
        ValueError: lengths do not fit the frames, the window is empty, no label may be emitted, the temperature is not
            positive, or there is no transducer head.
    """
    search = GreedySearch(
        scorer,
        blank_penalty=blank_penalty,
        temperature=temperature,
        unk_id=unk_id,
        max_symbols_per_frame=max_symbols_per_frame,
        window_frames_25hz=window_frames_25hz,
    )
    return [ranked[0] for ranked in search_all(search, encoded, hotwords)]


def _bonus(planned: Sequence[_Ahead], log_probs_MV: Tensor) -> tuple[Tensor, Tensor]:
    """The bonus of hotwords for each label (M, V) of the planned steps, and whether each is inside a phrase (M,)."""
    steps = [(utterance.state.hotwords, state) for utterance in planned for state in utterance.hotwords]
    different = dict.fromkeys(steps)
    bonus_SV = torch.stack([graph.bonus_V(state, log_probs_MV.shape[-1]) for graph, state in different])
    numbers = {step: number for number, step in enumerate(different)}
    bonus_MV = bonus_SV[[numbers[step] for step in steps]].to(log_probs_MV.device)
    is_inside = [state is not graph.start() for graph, state in steps]
    return bonus_MV, torch.tensor(is_inside, device=log_probs_MV.device)


def _best_with_bonus(
    log_probs_MV: Tensor, bonus_MV: Tensor, is_inside_M: Tensor, silent: set[int | None]
) -> tuple[Tensor, Tensor]:
    """Log-probability and id of the best label of each step with the bonus of hotwords."""
    silent_ids = torch.tensor([i for i in silent if i is not None], device=log_probs_MV.device)
    silence_M, silence_place_M = log_probs_MV.index_select(-1, silent_ids).max(-1)
    spoken_MV = log_probs_MV.index_fill(-1, silent_ids, -torch.inf)
    label_M = (spoken_MV + bonus_MV).argmax(-1)
    against_silence_MV = bonus_MV.clamp(min=0.0) * is_inside_M.unsqueeze(-1)
    is_spoken_M = (spoken_MV + against_silence_MV).amax(-1) > silence_M
    winner_M = torch.where(is_spoken_M, label_M, silent_ids[silence_place_M])
    return log_probs_MV.gather(-1, winner_M.unsqueeze(-1)).squeeze(-1), winner_M


class CtcGreedyState(_Found):
    """Progress of the CTC search in one utterance."""

    def __init__(self, previous: int) -> None:
        """Start after a frame whose label was `previous`."""
        super().__init__()
        self.previous = previous


class CtcGreedySearch:
    """The CTC search as a `ResumableSearch`; see `ctc_greedy_search`."""

    def __init__(self, scorer: Scorer, *, blank_penalty: float = 0.0, temperature: float = 1.0) -> None:
        """Configure the search; arguments as in `ctc_greedy_search`."""
        self.scorer, self._adjusted = scorer, AdjustedScorer(scorer, blank_penalty, temperature)

    def start(self, prior: None = None) -> CtcGreedyState:
        """State of an utterance before its first frame; this search can use no prior."""
        if prior is not None:
            raise ValueError("ctc_greedy_search can use neither hotwords nor language models; use ctc_prefix_search")
        return CtcGreedyState(self.scorer.blank_id)

    @torch.inference_mode()
    def advance(self, states: Sequence[CtcGreedyState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        best_log_probs_NT, best_NT = self._adjusted.ctc_log_probs(encoded.frames).max(-1)
        for state, best, log_probs, length in zip(states, best_NT.tolist(), best_log_probs_NT.tolist(), lens, strict=True):
            self._collapse(state, best[:length], log_probs[:length])

    def _collapse(self, state: CtcGreedyState, labels: list[int], log_probs: list[float]) -> None:
        """Merge repeats, including those of earlier frames, and drop blanks."""
        for frame, (label, log_prob) in enumerate(zip(labels, log_probs, strict=True), start=state.num_frames):
            if label not in (state.previous, self.scorer.blank_id):
                state.emit(label, frame, log_prob)
            state.previous = label
            state.score += log_prob
        state.num_frames += len(labels)

    def hypotheses(self, states: Sequence[CtcGreedyState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """The one hypothesis of each state; see `ResumableSearch`."""
        return [[state.hypothesis()] for state in states]

    def restart(self, state: CtcGreedyState) -> CtcGreedyState:
        """State of the next utterance, which does not repeat a label that has not ended yet; see `ResumableSearch`."""
        return CtcGreedyState(state.previous)


def ctc_greedy_search(
    scorer: Scorer, encoded: Encoded, *, blank_penalty: float = 0.0, temperature: float = 1.0
) -> list[Hypothesis]:
    """The most probable label of every frame by the CTC head, with repeats merged and then blanks dropped.

    A token is at the first frame of its run and has that frame's probability.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        blank_penalty: subtracted from the blank's log-probability before they are normalized again.
        temperature: divides the log-probabilities before they are normalized again; does not change the labels.
    Returns:
        One hypothesis for each utterance.
    Raises:
        ValueError: lengths do not fit the frames, the temperature is not positive, or there is no CTC head.
    """
    search = CtcGreedySearch(scorer, blank_penalty=blank_penalty, temperature=temperature)
    return [ranked[0] for ranked in search_all(search, encoded)]
