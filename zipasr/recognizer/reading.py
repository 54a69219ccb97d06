"""Hypotheses of a batch in, transcripts out: tokens with their times, words with their confidence, and the text."""

import dataclasses
from collections.abc import Sequence

from zipasr.encoder.rates import FRAME_S_25HZ
from zipasr.search.confidence import Calibration
from zipasr.search.hypothesis import Hypothesis
from zipasr.search.word_times import TokenSpan, emission_spans
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Token, Transcript, words_from_tokens


def to_transcript(
    hypothesis: Hypothesis,
    duration_s: float,
    *,
    tokenizer: Tokenizer,
    spans: Sequence[TokenSpan] | None = None,
    calibration: Calibration | None = None,
) -> Transcript:
    """Write a hypothesis as a transcript.

    Args:
        hypothesis: what a search found.
        duration_s: length of the recording.
        tokenizer: spells the tokens.
        spans: where each token lies, in frames at 25 Hz; None: in the frame that emitted it.
        calibration: of the confidences of words; None: they stay as they are.
    """
    if spans is None:
        spans = emission_spans(hypothesis.frames)
    # The last feature reaches up to 5 ms beyond the recording, and so may the last token.
    tokens = tuple(
        Token(
            tokenizer.pieces[i],
            min(span.start_frame * FRAME_S_25HZ, duration_s),
            min(span.end_frame * FRAME_S_25HZ, duration_s),
            log_prob,
        )
        for i, span, log_prob in zip(hypothesis.ids, spans, hypothesis.log_probs, strict=True)
        if i != tokenizer.sos_eos_id  # a barely trained model may emit it; it is no word
    )
    words = words_from_tokens(tokens, is_each_a_word=tokenizer.is_spaceless)
    if calibration is not None:
        words = tuple(dataclasses.replace(word, confidence=calibration.apply(word.confidence)) for word in words)
    return Transcript(
        tokenizer.decode(hypothesis.ids), tokens=tokens, words=words, duration_s=duration_s, score=hypothesis.score
    )
