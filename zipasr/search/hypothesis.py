"""`Hypothesis`: one result of a search for one utterance. Pure data; frames are counted at 25 Hz."""

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A token sequence with the frames and probabilities of its tokens."""

    ids: tuple[int, ...] = ()
    """Token ids, without blank."""
    frames: tuple[int, ...] = ()
    """Frame at 25 Hz that emitted each token, from 0."""
    log_probs: tuple[float, ...] = ()
    """Log-probability of each token where it was emitted, in nats, after blank penalty and temperature."""
    score: float = 0.0
    """Log-probability in nats of the paths with these ids, blanks included; not normalized by length.

    Greedy searches follow one path; beam searches sum the paths with equal ids that they kept. Rescoring adds the weighted
    score of another model.
    """

    def normalized_score(self, context_size: int) -> float:
        """Score per label, by which the beam ranks; the `context_size` labels of the first context count as well."""
        return normalized(self.score, len(self.ids), context_size=context_size)


def normalized(score: float, num_labels: int, *, context_size: int) -> float:
    """Score per label; see `Hypothesis.normalized_score`."""
    return score / (num_labels + context_size)
