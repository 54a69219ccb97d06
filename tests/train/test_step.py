"""One optimization step. Law: a batch in pieces, or several batches, give the same step as the whole. Run: what is not
finite, or does not fit into memory, changes nothing and is named."""

from typing import Any

import pytest
import torch

from tests.train.ranks import make_exact, new_stepper, random_batch, take_steps
from tests.train.tones import minute_config, minute_model
from zipasr.data.batching import Batch
from zipasr.model import AsrModel
from zipasr.optim import Eden, ScaledAdam
from zipasr.randomness import random_state, set_random_state
from zipasr.train import setup
from zipasr.train.config import ConsistencyConfig
from zipasr.train.precision import LossScale
from zipasr.train.step import Stepper, gradient_norm, halves, is_out_of_memory


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsrModel, "train", AsrModel.train)  # restored with the other patches
    monkeypatch.setattr(setup, "new_optimizer", setup.new_optimizer)
    make_exact()


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int, unfit: tuple[str, ...] = ()) -> list[int]:
    """Make larger batches and some utterances not fit; returns the sizes tried, those in the backward pass negative."""
    tried: list[int] = []
    losses = Stepper.losses

    class FullInBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    def limited(self: Stepper, batch: Batch, num_steps: int) -> Any:
        size = len(batch.ids)
        if set(unfit) & set(batch.ids) or size > most:
            tried.append(size)
            if size > 2 * most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            parts, total = losses(self, batch, num_steps)
            middle = self.state.model.encoder.frontend.out.weight  # some gradients exist when it fails
            return parts, FullInBackward.apply(total) + 0.0 * middle.sum()
        tried.append(size)
        return losses(self, batch, num_steps)

    monkeypatch.setattr(Stepper, "losses", limited)
    return tried


def batches(num: int, size: int = 8) -> list[list[Batch | None]]:
    generator = torch.Generator().manual_seed(0)
    return [[random_batch(generator, size)] for _ in range(num)]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("exact")
def test_batch_in_pieces_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = take_steps(new_stepper(minute_config()), batches(3))
    tried = small_memory(monkeypatch, most=2)
    stepper = new_stepper(minute_config())
    pieces = take_steps(stepper, batches(3))
    assert tried[:7] == [8, 4, 2, 2, 2, 2, 8]
    assert_close(pieces, whole)
    before = minute_model().state_dict()
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in whole.items()) > 1e-3
    result = stepper.step(batches(1)[0], 4)
    assert result.problems[0].startswith("out of memory: took a batch in 4 pieces (u0, u1, ")
    assert "zipasr train --probe" in result.problems[0]
    assert result.audio_s == pytest.approx(6.4)


@pytest.mark.usefixtures("exact")
def test_several_batches_are_the_same_step_as_one() -> None:
    (whole,), split = batches(1), halves(batches(1)[0][0])
    one, both = new_stepper(minute_config()), new_stepper(minute_config())
    assert_close(take_steps(both, [[*split, None]]), take_steps(one, [[*whole]]))


@pytest.mark.usefixtures("exact")
def test_utterance_that_does_not_fit_alone_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (batch,) = batches(1)[0]
    rest = [half for half in halves(batch) if "u5" not in half.ids]
    rest += [piece for half in halves(batch) if "u5" in half.ids for piece in halves(half) if "u5" not in piece.ids]
    last = next(piece for half in halves(batch) for piece in halves(half) if "u5" in piece.ids)
    rest += [piece for piece in halves(last) if "u5" not in piece.ids]
    expected = take_steps(new_stepper(minute_config()), [[*rest]])
    small_memory(monkeypatch, most=4, unfit=("u5",))
    stepper = new_stepper(minute_config())
    stepper.state.model.train()
    result = stepper.step([batch], 1)
    assert result.is_learned
    assert result.problems == ("skipped utterances that do not fit into memory even alone: u5",)
    assert_close(dict(stepper.state.model.state_dict()), expected)


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, most=0, unfit=("u0", "u1"))
    stepper = new_stepper(minute_config())
    before = {name: tensor.clone() for name, tensor in stepper.state.model.state_dict().items()}
    result = stepper.step(batches(1, size=2)[0], 1)
    assert (result.is_learned, result.is_diverging, result.losses) == (False, False, {})
    assert "u0, u1" in result.problems[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in stepper.state.model.state_dict().items())


