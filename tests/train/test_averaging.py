"""The running average. Reference: plain means over the whole run and over any part of it."""

import pytest
import torch
from torch import Tensor, nn

from zipasr.train.averaging import RunningAverage, interval_average

PERIOD = 4


def run(num_batches: int) -> tuple[dict[int, dict[str, Tensor]], dict[int, dict[str, Tensor]]]:
    """The models and the running averages after each batch of a random walk."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = RunningAverage(model, PERIOD)
    models, averages = {}, {}
    for b in range(1, num_batches + 1):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 1)
        average.update(model, b)
        models[b] = {name: tensor.double().clone() for name, tensor in model.state_dict().items()}
        averages[b] = {name: tensor.clone() for name, tensor in average.tensors.items()}
    return models, averages


def mean(models: dict[int, dict[str, Tensor]], start: int, end: int) -> dict[str, Tensor]:
    chosen = [model for b, model in models.items() if start < b <= end and b % PERIOD == 0]
    return {name: torch.stack([model[name] for model in chosen]).mean(0) for name in chosen[0]}


def test_mean_of_the_models_at_multiples_of_the_period() -> None:
    models, averages = run(4 * PERIOD + 2)
    for b, average in averages.items():
        if b >= PERIOD:
            expected = mean(models, 0, b)
            assert average.keys() == {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"}
            for name, tensor in average.items():
                assert tensor.dtype == torch.float64
                torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("start", "end"), [(4, 8), (4, 40), (7, 22), (16, 39), (36, 40)])
def test_interval_is_the_plain_mean(start: int, end: int) -> None:
    models, averages = run(40)
    expected = mean(models, start // PERIOD * PERIOD, end)
    found = interval_average(averages[start], start, averages[end], end, PERIOD)
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "end"), [(0, 12), (3, 12), (12, 15), (20, 12)])
def test_interval_without_a_start_is_everything(start: int, end: int) -> None:
    models, averages = run(20)
    expected = mean(models, 0, end)
    found = interval_average(averages[max(start, 1)], start, averages[end], end, PERIOD)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name].float(), rtol=1e-5, atol=1e-6)


def test_model_is_not_modified_and_load_resumes() -> None:
    model = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average = RunningAverage(model, 1)
    average.update(model, 1)
    average.tensors["weight"].add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    other = RunningAverage(nn.Linear(2, 2), 1)
    other.load({name: tensor.clone() for name, tensor in average.tensors.items()})
    for one in (average, other):
        one.update(model, 2)
    assert all(torch.equal(other.tensors[name], tensor) for name, tensor in average.tensors.items())
