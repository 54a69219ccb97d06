"""Rounds. Law: they contain the steps of a run in order and end where it saves; several processes take the steps that one
takes with the same gradients, to the bit, whatever goes wrong in one of them.

The processes are threads here, which talk over pipes like processes.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.ranks import random_batch
from tests.train.tones import minute_config, minute_model
from zipasr.data.batching import Batch
from zipasr.data.plan import BatchPlan
from zipasr.errors import ZipasrError
from zipasr.model import AsrModel
from zipasr.nn.schedule import set_step
from zipasr.optim import Eden, ScaledAdam
from zipasr.optim.look_ahead import looking_ahead
from zipasr.train import rounds
from zipasr.train.averaging import RunningAverage
from zipasr.train.config import ConsistencyConfig, TrainConfig
from zipasr.train.distributed import Ranks
from zipasr.train.local_ranks import LocalRanks
from zipasr.train.rounds import RoundStepper, SharedGradients, plan_rounds
from zipasr.train.state import Position, TrainState
from zipasr.train.step import Stepper, StepResult

# The order of steps


def plan_of(num_batches: int) -> BatchPlan:
    """A plan with that many batches in every epoch."""
    return BatchPlan([10.0] * num_batches, minute_config().batch, seed=0)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("accumulate_batches", [1, 2])
def test_rounds_are_the_steps_in_order(size: int, accumulate_batches: int) -> None:
    config = minute_config(
        num_epochs=3, save_interval=7, valid_interval=10, max_batches=29, accumulate_batches=accumulate_batches
    )
    plan = plan_of(13)
    found = list(plan_rounds(plan, config, Position(), size))
    per_epoch = math.ceil(13 / accumulate_batches)
    expected = [
        (epoch, range(index, min(index + accumulate_batches, 13)))
        for epoch in range(3)
        for index in range(0, 13, accumulate_batches)
    ][:29]
    assert [(turn.epoch, step) for turn in found for step in turn.steps] == expected
    ends = list(itertools.accumulate(len(turn.steps) for turn in found))
    due = {n for n in range(1, ends[-1] + 1) if n % 7 == 0 or n % 10 == 0 or n % per_epoch == 0}
    assert due <= set(ends)
    assert [turn.is_last for turn in found] == [end % per_epoch == 0 for end in ends]
    for start, end in itertools.pairwise([0, *ends]):  # as many at once as there may be
        assert end - start == size or end in due or end == ends[-1]
    for i, end in enumerate(ends):
        position = Position(epoch=end // per_epoch, index=end % per_epoch * accumulate_batches, num_steps=end)
        assert list(plan_rounds(plan, config, position, size)) == found[i + 1 :]


# Steps


def work_together(function: Callable[[LocalRanks], Any], size: int = 2) -> list[Any]:
    """The results of a function that as many threads call with ranks of their own."""
    ends = [Pipe() for _ in range(size - 1)]
    ranks = [LocalRanks(0, size, [own for own, _ in ends])]
    ranks += [LocalRanks(rank, size, [theirs]) for rank, (_, theirs) in enumerate(ends, start=1)]
    with ThreadPoolExecutor(size) as pool:
        jobs = [pool.submit(function, one) for one in ranks]
        return [job.result() for job in jobs]


def new_state() -> TrainState:
    """A model with the same weights every time, without randomness, and ScaledAdam after three steps."""
    model = AsrModel(minute_model().config)
    model.load_state_dict(minute_model().state_dict())
    set_step(model, 1e6)
    model.eval()
    optimizer = ScaledAdam(model.named_parameters(), lr=0.02, clipping_scale=2.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    optimizer.zero_grad()
    schedule = Eden(optimizer, 100.0, 100.0, warmup_batches=1.0)
    return TrainState(model, optimizer, schedule, RunningAverage(model, 2), Position())


def batches(num_steps: int, accumulate_batches: int = 1, num_views: int = 1) -> list[list[Batch]]:
    """Batches of each step; every second is of one utterance."""
    generator = torch.Generator().manual_seed(0)
    made = [[random_batch(generator, 1 if i % 2 else 3) for _ in range(accumulate_batches)] for i in range(num_steps)]
    if num_views == 2:
        made = [[with_two_views(batch, generator) for batch in step] for step in made]
    return made


def with_two_views(batch: Batch, generator: torch.Generator) -> Batch:
    features = torch.cat([batch.features, batch.features + 0.1 * torch.randn(batch.features.shape, generator=generator)])
    return batch._replace(features=features, feature_lens=batch.feature_lens.repeat(2))


Spoil = Callable[[Stepper, int], None]


def take(config: TrainConfig, steps: Sequence[list[Batch]], ranks: LocalRanks, spoil: Spoil) -> Any:
    """What a rank makes of a run: results and weights."""
    stepper = RoundStepper(config, new_state(), ranks, torch.device("cpu"))
    results: list[StepResult] = []
    for first in range(0, len(steps), ranks.size):
        numbers = range(first + 1, min(first + ranks.size, len(steps)) + 1)
        spoil(stepper, first + 1 + ranks.rank)
        own = steps[first + ranks.rank] if ranks.rank < len(numbers) else []
        for result in stepper.round(own, numbers):
            stepper.state.position.audio_s += result.audio_s
            results.append(result)
    return results, weights(stepper)


def take_alone(config: TrainConfig, steps: Sequence[list[Batch]], size: int, spoil: Spoil) -> Any:
    """The reference: one process computes the gradients of a round one after another, with weights that look ahead."""
    stepper = Stepper(config, new_state(), Ranks(), torch.device("cpu"))
    learned = []
    for first in range(0, len(steps), size):
        found = []
        for i, own in enumerate(steps[first : first + size]):
            spoil(stepper, first + i + 1)
            assert isinstance(stepper.state.optimizer, ScaledAdam)
            with looking_ahead(stepper.state.optimizer, i):
                figures = stepper._learn(own, first + i + 1)
            found.append((figures, [p.grad for p in stepper.parameters], sum(batch.audio_s for batch in own)))
            stepper.state.optimizer.zero_grad()
        for i, (figures, grads, audio_s) in enumerate(found):
            is_good = math.isfinite(figures.norm) and math.isfinite(figures.losses["loss"]) and figures.num_pieces > 0
            learned.append(is_good)
            if is_good:
                for p, grad in zip(stepper.parameters, grads, strict=True):
                    p.grad = grad
                assert stepper._update(figures.norm, first + i + 1, audio_s)
            stepper.state.position.audio_s += audio_s
            stepper.state.optimizer.zero_grad()
    return learned, weights(stepper)


def weights(stepper: Stepper) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in stepper.state.model.state_dict().items()}


def spoil_nothing(stepper: Stepper, number: int) -> None:
    pass


def assert_same_run(config: TrainConfig, steps: Sequence[list[Batch]], spoil: Spoil = spoil_nothing, size: int = 2) -> list:
    """Train with `size` ranks and alone; returns the results, which all ranks must share, as they do the weights."""
    torch.manual_seed(0)
    expected_learned, expected = take_alone(config, steps, size, spoil)
    found = work_together(lambda ranks: take(config, steps, ranks, spoil), size)
    for results, state in found:
        assert [result.is_learned for result in results] == expected_learned
        assert results == found[0][0]
        for name, tensor in expected.items():
            assert torch.equal(state[name], tensor), name
    before = new_state().model.state_dict()
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in expected.items()) > 1e-4
    return found[0][0]


@pytest.mark.parametrize(
    ("changes", "num_views"),
    [({}, 1), ({"accumulate_batches": 2}, 1), ({"consistency": ConsistencyConfig(scale=0.2)}, 2), ({"lr_hours": 0.001}, 1)],
)
def test_two_processes_take_the_steps_of_one(changes: dict[str, Any], num_views: int) -> None:
    """With an odd number of steps, so that the second has none in the last round."""
    changes |= {"lr_epochs": None} if "lr_hours" in changes else {}
    config = minute_config(**changes)
    results = assert_same_run(config, batches(5, config.accumulate_batches, num_views))
    assert all(result.is_learned and result.losses["loss"] > 0.0 and not result.problems for result in results)


def test_three_processes_take_the_steps_of_one() -> None:
    assert_same_run(minute_config(), batches(4), size=3)


def spoiled(trouble: str, at: int) -> Spoil:
    """Trouble in the step of this number, in whichever process computes it."""

    def spoil(stepper: Stepper, number: int) -> None:
        losses = type(stepper).losses

        def bad(batch: Batch, num_steps: int) -> Any:
            parts, total = losses(stepper, batch, num_steps)
            if num_steps != at or number != at:
                return parts, total
            if trouble == "memory" and len(batch.ids) > 1:
                raise torch.OutOfMemoryError("out of memory")
            if trouble == "no memory":
                raise torch.OutOfMemoryError("out of memory")
            if trouble == "gradient":
                return parts, total + (0.0 * next(stepper.state.model.parameters())).sum().sqrt()
            return parts, total * (float("nan") if trouble == "loss" else 1.0)

        stepper.losses = bad  # type: ignore[method-assign]

    return spoil


@pytest.mark.parametrize("at", [3, 4])
@pytest.mark.parametrize("trouble", ["loss", "gradient", "no memory"])
def test_step_that_is_skipped(trouble: str, at: int) -> None:
    """Whichever process computes it; the other step of the round is taken."""
    results = assert_same_run(minute_config(), batches(6), spoiled(trouble, at))
    result = results[at - 1]
    assert not result.is_learned and result.losses == {} and result.audio_s > 0.0
    assert result.is_diverging == (trouble != "no memory")
    expected = "do not fit into memory" if trouble == "no memory" else f"whose {trouble}"
    assert len(result.problems) == 1 and expected in result.problems[0] and "u0" in result.problems[0]
    assert all(other.is_learned and not other.problems for i, other in enumerate(results, start=1) if i != at)


def test_batch_that_does_not_fit_is_split() -> None:
    results = assert_same_run(minute_config(), batches(4), spoiled("memory", 3))
    assert "took a batch in 3 pieces" in results[2].problems[0]


def test_suspects_are_those_of_the_process_that_had_them() -> None:
    def suspects(ranks: LocalRanks) -> list[int]:
        stepper = RoundStepper(minute_config(), new_state(), ranks, torch.device("cpu"))
        spoiled("loss", 2)(stepper, 1 + ranks.rank)
        return [len(stepper.suspects) for _ in stepper.round(batches(2)[ranks.rank], range(1, 3))]

    assert work_together(suspects) == [[0, 0], [0, 1]]


def test_parameters_without_gradients_stay_without() -> None:
    """As with a block that is not used in a step; what is written next does not change what others read.

    Gradients are aligned like those of a process by itself: elsewhere, processors without AVX-512 sum in another order.
    """

    def work(ranks: LocalRanks) -> list[Any]:
        params = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(()))]
        shared, read = SharedGradients(params, ranks), []
        for turn in range(3):
            params[0].grad = torch.full((2, 3), 10.0 * turn + ranks.rank)
            params[1].grad = torch.tensor(1.0) if ranks.rank == 0 else None
            used = ranks.exchange(shared.write())
            shared.turn()
            for rank in range(2):
                shared.read(rank, used[rank])
                read.append([None if p.grad is None else p.grad.mean().item() for p in params])
                for p in params:
                    if p.grad is not None:
                        assert p.grad.data_ptr() % 64 == 0
                        p.grad.mul_(100.0)  # as clipping does
        return read

    expected = [[10.0 * turn + rank, 1.0 if rank == 0 else None] for turn in range(3) for rank in range(2)]
    assert work_together(work) == [expected, expected]


def test_shared_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none for memory, it is a file for temporary files; where no space is left, a message says so."""
    params = [nn.Parameter(torch.zeros(4))]
    monkeypatch.setattr(rounds, "_SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    work_together(lambda ranks: SharedGradients(params, ranks) and None)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ZipasrError, match=r"0 MiB must be free .* --threads 1"):
        SharedGradients(params, LocalRanks(0, 1, []))
