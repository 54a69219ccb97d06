"""Seeds. Law: other parts give another seed."""

from zipasr.randomness import stable_seed


def test_stable_seed() -> None:
    seeds = {stable_seed(*parts) for parts in [(1, 23), (12, 3), (123,), (1, 2, 3), (3, 2, 1)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
