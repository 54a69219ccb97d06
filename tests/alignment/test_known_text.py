"""Log-probabilities of a recording computed in windows. Law: windows change neither the number of frames nor, where a frame
depends only on itself, the values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.search.toy_scorer import ToyScorer
from tests.tiny_model import noise, tiny_recognizer
from zipasr.alignment import known_text
from zipasr.errors import DataError
from zipasr.features import FbankConfig
from zipasr.recognizer import Recognizer
from zipasr.tokenizer import Tokenizer

LETTERS = Tokenizer.train(["A B AB BA"], kind="char", vocab_size=None)


def toy_recognizer(tokenizer: Tokenizer) -> Recognizer:
    """A recognizer whose label scores are the features."""
    return Recognizer(ToyScorer(tokenizer.vocab_size), tokenizer, features=FbankConfig(num_mel_bins=tokenizer.vocab_size))


def frame_log_probs(recognizer: Recognizer, features: torch.Tensor) -> np.ndarray:
    return known_text._frame_log_probs(
        features,
        recognizer.engine.scorer,
        lambda window: recognizer.engine.encode([window]),
        vocab_size=recognizer.engine.tokenizer.vocab_size,
    )


@given(num_frames=st.integers(0, 900), window=st.integers(40, 120), margin=st.integers(0, 15))
def test_windows_change_nothing(num_frames: int, window: int, margin: int) -> None:
    recognizer = toy_recognizer(LETTERS)
    generator = torch.Generator().manual_seed(num_frames)
    features = torch.randn(num_frames, LETTERS.vocab_size, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_text, "_WINDOW_FRAMES_25HZ", window)
        patch.setattr(known_text, "_MARGIN_FRAMES_25HZ", margin)
        found_TV = frame_log_probs(recognizer, features)
    expected_TV = features[::4][: num_frames // 4].log_softmax(-1)
    np.testing.assert_allclose(found_TV, expected_TV, atol=1e-6)


def test_frames_are_as_many_as_in_one_go() -> None:
    recognizer = tiny_recognizer()
    for duration_s in (29.99, 30.0, 30.01, 56.0, 57.3):
        features = recognizer.engine.fbank(noise(duration_s))
        log_probs_TV = frame_log_probs(recognizer, features)
        assert len(log_probs_TV) == recognizer.engine.scorer.output_length(len(features))


def test_a_text_has_the_same_ids_in_every_spelling() -> None:
    tokenizer = Tokenizer.train(["IT'S CAFÉ"], kind="char", vocab_size=None)
    expected = tokenizer.encode("IT'S CAFÉ")
    assert known_text._encoded_text(tokenizer, "\ufeffIt’s cafe\u0301\u200b") == expected
    with pytest.raises(DataError, match="is empty"):
        known_text._encoded_text(tokenizer, "\u200b ")
