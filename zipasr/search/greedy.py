"""Greedy searches: the best label of every frame. Encoded frames (N, T, D) at 25 Hz -> one `Hypothesis` an utterance.

The transducer search emits at most one label a frame, as the published decoder does, unless told otherwise. Between two
labels the context stays as it is, so a window of frames can be scored in one joiner call and everything after its first
label is thrown away: the result is that of going frame by frame, with far fewer calls.
Source: Graves 2012, section 2.4; the published recipe's `greedy_search_batch`.
"""

from typing import Any

import torch
from torch import Tensor

from zipasr.nn.encoded import Encoded
from zipasr.search.contexts import FIRST_ROW, Contexts
from zipasr.search.hotwords import HotwordGraph
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import Scorer, check_encoded, label_log_probs

WINDOW_FRAMES_25HZ = 8
"""Frames scored ahead in one joiner call: 4 to 8 are the fastest for one and for eight utterances (benchmarks/search.py)."""


class _Partial:
    """A hypothesis being built."""

    def __init__(self, hotwords: HotwordGraph | None = None) -> None:
        self.context_row = FIRST_ROW
        self.hotwords = hotwords
        self.hotword_state: Any = hotwords.start() if hotwords is not None else None
        self.ids: list[int] = []
        self.frames: list[int] = []
        self.log_probs: list[float] = []
        self.score = 0.0

    def emit(self, label: int, frame: int, log_prob: float) -> None:
        """Append a label; its log-probability is counted in the score apart, what hotwords add is counted here."""
        if self.hotwords is not None:
            (self.hotword_state,), (bonus,) = self.hotwords.extend([self.hotword_state], [label])
            self.score += bonus
        self.ids.append(label)
        self.frames.append(frame)
        self.log_probs.append(log_prob)

    def finish(self) -> Hypothesis:
        """The finished hypothesis."""
        if self.hotwords is not None:
            self.score += self.hotwords.finish([self.hotword_state])[0]
        return Hypothesis(tuple(self.ids), tuple(self.frames), tuple(self.log_probs), self.score)


@torch.inference_mode()
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
    """Follow the most probable label of every frame with the transducer head.

    Args:
        scorer: has a transducer head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        blank_penalty: taken off the blank's logit; positive values delete fewer words.
        temperature: divides the logits; changes the probabilities, not the labels.
        unk_id: a label that is passed over like blank; None: there is none.
        hotwords: phrases to prefer. Boosts choose between labels; against blank they count only once a phrase has begun,
            and what is taken back never does, for a search that cannot look back would stutter or fall silent.
        max_symbols_per_frame: labels that a frame may emit before the search goes on to the next.
        window_frames_25hz: frames scored in one joiner call; changes the speed, not the result.
    Returns:
        One hypothesis for each utterance.
    Raises:
        ValueError: lengths do not fit the frames, the window is empty, no label may be emitted, the temperature is not
            positive, or there is no transducer head.
    """
    if max_symbols_per_frame < 1:
        raise ValueError(f"max_symbols_per_frame must be at least 1, but is {max_symbols_per_frame}")
    if window_frames_25hz < 1:
        raise ValueError(f"window_frames_25hz must be at least 1, but is {window_frames_25hz}")
    lens = check_encoded(encoded)
    device = encoded.frames.device
    silent = {scorer.blank_id, unk_id}
    partials = [_Partial(hotwords) for _ in lens]
    contexts = Contexts(scorer)
    projected_NTJ = scorer.project_frames(encoded.frames)
    offsets_W = torch.arange(window_frames_25hz, device=device)
    starts = [0] * len(lens)
    while active := [n for n, start in enumerate(starts) if start < lens[n]]:
        width = min(window_frames_25hz, max(lens[n] - starts[n] for n in active))
        rows = torch.tensor(active, device=device).unsqueeze(1)
        first = torch.tensor([starts[n] for n in active], device=device).unsqueeze(1)
        # Frames beyond the end of an utterance are scored with those of the others and not looked at.
        window_AW = (first + offsets_W[:width]).clamp(max=projected_NTJ.shape[1] - 1)
        contexts_A1J = contexts.gather(torch.tensor([partials[n].context_row for n in active], device=device)).unsqueeze(1)
        logits_AWV = scorer.join(projected_NTJ[rows, window_AW], contexts_A1J)
        log_probs_AWV = label_log_probs(
            logits_AWV, blank_id=scorer.blank_id, blank_penalty=blank_penalty, temperature=temperature
        )
        best_log_probs_AW, best_AW = log_probs_AWV.max(-1)
        if hotwords is not None:
            states, start = [partials[n].hotword_state for n in active], hotwords.start()
            bonus_AV = torch.stack([hotwords.bonus_V(state, log_probs_AWV.shape[-1]) for state in states]).to(device)
            is_inside_A = torch.tensor([state is not start for state in states], device=device)
            best_log_probs_AW, best_AW = _best_with_bonus(log_probs_AWV, bonus_AV, is_inside_A, silent)
        for n, labels, log_probs in zip(active, best_AW.tolist(), best_log_probs_AW.tolist(), strict=True):
            frames = range(starts[n], min(starts[n] + len(labels), lens[n]))
            starts[n] = _advance(partials[n], frames, labels, log_probs, silent, contexts, max_symbols_per_frame)
    return [partial.finish() for partial in partials]