def test_halves_of_two_views() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(generator, 3)
    views = torch.cat([batch.features, batch.features + 1.0])
    two = batch._replace(features=views, feature_lens=torch.tensor([80, 70, 60] * 2), audio_s=2.1)
    first, second = halves(two)
    assert (first.ids, second.ids) == (("u0",), ("u1", "u2"))
    assert torch.equal(second.features, views[[1, 2, 4, 5]])
    assert second.feature_lens.tolist() == [70, 60, 70, 60]
    assert first.audio_s + second.audio_s == pytest.approx(two.audio_s)
    assert torch.equal(second.labels, batch.labels[1:])
    stepper = new_stepper(minute_config(consistency=ConsistencyConfig(scale=0.1)))
    assert stepper.step([first, second], 1).losses["consistency"] > 0.0


def test_which_errors_are_out_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("sizes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert is_out_of_memory(error.value)


def test_gradient_that_is_not_finite_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is finite, but its slope is not, as for a square root at 0."""
    losses = Stepper.losses

    def steep(self: Stepper, batch: Batch, num_steps: int) -> Any:
        parts, total = losses(self, batch, num_steps)
        return parts, total + (0.0 * next(self.state.model.parameters())).sum().sqrt()

    stepper = new_stepper(minute_config())
    before = {name: tensor.clone() for name, tensor in stepper.state.model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "losses", steep)
        result = stepper.step(batches(1)[0], 1)
    assert (result.is_learned, result.is_diverging) == (False, True)
    assert result.problems[0].startswith("skipped a batch whose gradients are not finite: u0, u1, ")
    assert [batch.ids for batch in stepper.suspects] == [tuple(f"u{i}" for i in range(8))]
    assert all(torch.equal(tensor, before[name]) for name, tensor in stepper.state.model.state_dict().items())
    assert all(p.grad is None for p in stepper.parameters)
    assert stepper.step(batches(1)[0], 2).is_learned
    assert stepper.suspects == []


# Precision


def test_float16_overflow_lowers_the_scale_and_is_no_divergence() -> None:
    stepper = new_stepper(minute_config(precision="float16"))
    stepper.state.loss_scale = LossScale(2.0**30)
    result = stepper.step(batches(1)[0], 1)
    assert (result.is_learned, result.is_diverging) == (False, False)
    assert "gradients overflowed at a loss scale of 1.07374e+09" in result.problems[0]
    assert stepper.state.loss_scale.scale == 2.0**29
    stepper.state.loss_scale = LossScale(4.0)
    assert stepper.step(batches(1)[0], 2).is_learned
    assert stepper.figures()["loss_scale"] == 4.0


@pytest.mark.usefixtures("exact")
def test_loss_scale_changes_nothing_else() -> None:
    plain = take_steps(new_stepper(minute_config()), batches(2))
    stepper = new_stepper(minute_config())
    stepper.state.loss_scale = LossScale(64.0)
    assert_close(take_steps(stepper, batches(2)), plain)


def test_figures_of_clipping() -> None:
    stepper = new_stepper(minute_config())
    optimizer = ScaledAdam(list(stepper.state.model.named_parameters()), lr=0.001, clipping_scale=0.2)
    stepper.state.optimizer = optimizer
    stepper.state.scheduler = Eden(optimizer, lr_batches=100.0, lr_epochs=100.0)
    stepper.state.model.train()
    for b, step in enumerate(batches(12), start=1):
        stepper.step(step, b)
    figures = stepper.figures()
    assert figures["grad_norm"] > 0.0
    assert 0.0 < figures["clip_rate"] < 0.5  # none in the first ten steps, then against a fraction of the median
    assert "grad_norm" not in stepper.figures()


def test_random_state_is_restored() -> None:
    cpu = torch.device("cpu")
    state = random_state(cpu)
    first = torch.rand(3)
    set_random_state(state, cpu)
    assert torch.equal(torch.rand(3), first)


def test_norm_of_no_gradients() -> None:
    assert gradient_norm([torch.nn.Parameter(torch.ones(2))]).item() == 0.0
