"""What every search offers: to begin, to go on with frames as they come, to say what it has found so far.

Encoded frames (N, T, D) at 25 Hz in, a ranked list of hypotheses for each utterance out. Whole recordings are searched by
the same code as streams, as one chunk. A state belongs to one utterance or stream: states that stand at different frames
are advanced together, and each counts its frames from its own start.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from zipasr.nn.encoded import Encoded
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.scorer import check_encoded


class SearchState(Protocol):
    """Where a search stands in one utterance; each search has its own."""

    num_frames: int
    """Frames at 25 Hz so far."""


class ResumableSearch(Protocol):
    """A search with its settings. It keeps nothing of the utterances: all of that is in their states."""

    def start(self, prior: Any = None, /) -> Any:
        """State of an utterance of which no frame has come, with what its search is to know of label sequences."""

    def advance(self, states: Sequence[Any], encoded: Encoded) -> None:
        """Take every state through the valid frames of its row.

        Differs: it changes its arguments. A state is a tree that grows and is pruned; to copy it for every chunk would cost
        more than to search.

        Raises:
            ValueError: there is not one row for each state, or lengths do not fit the frames.
        """

    def hypotheses(self, states: Sequence[Any]) -> list[list[Hypothesis]]:
        """For each state what it would have found if the utterance ended here, the best first; it can still go on."""

    def restart(self, state: Any) -> Any:
        """State for what follows: nothing found yet and frames counted from 0, but aware of the labels that came before.

        Differs: the published decoder lets every hypothesis of a beam go on behind its own labels, its text cut off. One
        text has been given out by then, so here the next one goes on behind that.
        """


def search_all(search: ResumableSearch, encoded: Encoded, prior: Any = None) -> list[list[Hypothesis]]:
    """Search a batch of whole utterances."""
    states = [search.start(prior) for _ in range(len(encoded.lens))]
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
