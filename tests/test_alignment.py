"""Alignment of texts with recordings.

Law: windows change nothing where frames see only themselves. Run: made-up speech with known words. Contract: texts that do
not fit.
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.search.toy_scorer import ToyScorer
from tests.tiny_model import noise, tiny_asr_model, tiny_recognizer, tiny_tokenizer
from zipasr import alignment
from zipasr.alignment import align_file, align_text
from zipasr.errors import AudioError, ConfigError, DataError
from zipasr.features import FbankConfig
from zipasr.recognizer import Recognizer
from zipasr.tokenizer import Tokenizer

TEXT = "THE QUICK BROWN FOX"
LETTERS = Tokenizer.train(["A B AB BA"], kind="char", vocab_size=None)


def toy_recognizer(tokenizer: Tokenizer) -> Recognizer:
    """The scores of labels are the features."""
    return Recognizer(ToyScorer(tokenizer.vocab_size), tokenizer, features=FbankConfig(num_mel_bins=tokenizer.vocab_size))


@given(num_frames=st.integers(0, 900), window=st.integers(40, 120), margin=st.integers(0, 15))
def test_windows_change_nothing(num_frames: int, window: int, margin: int) -> None:
    recognizer = toy_recognizer(LETTERS)
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(num_frames, LETTERS.vocab_size, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_WINDOW_FRAMES_25HZ", window)
        patch.setattr(alignment, "_MARGIN_FRAMES_25HZ", margin)
        found_TV = alignment._frame_log_probs(recognizer, features)
    expected_TV = features[::4][: num_frames // 4].log_softmax(-1)
    np.testing.assert_allclose(found_TV, expected_TV, atol=1e-6)


def test_long_recordings_are_aligned_in_windows() -> None:
    """70 s; the words are in order, inside the recording, and the whole text is there."""
    transcript = align_text(tiny_recognizer(), noise(70.0), " ".join([TEXT] * 12))
    assert transcript.text == " ".join([TEXT] * 12)
    assert [word.text for word in transcript.words] == TEXT.split() * 12
    times = [0.0, *(time for word in transcript.words for time in (word.start_s, word.end_s)), transcript.duration_s]
    assert times == sorted(times)
    assert transcript.duration_s == 70.0


def test_frames_are_as_many_as_in_one_go() -> None:
    recognizer = tiny_recognizer()
    for duration_s in (29.99, 30.0, 30.01, 56.0, 57.3):
        features = recognizer.fbank(noise(duration_s))
        log_probs_TV = alignment._frame_log_probs(recognizer, features)
        assert len(log_probs_TV) == recognizer.scorer.output_length(len(features))


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
    with pytest.raises(DataError, match=r"characters that the model knows, got ! Ä in the text"):
        align_text(recognizer, samples, "the quick ä!")
    with pytest.raises(DataError, match="expected the words that are said, got an empty text"):
        align_text(recognizer, samples, " \n")
    for too_short in (samples, samples[:800], samples[:0]):
        with pytest.raises(DataError, match=r"said in these .* s, got one that does not fit: .* labels need .* frames"):
            align_text(recognizer, too_short, " ".join([TEXT] * 10))


def test_no_ctc_head() -> None:
    recognizer = Recognizer(tiny_asr_model(has_ctc=False), tiny_tokenizer())
    with pytest.raises(ConfigError, match="aligning needs a CTC head, but this model has none"):
        align_text(recognizer, noise(1.0), TEXT)


def test_files(tmp_path: Path) -> None:
    recognizer, audio = tiny_recognizer(), tmp_path / "a.wav"
    soundfile.write(audio, noise(4.0), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"expected the text of a recording in .*a\.txt, got: No such file"):
        align_file(recognizer, audio)
    (tmp_path / "a.txt").write_text("\ufeffThe quick\nbrown fox\n", encoding="utf-8")
    assert align_file(recognizer, audio) == align_text(recognizer, noise(4.0), TEXT)
    assert align_file(recognizer, audio, "LAZY DOG").text == "LAZY DOG"
    with pytest.raises(DataError, match=r"a\.wav: expected characters that the model knows"):
        align_file(recognizer, audio, "Ω")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="expected text in UTF-8"):
        align_file(recognizer, audio)
    with pytest.raises(AudioError):
        align_file(recognizer, tmp_path / "missing.wav", TEXT)
