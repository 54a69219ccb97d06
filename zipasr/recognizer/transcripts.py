"""Hypotheses -> transcripts: tokens with their times, words with their confidence, and the text."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from zipasr.alignment.word_times import TokenSpan, align_hypotheses, emission_spans
from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.grammar import slots_of
from zipasr.nn.encoded import Encoded
from zipasr.recognizer.engine import Engine
from zipasr.recognizer.said_words import SaidPart, said_parts, said_text
from zipasr.search.confidence import Calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Token, Transcript, Word, word_of_tokens, words_from_tokens


def to_transcript(
    hypothesis: Hypothesis,
    duration_s: float,
    *,
    tokenizer: Tokenizer,
    spans: Sequence[TokenSpan] | None = None,
    calibration: Calibration | None = None,
) -> Transcript:
    """The transcript of a hypothesis.

    Args:
        hypothesis: the tokens, from a search.
        duration_s: length of the recording.
        tokenizer: turns tokens into text, where a graph puts out no other words.
        spans: times of each token in frames at 25 Hz; None: those of the frame that emitted it.
        calibration: of word confidences; None: they are not changed.
    """
    if spans is None:
        spans = emission_spans(hypothesis.frames)
    # The last feature ends up to 5 ms after the recording, and so may the last token.
    tokens = [
        Token(
            text,
            min(span.start_frame * FRAME_S_25HZ, duration_s),
            min(span.end_frame * FRAME_S_25HZ, duration_s),
            log_prob,
            id=i,
        )
        for i, text, span, log_prob in zip(
            hypothesis.ids, tokenizer.spell(hypothesis.ids), spans, hypothesis.log_probs, strict=True
        )
    ]
    parts = said_parts(hypothesis, tokenizer)
    words = list(_words(tokens, [SaidPart(None, 0, len(tokens))] if parts is None else parts, tokenizer))
    if calibration is not None:
        words = [dataclasses.replace(word, confidence=calibration.apply(word.confidence)) for word in words]
    return Transcript(
        said_text(hypothesis, tokenizer, parts),
        tokens=_without_special(tokens, tokenizer),
        words=tuple(words),
        duration_s=duration_s,
        score=hypothesis.score,
        joiner=tokenizer.word_joiner,
        slots=slots_by(hypothesis),
        shortfall=hypothesis.shortfall,
    )


def _words(tokens: Sequence[Token], parts: Sequence[SaidPart], tokenizer: Tokenizer) -> Iterator[Word]:
    """The words of the parts of a hypothesis."""
    for word, start, end in parts:
        if word is None:
            written = _without_special(tokens[start:end], tokenizer)
            yield from words_from_tokens(written, is_each_a_word=tokenizer.is_spaceless, is_mixed=tokenizer.is_mixed)
        elif start < end:
            yield word_of_tokens(word, tokens[start:end])
        else:  # graphs of other programs may put a word out after its tokens, with those of another word
            near = tokens[max(start - 1, 0)]
            yield dataclasses.replace(word_of_tokens(word, [near]), start_s=near.end_s)


def _without_special(tokens: Sequence[Token], tokenizer: Tokenizer) -> tuple[Token, ...]:
    """Tokens without sos/eos, which a barely trained model may emit, but which is not a word."""
    return tuple(token for token in tokens if token.id not in tokenizer.special_ids)


def slots_by(hypothesis: Hypothesis) -> dict[str, Any] | None:
    """The slots of a hypothesis under a graph, none if it stops inside a phrase; None: it is of a search without a graph."""
    if hypothesis.shortfall is None:
        return None
    return slots_of(output.symbol for output in hypothesis.outputs) if hypothesis.is_complete else {}


def to_transcripts(
    engine: Engine,
    encoded: Encoded,
    features: Sequence[Tensor],
    ranked: Sequence[Sequence[Hypothesis]],
    durations_s: Sequence[float],
    calibration: Calibration | None,
    *,
    use_true_times: bool = True,
) -> list[Transcript]:
    """The transcript of every utterance of a batch, with its other hypotheses as alternatives.

    Args:
        encoded: frames (N, T', D) at 25 Hz and their lengths.
        features: of each utterance, (T, F) at 100 Hz.
        ranked: n-best hypotheses of each utterance.
        durations_s: length of each recording.
        calibration: see `to_transcript`.
        use_true_times: whether tokens get their true times where the engine finds them; see `Engine.use_true_times`.
    """
    make = partial(to_transcript, tokenizer=engine.tokenizer, calibration=calibration)
    transcripts: list[list[Transcript]] = [[] for _ in ranked]
    for rank in range(max(map(len, ranked), default=0)):
        hypotheses = [hypotheses[min(rank, len(hypotheses) - 1)] for hypotheses in ranked]
        spans: Sequence[Sequence[TokenSpan] | None] = [None] * len(hypotheses)
        if engine.use_true_times and use_true_times:
            spans = align_hypotheses(engine.scorer, encoded, features, hypotheses, tokenizer=engine.tokenizer)
        for n, hypothesis in enumerate(hypotheses):
            if rank < len(ranked[n]):
                transcripts[n].append(make(hypothesis, durations_s[n], spans=spans[n]))
    return [dataclasses.replace(best, alternatives=tuple(others)) for best, *others in transcripts]