def _best_with_bonus(
    log_probs_AWV: Tensor, bonus_AV: Tensor, is_inside_A: Tensor, silent: set[int | None]
) -> tuple[Tensor, Tensor]:
    """Log-probability and id of the label that wins in each frame once hotwords have their say."""
    silent_ids = torch.tensor([i for i in silent if i is not None], device=log_probs_AWV.device)
    silence_AW, silence_place_AW = log_probs_AWV.index_select(-1, silent_ids).max(-1)
    spoken_AWV = log_probs_AWV.index_fill(-1, silent_ids, -torch.inf)
    label_AW = (spoken_AWV + bonus_AV.unsqueeze(1)).argmax(-1)
    against_silence_AV = bonus_AV.clamp(min=0.0) * is_inside_A.unsqueeze(-1)
    is_spoken_AW = (spoken_AWV + against_silence_AV.unsqueeze(1)).amax(-1) > silence_AW
    winner_AW = torch.where(is_spoken_AW, label_AW, silent_ids[silence_place_AW])
    return log_probs_AWV.gather(-1, winner_AW.unsqueeze(-1)).squeeze(-1), winner_AW


def _advance(
    partial: _Partial,
    frames: range,
    labels: list[int],
    log_probs: list[float],
    silent: set[int | None],
    contexts: Contexts,
    max_symbols_per_frame: int,
) -> int:
    """Follow the frames of a window up to its first label; return the frame to go on from."""
    for frame, label, log_prob in zip(frames, labels, log_probs, strict=False):
        partial.score += log_prob
        if label not in silent:
            partial.emit(label, frame, log_prob)
            partial.context_row = contexts.row_after(partial.context_row, label)
            is_full = partial.frames[-max_symbols_per_frame:] == [frame] * max_symbols_per_frame
            return frame + 1 if is_full else frame
    return frames.stop


@torch.inference_mode()
def ctc_greedy_search(
    scorer: Scorer, encoded: Encoded, *, blank_penalty: float = 0.0, temperature: float = 1.0
) -> list[Hypothesis]:
    """Follow the most probable label of every frame with the CTC head; repeats are merged, then blanks dropped.

    A token is at the first frame of its run and has that frame's probability.

    Args:
        scorer: has a CTC head.
        encoded: frames (N, T, D) at 25 Hz and their lengths.
        blank_penalty: taken off the blank's log-probability before they are normalised again.
        temperature: divides the log-probabilities before they are normalised again; does not change the labels.
    Returns:
        One hypothesis for each utterance.
    Raises:
        ValueError: lengths do not fit the frames, the temperature is not positive, or there is no CTC head.
    """
    lens = check_encoded(encoded)
    log_probs_NTV = scorer.ctc_log_probs(encoded.frames)
    if blank_penalty or temperature != 1.0:
        log_probs_NTV = label_log_probs(
            log_probs_NTV, blank_id=scorer.blank_id, blank_penalty=blank_penalty, temperature=temperature
        )
    best_log_probs_NT, best_NT = log_probs_NTV.max(-1)
    return [
        _collapse(best[:length], log_probs[:length], scorer.blank_id)
        for best, log_probs, length in zip(best_NT.tolist(), best_log_probs_NT.tolist(), lens, strict=True)
    ]


def _collapse(labels: list[int], log_probs: list[float], blank_id: int) -> Hypothesis:
    partial = _Partial()
    previous = blank_id
    for frame, (label, log_prob) in enumerate(zip(labels, log_probs, strict=True)):
        if label not in (previous, blank_id):
            partial.emit(label, frame, log_prob)
        previous = label
    partial.score = sum(log_probs)
    return partial.finish()
