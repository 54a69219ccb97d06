"""Two passes over the utterances of streams: searches of one head grow hypotheses, and at the end both heads choose.

Encoded frames (N, T, D) at 25 Hz of chunks in, ranked hypotheses out. The first pass advances chunk by chunk, and its best
hypotheses are the partial results. The frames of the utterance are kept, and what `finding` does with a whole utterance
follows when it is over: of a stream with one utterance the final hypotheses are those of the same search on the recording.
Source: Zhang et al. 2020, "Unified streaming and non-streaming two-pass end-to-end model for speech recognition",
arXiv:2012.05481, section 2 (attention rescoring as the second pass).
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.nn.encoded import Encoded
from zipasr.search.beam import BeamState
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.joint import JointScorer
from zipasr.search.prefix import CtcPrefixState
from zipasr.search.prior import AnyPrior
from zipasr.search.rescoring import attention_rescoring
from zipasr.search.resumable import AnySearch, SearchState, check_states
from zipasr.search.scorer import Scorer
from zipasr.search.search_config import SearchConfig
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels, make_search

LONGEST_S = 32.0
"""Length of utterances up to which there is a second pass: those of the published endpoint rules end after 20 s. Memory and
time of streams that never end an utterance would grow without bound otherwise."""


class TwoPassState:
    """Progress in one utterance: the states of the searches of the first pass, and the frames for the second."""

    def __init__(self, states: Sequence[SearchState], prior: AnyPrior | None) -> None:
        """Start without frames, with the states of the first pass and the prior, which both passes use."""
        self.states, self.prior, self.num_frames = tuple(states), prior, 0
        self.frames: list[Tensor] | None = []
        """Frames (T, D) of each chunk; None: the utterance is too long for a second pass."""

    def keep(self, frames_TD: Tensor) -> None:
        """Keep the next frames for the second pass, copied out of their batch."""
        self.num_frames += len(frames_TD)
        if self.num_frames * FRAME_S_25HZ > LONGEST_S:
            self.frames = None
        elif self.frames is not None:
            self.frames.append(frames_TD.clone())


class TwoPassSearch(ABC):
    """A search of two passes as an `UtteranceSearch`."""

    def __init__(self, *first_pass: AnySearch) -> None:
        """`first_pass`: searches of one head each; the first of them gives the partial hypotheses."""
        self.first_pass = first_pass

    def start(self, prior: AnyPrior | None = None) -> TwoPassState:
        """State of an utterance before its first frame."""
        return TwoPassState([search.start(prior) for search in self.first_pass], prior)

    def advance(self, states: Sequence[TwoPassState], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row; see `ResumableSearch`."""
        lens = check_states(states, encoded)
        for i, search in enumerate(self.first_pass):
            search.advance([state.states[i] for state in states], encoded)
        for state, frames_TD, length in zip(states, encoded.frames, lens, strict=True):
            state.keep(frames_TD[:length])

    def hypotheses(self, states: Sequence[TwoPassState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its hypotheses after the second pass, the best first; see `ResumableSearch`.

        Without frames, and in utterances of more than `LONGEST_S`, they are those of the first pass.
        """
        return [self._both_passes(state, num_best)[:num_best] for state in states]

    def _both_passes(self, state: TwoPassState, num_best: int | None) -> list[Hypothesis]:
        by_each = [search.hypotheses([own])[0] for search, own in zip(self.first_pass, state.states, strict=True)]
        if state.frames is None or not state.num_frames:
            return by_each[0]
        frames_1TD = torch.cat(state.frames).unsqueeze(0)
        encoded = Encoded(frames_1TD, torch.tensor([state.num_frames], device=frames_1TD.device))
        return self.choose(encoded, by_each, state, is_best_enough=num_best == 1)

    def partial_hypotheses(self, states: Sequence[TwoPassState], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its hypotheses after the first pass alone, the best first."""
        return self.first_pass[0].hypotheses([state.states[0] for state in states], num_best)

    def speech_hypothesis(self, state: TwoPassState) -> Hypothesis:
        """The best hypothesis of the head that was last to find a label: neither may find all."""
        best = [search.hypotheses([own], 1)[0][0] for search, own in zip(self.first_pass, state.states, strict=True)]
        return max(best, key=lambda hypothesis: hypothesis.frames[-1] if hypothesis.frames else -1)

    def restart(self, state: TwoPassState) -> TwoPassState:
        """State of the next utterance, in which each search of the first pass continues after its own labels."""
        pairs = zip(self.first_pass, state.states, strict=True)
        return TwoPassState([search.restart(own) for search, own in pairs], state.prior)

    @abstractmethod
    def choose(
        self, encoded: Encoded, by_each: Sequence[list[Hypothesis]], state: TwoPassState, *, is_best_enough: bool
    ) -> list[Hypothesis]:
        """The hypotheses of an utterance after the second pass, the best first.

        Args:
            encoded: its frames (1, T, D), at least one.
            by_each: its hypotheses by each search of the first pass, the best first.
            state: its state.
            is_best_enough: whether only the best hypothesis matters.
        """


class JointStreamSearch(TwoPassSearch):
    """`joint` in streams: both heads choose among the hypotheses of both beams; see `search.joint`."""

    def __init__(self, *first_pass: AnySearch, joint: JointScorer, ctc_scale: float) -> None:
        """Configure it with the beam searches of both heads, what scores their hypotheses, and the weight of CTC."""
        super().__init__(*first_pass)
        self.joint, self.ctc_scale = joint, ctc_scale

    def choose(
        self, encoded: Encoded, by_each: Sequence[list[Hypothesis]], state: TwoPassState, *, is_best_enough: bool
    ) -> list[Hypothesis]:
        by_transducer, by_ctc = by_each
        (scores,) = self.joint.score(
            encoded,
            [by_transducer],
            [by_ctc],
            prior=state.prior,
            is_best_enough=is_best_enough,
            context=cast(BeamState, state.states[0]).context,
            before=cast(CtcPrefixState, state.states[1]).before,
        )
        return scores.ranked(ctc_scale=self.ctc_scale)


class RescoringStreamSearch(TwoPassSearch):
    """`attention_rescoring` in streams: the attention decoder chooses among the hypotheses of CTC; see `rescoring`."""

    def __init__(self, *first_pass: AnySearch, scorer: Scorer, attention_scale: float) -> None:
        """Configure it with the beam search of CTC, the model and the weight of its attention decoder."""
        super().__init__(*first_pass)
        self.scorer, self.attention_scale = scorer, attention_scale

    def choose(
        self, encoded: Encoded, by_each: Sequence[list[Hypothesis]], state: TwoPassState, *, is_best_enough: bool
    ) -> list[Hypothesis]:
        (ranked,) = attention_rescoring(self.scorer, encoded, by_each, scale=self.attention_scale)
        return ranked


def first_passes(config: SearchConfig) -> tuple[SearchConfig, ...]:
    """The searches of one head each, among whose hypotheses `joint` or `attention_rescoring` chooses."""
    if config.method == "attention_rescoring":
        return (config.reset(["attention_scale"]),)
    alone = config.reset(["ctc_scale"])
    return dataclasses.replace(alone, method="beam"), dataclasses.replace(alone, method="ctc_beam", max_symbols_per_frame=1)


def joint_scorer(scorer: Scorer, config: SearchConfig, *, unk_id: int | None) -> JointScorer:
    """What scores the hypotheses of both heads in a search by `joint`; `unk_id` as in `make_search`."""
    return JointScorer(
        scorer,
        blank_penalty=config.blank_penalty,
        temperature=config.temperature,
        unk_id=unk_id,
        max_symbols_per_frame=config.max_symbols_per_frame,
    )


def make_stream_search(
    scorer: Scorer,
    config: SearchConfig,
    *,
    unk_id: int | None = None,
    language_models: LanguageModels = NO_LANGUAGE_MODELS,
) -> AnySearch:
    """The search of streams: that of `make_search`, or one of two passes where several heads choose; arguments as there."""

    def made(own: SearchConfig) -> AnySearch:
        return make_search(scorer, own, unk_id=unk_id, language_models=language_models)

    search: TwoPassSearch
    if config.method == "joint":
        joint = joint_scorer(scorer, config, unk_id=unk_id)
        search = JointStreamSearch(*map(made, first_passes(config)), joint=joint, ctc_scale=config.ctc_scale)
    elif config.method == "attention_rescoring":
        ctc_beam = map(made, first_passes(config))
        search = RescoringStreamSearch(*ctc_beam, scorer=scorer, attention_scale=config.attention_scale)
    else:
        return made(config)
    return cast(AnySearch, search)  # narrower than the interface: it takes only its own states
