"""Law: cutting a long recording by its text loses nothing and keeps order. Contract: it is cut in the pauses."""

import pytest

from tests.tiny_model import noise, tiny_asr_model, tiny_recognizer
from zipasr.errors import DataError
from zipasr.prepare import long_texts
from zipasr.prepare.long_texts import Piece, cut_by_alignment
from zipasr.recognizer import Recognizer
from zipasr.tokenizer import Tokenizer
from zipasr.transcript import Transcript, Word

TEXT = "“The quick, brown fox” – 2 foxes, 1999 – jumps."


def words(*timed: tuple[str, float, float]) -> tuple[Word, ...]:
    return tuple(Word(text, start_s, end_s, 0.5) for text, start_s, end_s in timed)


def cut(
    monkeypatch: pytest.MonkeyPatch, text: str, aligned: tuple[Word, ...], *, max_s: float, length_s: float
) -> list[Piece]:
    """The pieces of a text whose words are where `aligned` says."""
    monkeypatch.setattr(long_texts, "align_text", lambda *_: Transcript("", words=aligned))
    return cut_by_alignment(tiny_recognizer(), noise(length_s), text, lang="en", max_duration_s=max_s)


def test_nothing_is_lost() -> None:
    """Quotes, dashes and years, which the model cannot write, stay with their neighbors."""
    pieces = cut_by_alignment(tiny_recognizer(), noise(60.0), " ".join([TEXT] * 8), lang="en", max_duration_s=10.0)
    assert " ".join(piece.text for piece in pieces) == " ".join([TEXT] * 8)
    assert len(pieces) >= 6
    times = [0.0, *(time for piece in pieces for time in (piece.start_s, piece.end_s)), 60.0]
    assert times == sorted(times)
    assert all(piece.end_s - piece.start_s <= 10.0 and 0.0 <= piece.confidence <= 1.0 for piece in pieces)


def test_nothing_is_lost_in_a_script_without_spaces() -> None:
    """Characters are cut apart; a digit and punctuation, which the model cannot write, stay with their neighbors."""
    text = "甲乙，丙甲3。丁乙丙甲丁" * 6
    tokenizer = Tokenizer.train([text.translate({ord(c): None for c in "，3。"})], kind="spaceless", vocab_size=None)
    recognizer = Recognizer(tiny_asr_model(vocab_size=tokenizer.vocab_size), tokenizer)
    pieces = cut_by_alignment(recognizer, noise(30.0), text, lang="zh", max_duration_s=6.0)
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) >= 3


def test_cut_in_the_latest_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of 0.6, 0.9 and 0.1 s: the second is as good as the first, and later; the third is too late."""
    aligned = words(("THE", 0.1, 2.0), ("FOX", 2.6, 4.0), ("THE", 4.9, 6.0), ("QUICK", 6.1, 7.5))
    pieces = cut(monkeypatch, "the fox the quick", aligned, max_s=6.5, length_s=8.0)
    assert [piece.text for piece in pieces] == ["the fox", "the quick"]
    assert [time for piece in pieces for time in piece[:2]] == pytest.approx([0.05, 4.25, 4.65, 7.75])
    assert pieces[0].confidence == pytest.approx(0.5)


def test_a_very_long_pause_ends_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = words(("FOX", 0.0, 1.0), ("FOX", 3.5, 4.0))
    assert [piece.text for piece in cut(monkeypatch, "fox, fox.", aligned, max_s=30.0, length_s=4.0)] == ["fox,", "fox."]


def test_a_word_that_is_too_long_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = words(("FOX", 0.0, 1.0), ("THE", 1.5, 20.0), ("FOX", 20.1, 21.0))
    pieces = cut(monkeypatch, "fox the fox", aligned, max_s=5.0, length_s=21.0)
    assert [piece.text for piece in pieces] == ["fox", "the", "fox"]


def test_the_model_can_write_nothing() -> None:
    with pytest.raises(DataError, match="the text must be the words that are said, but is empty"):
        cut_by_alignment(tiny_recognizer(), noise(60.0), "1999 – 2000", lang="en", max_duration_s=10.0)
