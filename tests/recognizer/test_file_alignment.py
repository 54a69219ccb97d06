"""Alignment of texts with recordings. Run: synthetic speech with known words. Contract: texts that do not fit."""

from pathlib import Path

import pytest
import soundfile

from tests.tiny_model import noise, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr.errors import AudioError, ConfigError, DataError
from zipasr.recognizer import Recognizer, align_file, align_text

TEXT = "THE QUICK BROWN FOX"


def test_long_recordings_are_aligned_in_windows() -> None:
    """The words of 70 s are in order and inside the recording, and the whole text is there."""
    transcript = align_text(tiny_recognizer(), noise(70.0), " ".join([TEXT] * 12))
    assert transcript.text == " ".join([TEXT] * 12)
    assert [word.text for word in transcript.words] == TEXT.split() * 12
    times = [0.0, *(time for word in transcript.words for time in (word.start_s, word.end_s)), transcript.duration_s]
    assert times == sorted(times)
    assert transcript.duration_s == 70.0


def test_tokens_fill_their_words() -> None:
    transcript = align_text(tiny_recognizer(), noise(4.0), TEXT)
    assert "".join(token.text for token in transcript.tokens).replace("▁", " ").strip() == TEXT
    for word in transcript.words:
        inside = [t for t in transcript.tokens if word.start_s <= t.start_s <= t.end_s <= word.end_s]
        assert word.text in "".join(token.text for token in inside)
        assert word.start_s < word.end_s
        assert 0.0 <= word.confidence <= 1.0
    assert transcript.score < 0.0


def test_another_case_is_tried() -> None:
    recognizer, samples = tiny_recognizer(), noise(4.0)
    assert align_text(recognizer, samples, "the quick\n brown Fox ") == align_text(recognizer, samples, TEXT)


def test_texts_that_cannot_be() -> None:
    recognizer, samples = tiny_recognizer(), noise(1.0)
    with pytest.raises(DataError, match="the text must have characters that the model knows, but has ! Ä; leave them out"):
        align_text(recognizer, samples, "the quick ä!")
    with pytest.raises(DataError, match="the text must be the words that are said, but is empty"):
        align_text(recognizer, samples, " \n")
    for too_short in (samples, samples[:800], samples[:0]):
        with pytest.raises(DataError, match=r"said in these .* s, but does not fit: .* labels need .* frames"):
            align_text(recognizer, too_short, " ".join([TEXT] * 10))


def test_no_ctc_head() -> None:
    recognizer = Recognizer(tiny_asr_model(has_ctc=False), tiny_tokenizer())
    with pytest.raises(ConfigError, match="aligning needs a CTC head, but this model has none"):
        align_text(recognizer, noise(1.0), TEXT)


def test_files(tmp_path: Path) -> None:
    recognizer, audio = tiny_recognizer(), tmp_path / "a.wav"
    soundfile.write(audio, noise(4.0), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.txt must hold the text of a recording, but cannot be read: No such file"):
        align_file(recognizer, audio)
    (tmp_path / "a.txt").write_text("\ufeffThe quick\nbrown fox\n", encoding="utf-8")
    assert align_file(recognizer, audio) == align_text(recognizer, noise(4.0), TEXT)
    (tmp_path / "a.txt").write_text("The quick\nbrown fox\n", encoding="utf-16")
    assert align_file(recognizer, audio) == align_text(recognizer, noise(4.0), TEXT)
    assert align_file(recognizer, audio, "LAZY DOG").text == "LAZY DOG"
    with pytest.raises(DataError, match=r"a\.wav: the text must have characters that the model knows"):
        align_file(recognizer, audio, "Ω")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="must be text in UTF-8 or UTF-16, but is not"):
        align_file(recognizer, audio)
    with pytest.raises(AudioError):
        align_file(recognizer, tmp_path / "missing.wav", TEXT)
