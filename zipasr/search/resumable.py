"""The interface of every search: start, advance by frames as they come, and the hypotheses so far.

Encoded frames (N, T, D) at 25 Hz in, a ranked list of hypotheses for each utterance out. The same code searches whole
recordings, as one chunk, and streams. A state belongs to one utterance or stream. States at different frames are advanced
together, and each counts its frames from its own start.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.prior import AnyPrior
from zipasr.search.scorer import check_encoded


class SearchState(Protocol):
    """Progress of a search in one utterance; each search has its own type of state."""

    num_frames: int
    """Number of frames at 25 Hz so far."""


State = TypeVar("State", bound=SearchState)
PriorT_contra = TypeVar("PriorT_contra", contravariant=True)
PriorT = TypeVar("PriorT")


class ResumableSearch(Protocol[State, PriorT_contra]):
    """A search with its settings. It keeps nothing about the utterances, which their states hold.

    `State` is the type of its states, `PriorT_contra` the type of the knowledge about label sequences that it can use.
    """

    def start(self, prior: PriorT_contra | None = None, /) -> State:
        """State of an utterance before its first frame, with the prior that its search is to use."""

    def advance(self, states: Sequence[State], encoded: Encoded) -> None:
        """Advance every state by the valid frames of its row.

        Differs: it changes its arguments. A state is a tree that grows and is pruned; copying it for every chunk would cost
        more than the search.

        Raises:
            ValueError: there is not one row for each state, or lengths do not fit the frames.
        """

    def hypotheses(self, states: Sequence[State], num_best: int | None = None) -> list[list[Hypothesis]]:
        """For each state its best hypotheses, the best first, as if the utterance ended here; it can still be advanced.

        There are `num_best` of each at most; None: all.
        """

    def restart(self, state: State) -> State:
        """State of the next utterance: no labels yet and frames counted from 0, but aware of the labels before.

        Differs: the published decoder lets every hypothesis of a beam continue after its own labels, with its text cut off.
        By then one text has been returned, so here the next utterance continues after that one.
        """


class UtteranceSearch(ResumableSearch[State, PriorT_contra], Protocol):
    """A search whose hypotheses are those of an utterance that is over; before that there are partial ones."""

    def partial_hypotheses(self, states: Sequence[State], num_best: int | None = None) -> list[list[Hypothesis]]:
        """`hypotheses` of the frames so far, which those of the whole utterance may contradict."""

    def speech_hypothesis(self, state: State) -> Hypothesis:
        """The hypothesis whose last frame tells when something was said last."""


AnySearch = ResumableSearch[SearchState, AnyPrior]
"""A search chosen at run time, so that the type of its states is open. It takes only states that it started itself, and
only the prior that `strategy.make_prior` gives for it."""


def search_all(
    search: ResumableSearch[State, PriorT], encoded: Encoded, prior: PriorT | Sequence[PriorT] | None = None
) -> list[list[Hypothesis]]:
    """The hypotheses of a batch of whole utterances, the best first for each, with a prior for all or one for each.

    Raises:
        ValueError: there is not one prior for each utterance.
    """
    num_utterances = len(encoded.lens)
    own: Sequence[PriorT | None] = prior if isinstance(prior, Sequence) else [prior] * num_utterances
    if len(own) != num_utterances:
        raise ValueError(f"there must be one graph for each of {num_utterances} utterances, but there are {len(own)}")
    states = [search.start(one) for one in own]
    search.advance(states, encoded)
    return search.hypotheses(states)


def check_states(states: Sequence[SearchState], encoded: Encoded) -> list[int]:
    """The lengths of a batch as a list.

    Raises:
        ValueError: there is not one row for each state, or lengths do not fit the frames.
    """
    lens = check_encoded(encoded)
    if len(states) != len(lens):
        raise ValueError(f"there must be a row of frames for each of {len(states)} states, but there are {len(lens)}")
    return lens
