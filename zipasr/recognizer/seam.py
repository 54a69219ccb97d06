"""The place to change from one transcript to the next in the audio that two pieces of a recording share. Times in seconds.

Two facts decide. Words with the same text at about the same time in both pieces are one word; a seam may run before or after
it, not through it. A word that only one piece has is judged by its distance to the edges: within `EDGE_S` of the edge of its
own piece it may be what was left of a word that was cut there; within `EDGE_S` of the edge of the other piece, the other may
have missed it. Both facts go into the alignment of the words and into the cost of each possible seam.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zipasr.transcript import Word

MAX_SHIFT_S = 0.5
"""Largest difference between the times of one word in two pieces: with less left context, a transducer emits a word up to a
few hundred milliseconds later. Words of the same text further apart are two words."""

EDGE_S = 1.0
"""Extent of the edge of a piece: a word that it cuts, and the word next to it. Of 8,000 random recordings of one or two
words said again and again, none lost or doubled a word with 1.0, 1.2 or 1.5, and one with 0.6."""

_DISAGREEMENT_COST = 0.1
"""Cost in wrong words of a seam next to a word on which the pieces disagree. 0.05 to 0.25 give the same error rates (within
0.1 points) on random recordings with 5, 15 and 30 % of the words misrecognized in each piece."""


def find_seam(left: Sequence[Word], right: Sequence[Word], start_s: float, end_s: float) -> tuple[int, int]:
    """The number of words of `left` to keep and the number of `right` to drop.

    Args:
        left: words of the piece before, times in the recording.
        right: words of the piece after, on the same clock.
        start_s: start of the audio that both pieces have, and of the piece after.
        end_s: its end, and the end of the piece before.
    """
    first = next((i for i, word in enumerate(left) if word.end_s > start_s - MAX_SHIFT_S), len(left))
    end = next((j for j, word in enumerate(right) if word.start_s >= end_s + MAX_SHIFT_S), len(right))
    num_kept, num_dropped = _Overlap(left[first:], right[:end], start_s, end_s).best_seam()
    return first + num_kept, num_dropped


@dataclass(frozen=True)
class _Overlap:
    """The words of two pieces in the audio that both have. A seam (i, j) keeps left[:i] and right[j:]."""

    left: Sequence[Word]
    right: Sequence[Word]
    start_s: float
    end_s: float

    def best_seam(self) -> tuple[int, int]:
        """The seam with the fewest expected errors; of several, the one nearest the middle."""
        pairs = self._pairs()
        paired, paired_left, paired_right = set(pairs), {i for i, _ in pairs}, {j for _, j in pairs}
        alone_left = [i not in paired_left for i in range(len(self.left))]
        alone_right = [j not in paired_right for j in range(len(self.right))]
        # What it costs to take the first i words of the left piece, or not the first j of the right one: a word that one
        # piece alone has is kept before the seam if the left piece has it, after the seam if the right one has it.
        left_costs, right_costs = [0.0], [0.0]
        for word, is_alone in zip(self.left, alone_left, strict=True):
            left_costs.append(left_costs[-1] - is_alone * self._trust_in_left(word))
        for word, is_alone in zip(self.right, alone_right, strict=True):
            right_costs.append(right_costs[-1] - is_alone * self._trust_in_left(word))

        def is_one_word(i: int, j: int) -> bool:
            """Whether left[i] and right[j], both without a partner, are two texts for the same audio."""
            is_inside = 0 <= i < len(self.left) and 0 <= j < len(self.right)
            return is_inside and alone_left[i] and alone_right[j] and _share_most(self.left[i], self.right[j])

        def cost(seam: tuple[int, int]) -> tuple[float, float]:
            i, j = seam
            num_wrong = left_costs[i] + right_costs[j] + is_one_word(i - 1, j) + is_one_word(i, j - 1)
            num_disagreements = ((i - 1, j - 1) not in paired) + ((i, j) not in paired)
            # Rounded, so that the last bit does not decide between seams of equal cost.
            return round(num_wrong + _DISAGREEMENT_COST * num_disagreements, 6), self._distance_to_middle_s(i, j)

        return min(self._possible_seams(pairs), key=cost)

    def _possible_seams(self, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Seams that divide no pair; between pairs, those that one point in time can make."""
        i = j = 0
        for paired_i, paired_j in (*pairs, (len(self.left), len(self.right))):
            yield i, j
            while i < paired_i or j < paired_j:
                is_left_next = j == paired_j or (i < paired_i and _middle_s(self.left[i]) <= _middle_s(self.right[j]))
                i, j = (i + 1, j) if is_left_next else (i, j + 1)
                yield i, j
            i, j = paired_i + 1, paired_j + 1

    def _pairs(self) -> list[tuple[int, int]]:
        """Pairs (i, j), rising in both, of words that are one word; the sum of their agreement is the greatest possible."""
        values = [[self._agreement(a, b) for b in self.right] for a in self.left]
        # best[i][j]: value of aligning the first i words with the first j.
        best = [[0.0] * (len(self.right) + 1) for _ in range(len(self.left) + 1)]
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                both = best[i][j] + value if value > 0 else 0.0
                best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], both)
        pairs, i, j = [], len(self.left), len(self.right)
        while i and j:
            if best[i][j] == best[i - 1][j]:
                i -= 1
            elif best[i][j] == best[i][j - 1]:
                j -= 1
            else:
                i, j = i - 1, j - 1
                pairs.append((i, j))
        return pairs[::-1]

    def _agreement(self, a: Word, b: Word) -> float:
        """Benefit of matching two words over leaving both without a partner, at most 1.

        Away from the edges it is (1 - shift / MAX_SHIFT_S)²: squared, so that of "no no no", of which each piece misses one,
        one pair at the same time is worth more than two that are a word of 0.15 s or more off. At the edges a word without
        a partner is no surprise, so only those at exactly the same time match.
        """
        shift = abs(_middle_s(a) - _middle_s(b)) / MAX_SHIFT_S
        if a.text != b.text or shift >= 1:
            return 0.0
        surprise = sum(1 - max(self._nearness_to_start(word), self._nearness_to_end(word)) for word in (a, b)) / 2
        return max(0.0, surprise - 1 + (1 - shift) ** 2)

    def _trust_in_left(self, word: Word) -> float:
        """1 where only the left piece can be right about the presence of a word, -1 where only the right one can."""
        return self._nearness_to_start(word) - self._nearness_to_end(word)

    def _nearness_to_start(self, word: Word) -> float:
        """1 at the start of the right piece and before it, 0 from `EDGE_S` after it on."""
        return min(max(1 - (_middle_s(word) - self.start_s) / EDGE_S, 0.0), 1.0)

    def _nearness_to_end(self, word: Word) -> float:
        """1 at the end of the left piece and after it, 0 until `EDGE_S` before it."""
        return min(max(1 - (self.end_s - _middle_s(word)) / EDGE_S, 0.0), 1.0)

    def _distance_to_middle_s(self, i: int, j: int) -> float:
        before_s = max([word.end_s for word in (*self.left[:i][-1:], *self.right[:j][-1:])], default=self.start_s)
        after_s = min([word.start_s for word in (*self.left[i : i + 1], *self.right[j : j + 1])], default=self.end_s)
        return abs(before_s + after_s - self.start_s - self.end_s) / 2


def _middle_s(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _share_most(a: Word, b: Word) -> bool:
    """Whether two words share half of the shorter one or more."""
    shared_s = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return shared_s >= 0.5 * min(a.end_s - a.start_s, b.end_s - b.start_s)
