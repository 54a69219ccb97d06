"""Contract: the number of encoder frames of a recording."""

from zipasr.data.lengths import num_encoder_frames


def test_encoder_frames_agree_with_the_published_formula() -> None:
    for num_samples in range(0, 40_000, 37):
        num_features = (num_samples + 80) // 160
        assert num_encoder_frames(num_samples) == max(0, ((num_features - 7) // 2 + 1) // 2)
    assert (num_encoder_frames(1_359), num_encoder_frames(1_360)) == (0, 1)  # 8 and 9 features
    assert num_encoder_frames(16_000) == 23
