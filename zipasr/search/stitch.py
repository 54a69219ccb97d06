"""Transcripts of overlapping pieces of a recording -> one `Transcript`, each word once. Times in seconds.

Where two pieces share sound, the words of both are aligned by text and time, and the seam is put in the middle of the
longest run on which both agree: what stands before it is whole in the first piece, what comes after it in the second, and
a word that the edge of one piece cut is the other's to tell. Only the words about the last seam are looked at again, so a
recording of any length is stitched as its pieces come.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zipasr.transcript import Token, Transcript, Word

MAX_SHIFT_S = 0.5
"""How far the times of a word may lie apart in two pieces: a transducer emits a word up to a few hundred milliseconds
later where it knows less of what came before. Words of the same text further apart are two words."""


class PlacedTranscript(NamedTuple):
    """The transcript of a piece and where the piece lies in the recording."""

    transcript: Transcript
    """Times from the start of the piece."""
    start_s: float
    overlap_s: float = 0.0
    """How much of the piece's beginning the piece before it holds too."""


def stitch(
    pieces: Iterable[PlacedTranscript],
    *,
    joiner: str = " ",
    duration_s: float | None = None,
    on_text: Callable[[str, Sequence[Token]], None] | None = None,
) -> Transcript:
    """Join the transcripts of a recording's pieces.

    Args:
        pieces: in order of time, read one by one; each begins after the one before.
        joiner: what stands between words: a space, or nothing in languages written without.
        duration_s: length of the recording; None: the end of the last piece.
        on_text: called, while pieces come, with each further stretch of the text that no later piece can change, what joins
            it to the one before included, and with its tokens, whose times may still be clipped. The rest is in what is
            returned.
    Returns:
        The transcript with times in the recording, never falling. Its score is the sum of the pieces', and it has no
        alternatives: those of the pieces do not combine.
    Raises:
        ValueError: a piece begins before the one before it, or overlaps it by more than its own length.
    """
    parts: list[_Part] = []
    num_told = 0
    first: Transcript | None = None
    score = end_s = seam_s = last_start_s = 0.0
    for piece in pieces:
        transcript, start_s, overlap_s = piece
        if start_s < last_start_s or not 0 <= overlap_s <= transcript.duration_s + 1e-6:
            raise ValueError(
                f"pieces must come in order of time, with overlaps of 0 s up to their length, but one at {start_s} s of "
                f"{transcript.duration_s} s with an overlap of {overlap_s} s follows one at {last_start_s} s"
            )
        first = first or transcript
        last_start_s, end_s = start_s, max(end_s, start_s + transcript.duration_s)
        score += transcript.score
        part = _Part(transcript.text, _placed_words(transcript, start_s))
        before = parts[-1] if parts else _Part("", [])
        if overlap_s > 0:
            num_kept, num_left_out = _seam(before.words, part.words, start_s, start_s + overlap_s)
            before.keep(0, num_kept)
            part.keep(num_left_out, len(part.words))
            if not before.words and parts:
                parts.pop()
                before = parts[-1] if parts else before
        seam_s = _part_in_time(before, part, seam_s)
        if part.words:
            parts.append(part)
        if on_text is not None:
            num_told = _tell_settled(parts, num_told, start_s - MAX_SHIFT_S, joiner, on_text)
    texts = [part.to_text(joiner) for part in parts]
    return replace(
        first or Transcript(""),
        text=joiner.join(text for text in texts if text),
        words=tuple(placed.word for part in parts for placed in part.words),
        tokens=tuple(token for part in parts for placed in part.words for token in placed.tokens),
        duration_s=end_s if duration_s is None else duration_s,
        score=score,
        alternatives=(),
    )


@dataclass(frozen=True)
class _PlacedWord:
    """A word with its tokens, timed in the recording."""

    word: Word
    tokens: tuple[Token, ...]

    @property
    def middle_s(self) -> float:
        return (self.word.start_s + self.word.end_s) / 2

    def clipped(self, first_s: float, last_s: float) -> "_PlacedWord":
        """The same with no time outside [first_s, last_s]."""

        def clip(time_s: float) -> float:
            return min(max(time_s, first_s), last_s)

        word = replace(self.word, start_s=clip(self.word.start_s), end_s=clip(self.word.end_s))
        tokens = tuple(replace(token, start_s=clip(token.start_s), end_s=clip(token.end_s)) for token in self.tokens)
        return _PlacedWord(word, tokens)


@dataclass
class _Part:
    """What a piece gives to the whole."""

    text: str
    words: list[_PlacedWord]
    is_whole: bool = field(default=True, init=False)

    def keep(self, first: int, end: int) -> None:
        self.is_whole = self.is_whole and first == 0 and end == len(self.words)
        self.words = self.words[first:end]

    def to_text(self, joiner: str) -> str:
        # The text of a whole piece as it is: a decoder writes some pieces of the vocabulary otherwise than they are called.
        return self.text if self.is_whole else joiner.join(placed.word.text for placed in self.words)


def _tell_settled(
    parts: Sequence[_Part],
    num_told: int,
    settled_s: float,
    joiner: str,
    on_text: Callable[[str, Sequence[Token]], None],
) -> int:
    """Tell parts that are not told yet and all of whose words end by `settled_s`; return how many have been told in all.

    No later seam leaves out such a word, since `_seam` keeps all that end `MAX_SHIFT_S` before the piece that it is for, and
    pieces begin in order of time. So the part stays, whole or not as it is, and with it its text.
    """
    while num_told < len(parts) and all(placed.word.end_s <= settled_s for placed in parts[num_told].words):
        part = parts[num_told]
        text, has_text_before = part.to_text(joiner), any(before.to_text(joiner) for before in parts[:num_told])
        if text:
            on_text(joiner + text if has_text_before else text, [token for placed in part.words for token in placed.tokens])
        num_told += 1
    return num_told


