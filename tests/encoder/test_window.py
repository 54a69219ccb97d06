"""Law: any pieces give the same windows, which are slices of the padded features; the frames they promise add up. Contract:
when a window is ready, and what is refused."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.encoder.pieces import in_pieces
from tests.golden_files import seeded
from zipasr.encoder.rates import embed_length
from zipasr.encoder.window import WindowBuffer

PADDING = -23.0


@given(length=st.integers(0, 200), chunk=st.sampled_from([2, 4, 8, 16, 32]), seed=st.integers(0, 1000))
def test_windows_of_any_pieces_are_slices_of_the_padded_features(length: int, chunk: int, seed: int) -> None:
    generator, features = random.Random(seed), seeded(length, 3, seed=seed)
    buffer = WindowBuffer(chunk, padding_value=PADDING)
    windows = []

    def take() -> None:
        for _ in range(generator.choice([0, 1, 100])):
            if (window := buffer.pop()) is None:
                return
            windows.append(window)

    for piece in features.split(in_pieces(length, generator)) if length else ():
        buffer.push(piece)
        take()
    buffer.finish()
    while (window := buffer.pop()) is not None:
        windows.append(window)

    assert len(windows) == -(-embed_length(length) // chunk)
    padded = torch.cat([features, torch.full((2 * chunk + 13, 3), PADDING)])
    frames = 0
    for i, (window, num_valid) in enumerate(windows):
        start = 2 * chunk * i
        assert torch.equal(window, padded[start : start + 2 * chunk + 13])
        assert num_valid == min(length - start, 2 * chunk + 13)
        frames += min(embed_length(num_valid), chunk)
    assert frames == embed_length(length)
    assert buffer.pop() is None


def test_a_window_is_ready_with_its_last_feature() -> None:
    buffer = WindowBuffer(8, padding_value=PADDING)
    assert not buffer.is_ready
    buffer.push(seeded(28, 3))
    assert not buffer.is_ready and buffer.pop() is None
    buffer.push(seeded(1, 3))
    assert buffer.is_ready
    window = buffer.pop()
    assert window is not None and window[0].shape == (29, 3) and window[1] == 29
    assert not buffer.is_ready
    buffer.finish()  # 13 features wait; three of their frames are not yet promised by a window
    window = buffer.pop()
    assert window is not None and window[1] == 13 and (window[0][13:] == PADDING).all()
    assert not buffer.is_ready and buffer.pop() is None


@pytest.mark.parametrize("length", [None, 0, 8])
def test_too_few_features_make_no_window(length: int | None) -> None:
    buffer = WindowBuffer(8, padding_value=PADDING)
    if length is not None:
        buffer.push(seeded(length, 3))
    buffer.finish()
    assert buffer.pop() is None


def test_type_of_the_features_is_kept() -> None:
    buffer = WindowBuffer(4, padding_value=PADDING)
    buffer.push(seeded(12, 3, dtype=torch.float64))
    buffer.finish()
    window = buffer.pop()
    assert window is not None and window[0].dtype == torch.float64


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_frames_50hz must be 1 or more, but is 0"):
        WindowBuffer(0, padding_value=PADDING)
    buffer = WindowBuffer(8, padding_value=PADDING)
    with pytest.raises(ValueError, match=r"features must be \(t, F\), but are \(1, 5, 3\)"):
        buffer.push(seeded(1, 5, 3))
    buffer.push(seeded(5, 3))
    with pytest.raises(ValueError, match=r"features must be \(t, 3\), but are \(5, 4\)"):
        buffer.push(seeded(5, 4))
    buffer.finish()
    with pytest.raises(RuntimeError, match="takes no more features"):
        buffer.push(seeded(5, 3))
