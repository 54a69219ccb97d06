"""Transcripts of overlapping pieces of a recording -> one `Transcript`, each word once. Times in seconds.

Where two pieces share audio, `find_seam` aligns the words of both by text and time: the words before the seam are taken from
the first piece, the words after it from the second. Only the words near the last seam change again, so a recording of
any length is stitched as its pieces come.

Promised: every word once, also the same word many times in a row, where an overlap is at least twice `EDGE_S` long, both
pieces have the same words more than `EDGE_S` from their edges, and the times of a word in both pieces differ by less than
half the distance to the next word of the same text, and by less than `MAX_SHIFT_S`. A word that the edge of a piece cuts may
be missing, guessed, or wrong in that piece.

Not promised: "no no no", timed in both pieces so differently that a "no" of one lies nearer to its neighbor in the other, is
likely to be aligned one word off, and a "no" is lost or doubled. Where the pieces have different words in the middle of an
overlap, the words of one are taken, right or wrong. Words that differ in case or punctuation are different words; they are
told apart by time alone.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from zipasr.recognizer.seam import MAX_SHIFT_S, find_seam
from zipasr.transcript import Token, Transcript, Word


class PlacedTranscript(NamedTuple):
    """The transcript of a piece with its position in the recording."""

    transcript: Transcript
    """Times from the start of the piece."""
    start_s: float
    overlap_s: float = 0.0
    """Audio at the start of the piece that the piece before it has too."""


def stitch(
    pieces: Iterable[PlacedTranscript],
    *,
    joiner: str = " ",
    duration_s: float | None = None,
    on_text: Callable[[str, Sequence[Token]], None] | None = None,
) -> Transcript:
    """The transcript of a recording, from those of its pieces.

    Args:
        pieces: in order of time, read one by one; each starts after the one before.
        joiner: separator of words: a space, or nothing in languages written without spaces.
        duration_s: length of the recording; None: the end of the last piece.
        on_text: called, while pieces come, with each further part of the text that no later piece can change, its leading
            separator included, and with its tokens, whose times may still be clipped. The returned transcript has the rest.
    Returns:
        The transcript with times in the recording, never falling. Its score is the sum of the pieces', and it has no
        alternatives: those of the pieces do not combine.
    Raises:
        ValueError: a piece starts before the one before it, or overlaps it by more than its own length.
    """
    parts: list[_Part] = []
    num_reported = 0
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
            left, right = ([placed.word for placed in side.words] for side in (before, part))
            num_kept, num_dropped = find_seam(left, right, start_s, start_s + overlap_s)
            before.keep(0, num_kept)
            part.keep(num_dropped, len(part.words))
            if not before.words and parts:
                parts.pop()
                before = parts[-1] if parts else before
        seam_s = _part_in_time(before, part, seam_s)
        if part.words:
            parts.append(part)
        if on_text is not None:
            num_reported = _report_final(parts, num_reported, start_s - MAX_SHIFT_S, joiner, on_text)
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

    def clipped(self, first_s: float, last_s: float) -> "_PlacedWord":
        """The same with no time outside [first_s, last_s]."""
        return self.retimed(lambda time_s: min(max(time_s, first_s), last_s))

    def retimed(self, change: Callable[[float], float]) -> "_PlacedWord":
        """The same with a change of every time."""
        word = replace(self.word, start_s=change(self.word.start_s), end_s=change(self.word.end_s))
        tokens = (replace(token, start_s=change(token.start_s), end_s=change(token.end_s)) for token in self.tokens)
        return _PlacedWord(word, tuple(tokens))


@dataclass
class _Part:
    """What a piece contributes to the whole."""

    text: str
    words: list[_PlacedWord]
    is_whole: bool = field(default=True, init=False)

    def keep(self, first: int, end: int) -> None:
        self.is_whole = self.is_whole and first == 0 and end == len(self.words)
        self.words = self.words[first:end]

    def to_text(self, joiner: str) -> str:
        # A whole piece keeps its text: the tokenizer decodes some entries of the vocabulary to other text than their names.
        return self.text if self.is_whole else joiner.join(placed.word.text for placed in self.words)


def _report_final(
    parts: Sequence[_Part],
    num_reported: int,
    final_s: float,
    joiner: str,
    on_text: Callable[[str, Sequence[Token]], None],
) -> int:
    """Report the next parts whose words all end by `final_s`; return the number of parts reported so far.

    No later seam drops such a word, since `find_seam` keeps all words that end `MAX_SHIFT_S` before its piece, and pieces
    start in order of time. So neither the part nor its text can change.
    """
    while num_reported < len(parts) and all(placed.word.end_s <= final_s for placed in parts[num_reported].words):
        part = parts[num_reported]
        text = part.to_text(joiner)
        if text:
            is_first = not any(earlier.to_text(joiner) for earlier in parts[:num_reported])
            on_text(text if is_first else joiner + text, [token for placed in part.words for token in placed.tokens])
        num_reported += 1
    return num_reported


def _placed_words(transcript: Transcript, offset_s: float) -> list[_PlacedWord]:
    """The words of a piece with their tokens. A token belongs to the word that its first character is in."""
    texts = [token.text.replace("\u2581", "") for token in transcript.tokens]
    if "".join(texts) == "".join(word.text for word in transcript.words):
        starts: Sequence[float] = list(itertools.accumulate(map(len, texts), initial=0))[:-1]
        ends: Sequence[float] = list(itertools.accumulate(len(word.text) for word in transcript.words))
    else:  # the letters of the words are not those of the tokens
        starts = [token.start_s for token in transcript.tokens]
        ends = [word.start_s for word in transcript.words[1:]]
    placed, first = [], 0
    for i, word in enumerate(transcript.words):
        last = i == len(transcript.words) - 1
        end = len(starts) if last else next((k for k in range(first, len(starts)) if starts[k] >= ends[i]), len(starts))
        placed.append(_PlacedWord(word, transcript.tokens[first:end]).retimed(lambda time_s: time_s + offset_s))
        first = end
    return placed


def _part_in_time(before: _Part, part: _Part, seam_s: float) -> float:
    """Clip the times of two neighbors to their own sides of a seam, which is returned; it is at `seam_s` or later."""
    if not before.words or not part.words:
        part.words = [placed.clipped(seam_s, float("inf")) for placed in part.words]
        return seam_s
    last_s = max([before.words[-1].word.end_s, *(token.end_s for token in before.words[-1].tokens)])
    first_s = min([part.words[0].word.start_s, *(token.start_s for token in part.words[0].tokens)])
    seam_s = max(seam_s, min(last_s, (last_s + first_s) / 2))
    before.words = [placed.clipped(-float("inf"), seam_s) for placed in before.words]
    part.words = [placed.clipped(seam_s, float("inf")) for placed in part.words]
    return seam_s
