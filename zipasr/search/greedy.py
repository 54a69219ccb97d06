"""Greedy searches: the best label of every frame. Encoded frames (N, T, D) at 25 Hz -> one `Hypothesis` an utterance.

The transducer search emits at most one label a frame, as the published decoder does, unless configured otherwise. Between
two labels the context does not change, so a window of frames can be scored in one joiner call and all after its first label
is discarded: the result is that of going frame by frame, with far fewer calls.
Source: Graves 2012, section 2.4; the published recipe's `greedy_search_batch`.
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import FIRST_ROW, Contexts, first_context
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.resumable import check_states, search_all
from zipasr.search.scorer import Scorer, ctc_label_log_probs, label_log_probs

WINDOW_FRAMES_25HZ = 8
"""Frames scored ahead in one joiner call: 4 to 8 are the fastest for one and for eight utterances (benchmarks/search.py)."""
_MAX_CONTEXTS = 2000
"""Label contexts that a search knows before it forgets them all: of letters nearly all that occur; with a wide joiner they
take 8 MB."""


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
        ids, frames, log_probs, _ = self._hypothesis
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
        self.blank_penalty, self.temperature = blank_penalty, temperature
        self.max_symbols_per_frame, self.window_frames_25hz = max_symbols_per_frame, window_frames_25hz
        self._contexts, self._lock = Contexts(scorer), threading.Lock()

    def start(self, hotwords: HotwordGraph | None = None) -> GreedyState:
        """State of an utterance before its first frame."""
        return GreedyState(first_context(self.scorer), HotwordGraph([]) if hotwords is None else hotwords)

    @torch.inference_mode()
    def advance(self, states: Sequence[GreedyState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        with self._lock:  # streams of several threads may share the search
            if self._contexts.num_rows > _MAX_CONTEXTS:
                self._contexts = Contexts(self.scorer)
            self._advance(states, encoded, lens, self._contexts)

    def _advance(self, states: Sequence[GreedyState], encoded: Encoded, lens: Sequence[int], contexts: Contexts) -> None:
        for state in states:
            state.context_row = contexts.row_of(state.context)
        projected_NTJ = self.scorer.project_frames(encoded.frames)
        starts, active = [0] * len(lens), [n for n, length in enumerate(lens) if length]
        while active:
            width = min(self.window_frames_25hz, max(lens[n] - starts[n] for n in active))
            window_AWJ = _window(projected_NTJ, active, [starts[n] for n in active], width)
            labels_AW, log_probs_AW = self._best([states[n] for n in active], window_AWJ, contexts)
            for n, labels, log_probs in zip(active, labels_AW, log_probs_AW, strict=True):
                starts[n] += self._follow(states[n], labels, log_probs, lens[n] - starts[n], contexts)
            active = [n for n in active if starts[n] < lens[n]]
        for state in states:
            state.context = contexts.context(state.context_row)

    def _best(
        self, states: Sequence[GreedyState], projected_AWJ: Tensor, contexts: Contexts
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The label of every frame of a window with its log-probability, if no label came before it in the window."""
        device = projected_AWJ.device
        rows_A = np.array([state.context_row for state in states])
        contexts_A1J = contexts.gather(torch.from_numpy(rows_A).to(device)).unsqueeze(1)
        logits_AWV = self.scorer.join(projected_AWJ, contexts_A1J)
        log_probs_AWV = label_log_probs(
            logits_AWV, blank_id=self.scorer.blank_id, blank_penalty=self.blank_penalty, temperature=self.temperature
        )
        if all(state.hotwords.is_empty for state in states):
            best_log_probs_AW, best_AW = log_probs_AWV.max(-1)
        else:
            bonus_AV, is_inside_A = _bonus(states, log_probs_AWV.shape[-1], device)
            best_log_probs_AW, best_AW = _best_with_bonus(log_probs_AWV, bonus_AV, is_inside_A, self.silent)
        return best_AW.tolist(), best_log_probs_AW.tolist()

    def _follow(
        self, state: GreedyState, labels: list[int], log_probs: list[float], num_frames: int, contexts: Contexts
    ) -> int:
        """Follow at most `num_frames` frames of a window up to its first label; return the number of frames followed."""
        silent, score, num_done = self.silent, state.score, 0
        for label, log_prob in zip(labels[:num_frames], log_probs, strict=False):
            score += log_prob
            if label not in silent:
                break
            num_done += 1
        else:
            label = -1
        state.score = score
        if label >= 0:
            frame = state.num_frames + num_done
            state.emit(label, frame, log_probs[num_done])
            state.context_row = contexts.row_after(state.context_row, label)
            is_full = state.frames[-self.max_symbols_per_frame :] == [frame] * self.max_symbols_per_frame
            num_done += is_full
        state.num_frames += num_done
        return num_done

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


