"""`GrowingTranscript`: the transcript of a stream after every chunk, from hypotheses that mostly grow at their end.

Hypotheses with frames at 25 Hz in, transcripts out: those of `to_transcript`, but words that a chunk does not touch are not
spelled, timed and grouped again. Beam searches may change earlier tokens; the transcript then starts over from the last word
before them. Where a graph puts out words that the tokens do not write, the transcript starts over with each chunk.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from zipasr.alignment.word_times import emission_spans
from zipasr.recognizer.said_words import said_parts
from zipasr.recognizer.transcripts import slots_by, to_transcript
from zipasr.search.confidence import Calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.text import are_unspaced
from zipasr.tokenizer import WORD_START, Tokenizer
from zipasr.transcript import Transcript, word_starts


class _Mark(NamedTuple):
    """The start of a word: what comes before it stays as it is, whatever follows."""

    num_ids: int
    num_tokens: int
    num_words: int
    num_characters: int
    is_apart: bool
    """Whether the word has a ▁, so that a space may be before it."""


_START = _Mark(0, 0, 0, 0, False)


class GrowingTranscript:
    """The transcript of one hypothesis of an utterance."""

    def __init__(self, tokenizer: Tokenizer, calibration: Calibration | None, start_frame: int) -> None:
        """Start an utterance at a frame of the stream, at 25 Hz; a calibration changes the confidence of its words."""
        self._tokenizer, self._calibration, self._start_frame = tokenizer, calibration, start_frame
        self._hypothesis, self._transcript = Hypothesis(), Transcript("", joiner=tokenizer.word_joiner)
        self._is_clipped = False
        self._marks = [_START]

    def update(self, hypothesis: Hypothesis, duration_s: float) -> Transcript:
        """The transcript of a hypothesis.

        Args:
            hypothesis: the tokens so far, from a search; frames count from the start of the utterance.
            duration_s: length of the stream so far; it must not fall.
        """
        if said_parts(hypothesis, self._tokenizer) is not None:
            return self._transcribe(hypothesis, duration_s)
        if self._is_clipped or hypothesis[:3] != self._hypothesis[:3]:
            self._rebuild(hypothesis, duration_s)
        self._hypothesis = hypothesis
        return dataclasses.replace(
            self._transcript,
            duration_s=duration_s,
            score=hypothesis.score,
            slots=slots_by(hypothesis),
            shortfall=hypothesis.shortfall,
        )

    def _rebuild(self, hypothesis: Hypothesis, duration_s: float) -> None:
        """Replace what follows the last word that all of the hypothesis before it leaves unchanged."""
        while not self._is_valid(self._marks[-1], hypothesis):
            self._marks.pop()
        mark, known = self._marks[-1], self._transcript
        start = mark.num_ids
        changed = Hypothesis(hypothesis.ids[start:], hypothesis.frames[start:], hypothesis.log_probs[start:])
        rest = self._transcribe(changed, duration_s)
        self._transcript = Transcript(
            self._joined(known.text[: mark.num_characters], rest.text, mark.is_apart),
            tokens=known.tokens[: mark.num_tokens] + rest.tokens,
            words=known.words[: mark.num_words] + rest.words,
            joiner=known.joiner,
        )
        self._is_clipped = bool(rest.tokens) and rest.tokens[-1].end_s >= duration_s
        if not self._is_clipped:
            self._set_mark(hypothesis, mark, rest)

    def _is_valid(self, mark: _Mark, hypothesis: Hypothesis) -> bool:
        """Whether a hypothesis has the same tokens as the last one up to a mark and the token after it."""
        if mark is _START:
            return True
        before, end = self._hypothesis, mark.num_ids + 1
        return (
            hypothesis.ids[:end] == before.ids[:end]
            and hypothesis.frames[:end] == before.frames[:end]
            and hypothesis.log_probs[:end] == before.log_probs[:end]
        )

    def _transcribe(self, hypothesis: Hypothesis, duration_s: float) -> Transcript:
        return to_transcript(
            hypothesis,
            duration_s,
            tokenizer=self._tokenizer,
            spans=emission_spans([self._start_frame + frame for frame in hypothesis.frames]),
            calibration=self._calibration,
        )

    def _set_mark(self, hypothesis: Hypothesis, last: _Mark, rest: Transcript) -> None:
        """Set a mark at the start of the last word, if what follows cannot change what is before it."""
        is_each_a_word, is_mixed = self._tokenizer.is_spaceless, self._tokenizer.is_mixed
        texts = [token.text for token in rest.tokens]
        starts = word_starts(texts, is_each_a_word=is_each_a_word, is_mixed=is_mixed)
        place = max((n for n, is_start in enumerate(starts) if is_start), default=0)
        ids = hypothesis.ids[last.num_ids :]
        position = last.num_ids + place
        if not place or len(ids) != len(texts) or not self._is_independent(ids, texts, place):
            return
        if hypothesis.frames[position] == hypothesis.frames[position - 1]:  # tokens of a frame share its time
            return
        num_words = len(rest.words) - bool("".join(texts[place:]).replace(WORD_START, ""))
        text = self._joined(self._transcript.text[: last.num_characters], self._tokenizer.decode(ids[:place]), last.is_apart)
        is_apart = texts[place].startswith(WORD_START)
        self._marks.append(_Mark(position, last.num_tokens + place, last.num_words + num_words, len(text), is_apart))

    def _is_independent(self, ids: Sequence[int], texts: Sequence[str], place: int) -> bool:
        """Whether the text of tokens is that of those before a place, a space if ▁ follows, and that of the others."""
        before, first, unknown = texts[place - 1], texts[place], self._tokenizer.unk_id
        has_part = self._tokenizer.spell(ids[place : place + 1]) != [first]  # it has the last bytes of a character
        if has_part or ids[place] == unknown:  # which may be written without the space, or with two
            return False
        if first.startswith(WORD_START):
            return True
        has_space = before.endswith(WORD_START) or before[-1:].isspace() or first[:1].isspace()
        return bool(before and first) and not has_space and ids[place - 1] != unknown

    def _joined(self, before: str, after: str, is_apart: bool) -> str:
        is_space = is_apart and before and after and not (self._tokenizer.is_mixed and are_unspaced(before, after))
        return before + " " + after if is_space else before + after
