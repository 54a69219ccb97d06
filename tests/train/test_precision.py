"""Law: the loss scale in float16 follows the published rule."""

from zipasr.train.precision import GROWTH_INTERVAL, MIN_SCALE, LossScale


def test_scale_grows_to_32_early_then_doubles_now_and_then() -> None:
    scale = LossScale()
    seen = {}
    for b in range(1, GROWTH_INTERVAL + 1):
        scale.after_good_step(b)
        seen[b] = scale.scale
    assert [seen[b] for b in (24, 25, 50, 100, 200, 300, 400, 800, 1200)] == [1, 2, 2, 4, 8, 8, 16, 32, 32]
    assert seen[GROWTH_INTERVAL] == 64


def test_scale_halves_at_an_overflow_down_to_a_limit() -> None:
    scale = LossScale(4.0, num_good=7)
    assert scale.after_overflow()
    assert (scale.scale, scale.num_good) == (2.0, 0)
    halvings = 0
    while scale.after_overflow():
        halvings += 1
    assert scale.scale == MIN_SCALE
    assert halvings == 17