def _placed_words(transcript: Transcript, offset_s: float) -> list[_PlacedWord]:
    """The words of a piece with their tokens. A token belongs to the word that its first character is in."""
    lengths = [len(token.text.replace("\u2581", "")) for token in transcript.tokens]
    if sum(lengths) == sum(len(word.text) for word in transcript.words):
        position, starts = 0, []
        for length in lengths:
            starts.append(float(position))
            position += length
        ends, end = [], 0
        for word in transcript.words:
            end += len(word.text)
            ends.append(float(end))
    else:  # words that were not made of these tokens, letter by letter
        starts = [token.start_s for token in transcript.tokens]
        ends = [word.start_s for word in transcript.words[1:]]
    placed, first = [], 0
    for i, word in enumerate(transcript.words):
        last = i == len(transcript.words) - 1
        end = len(starts) if last else next((k for k in range(first, len(starts)) if starts[k] >= ends[i]), len(starts))
        tokens = tuple(
            replace(token, start_s=token.start_s + offset_s, end_s=token.end_s + offset_s)
            for token in transcript.tokens[first:end]
        )
        placed.append(_PlacedWord(replace(word, start_s=word.start_s + offset_s, end_s=word.end_s + offset_s), tokens))
        first = end
    return placed


def _seam(left: Sequence[_PlacedWord], right: Sequence[_PlacedWord], start_s: float, end_s: float) -> tuple[int, int]:
    """How many words of `left` to keep and how many of `right` to leave out; [start_s, end_s] is in both pieces."""
    first = next((i for i, placed in enumerate(left) if placed.word.end_s > start_s - MAX_SHIFT_S), len(left))
    end = next((i for i, placed in enumerate(right) if placed.word.start_s >= end_s + MAX_SHIFT_S), len(right))
    shared_left, shared_right = left[first:], right[:end]
    middle_s = (start_s + end_s) / 2
    run = _longest_run(_agreeing(shared_left, shared_right), shared_left, middle_s)
    if run:
        i, j = run[(len(run) - 1) // 2]
        return first + i + 1, j + 1
    seam_s = _gap_near(middle_s, start_s, end_s, [*shared_left, *shared_right])
    num_kept = sum(placed.middle_s < seam_s for placed in shared_left)
    return first + num_kept, sum(placed.middle_s < seam_s for placed in shared_right)


def _agreeing(left: Sequence[_PlacedWord], right: Sequence[_PlacedWord]) -> list[tuple[int, int]]:
    """Pairs (i, j), rising in both, of words with the same text at about the same time, of the greatest value together."""
    # best[i][j]: value of aligning the first i words with the first j.
    best = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            value = _agreement(a, b)
            both = best[i][j] + value if value else 0.0
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], both)
    pairs, i, j = [], len(left), len(right)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _agreement(a: _PlacedWord, b: _PlacedWord) -> float:
    """1 for the same word at the same time, 0 for another word or too late. Squared, so that in "no no no", of which each
    piece misses one, one pair at the same time is worth more than two that are a word of 0.15 s or more off."""
    shift_s = abs(a.middle_s - b.middle_s)
    return (1.0 - shift_s / MAX_SHIFT_S) ** 2 if a.word.text == b.word.text and shift_s < MAX_SHIFT_S else 0.0


def _longest_run(pairs: Sequence[tuple[int, int]], left: Sequence[_PlacedWord], middle_s: float) -> list[tuple[int, int]]:
    """The longest stretch of pairs without a word between on either side; of several, the one nearest the middle."""
    runs: list[list[tuple[int, int]]] = []
    for i, j in pairs:
        if runs and runs[-1][-1] == (i - 1, j - 1):
            runs[-1].append((i, j))
        else:
            runs.append([(i, j)])

    def distance_s(run: list[tuple[int, int]]) -> float:
        return abs(left[run[(len(run) - 1) // 2][0]].middle_s - middle_s)

    return min(runs, key=lambda run: (-len(run), distance_s(run)), default=[])


def _gap_near(middle_s: float, start_s: float, end_s: float, words: Sequence[_PlacedWord]) -> float:
    """The time nearest the middle of an overlap that lies within the fewest words."""
    times_s = [time_s for placed in words for time_s in (placed.word.start_s, placed.word.end_s)]
    candidates_s = [middle_s, *(time_s for time_s in times_s if start_s <= time_s <= end_s)]

    def cost(time_s: float) -> tuple[int, float]:
        num_cut = sum(placed.word.start_s < time_s < placed.word.end_s for placed in words)
        return num_cut, abs(time_s - middle_s)

    return min(candidates_s, key=cost)


def _part_in_time(before: _Part, part: _Part, seam_s: float) -> float:
    """Clip the times of two neighbours to their own sides of a seam, which is returned; it is at `seam_s` or later."""
    if not before.words or not part.words:
        part.words = [placed.clipped(seam_s, float("inf")) for placed in part.words]
        return seam_s
    last_s = max([before.words[-1].word.end_s, *(token.end_s for token in before.words[-1].tokens)])
    first_s = min([part.words[0].word.start_s, *(token.start_s for token in part.words[0].tokens)])
    seam_s = max(seam_s, min(last_s, (last_s + first_s) / 2))
    before.words = [placed.clipped(-float("inf"), seam_s) for placed in before.words]
    part.words = [placed.clipped(seam_s, float("inf")) for placed in part.words]
    return seam_s