def _window(projected_NTJ: Tensor, active: Sequence[int], starts: Sequence[int], width: int) -> Tensor:
    """The frames (A, W, J) of some utterances from their starts on; beyond the last frame, that frame, to be ignored."""
    num_utterances, num_frames = projected_NTJ.shape[:2]
    if len(active) == num_utterances and width == num_frames and not any(starts):
        return projected_NTJ
    frames_AW = np.array(starts)[:, None] + np.arange(width)
    places_AW = np.minimum(frames_AW, num_frames - 1) + num_frames * np.array(active)[:, None]
    places_M = torch.from_numpy(places_AW.reshape(-1)).to(projected_NTJ.device)
    return projected_NTJ.flatten(0, 1).index_select(0, places_M).view(len(active), width, -1)


def _bonus(states: Sequence[GreedyState], vocab_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The bonus of hotwords for each label (A, V), and whether an utterance is inside a phrase (A,)."""
    bonuses = [state.hotwords.bonus_V(state.hotword_state, vocab_size) for state in states]
    is_inside = [state.hotword_state is not state.hotwords.start() for state in states]
    return torch.stack(bonuses).to(device), torch.tensor(is_inside, device=device)


def _best_with_bonus(
    log_probs_AWV: Tensor, bonus_AV: Tensor, is_inside_A: Tensor, silent: set[int | None]
) -> tuple[Tensor, Tensor]:
    """Log-probability and id of the best label of each frame with the bonus of hotwords."""
    silent_ids = torch.tensor([i for i in silent if i is not None], device=log_probs_AWV.device)
    silence_AW, silence_place_AW = log_probs_AWV.index_select(-1, silent_ids).max(-1)
    spoken_AWV = log_probs_AWV.index_fill(-1, silent_ids, -torch.inf)
    label_AW = (spoken_AWV + bonus_AV.unsqueeze(1)).argmax(-1)
    against_silence_AV = bonus_AV.clamp(min=0.0) * is_inside_A.unsqueeze(-1)
    is_spoken_AW = (spoken_AWV + against_silence_AV.unsqueeze(1)).amax(-1) > silence_AW
    winner_AW = torch.where(is_spoken_AW, label_AW, silent_ids[silence_place_AW])
    return log_probs_AWV.gather(-1, winner_AW.unsqueeze(-1)).squeeze(-1), winner_AW


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
        self.scorer, self.blank_penalty, self.temperature = scorer, blank_penalty, temperature

    def start(self, prior: None = None) -> CtcGreedyState:
        """State of an utterance before its first frame; this search can use no prior."""
        if prior is not None:
            raise ValueError("ctc_greedy_search can use neither hotwords nor language models; use ctc_prefix_search")
        return CtcGreedyState(self.scorer.blank_id)

    @torch.inference_mode()
    def advance(self, states: Sequence[CtcGreedyState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        log_probs_NTV = ctc_label_log_probs(
            self.scorer, encoded.frames, blank_penalty=self.blank_penalty, temperature=self.temperature
        )
        best_log_probs_NT, best_NT = log_probs_NTV.max(-1)
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
