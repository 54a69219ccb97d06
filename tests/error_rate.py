"""Word error rate of transcripts."""

from collections.abc import Sequence

from zipasr.evaluate import ReferenceUtterance, error_rates


def wer(utterances: Sequence[ReferenceUtterance], texts: Sequence[str]) -> float:
    """Word error rate in percent of the texts, one per utterance."""
    return error_rates((u.text, text) for u, text in zip(utterances, texts, strict=True)).words.rate
