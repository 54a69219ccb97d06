"""parameter_groups. Law: every trainable parameter once, with the product of its factors. Contract: errors."""

import pytest
import torch
from torch import nn

from zipasr.optim import ScaledAdam, parameter_groups


def make_model() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)),
            "encoder_embed": nn.Linear(3, 3),
            "head": nn.Linear(4, 2),
        }
    )


def names_by_rate(groups: list[dict]) -> dict[float, list[str]]:
    return {group["lr"]: [name for name, _ in group["params"]] for group in groups}


def test_one_group_by_default() -> None:
    model = make_model()
    groups = parameter_groups(model, 0.045)
    assert names_by_rate(groups) == {0.045: [name for name, _ in model.named_parameters()]}


def test_factors_multiply_along_the_path() -> None:
    groups = parameter_groups(make_model(), 1.0, lr_scale={"encoder": 0.5, "encoder.1": 0.5, "head.bias": 2.0})
    assert names_by_rate(groups) == {
        0.5: ["encoder.0.weight", "encoder.0.bias"],
        0.25: ["encoder.1.weight", "encoder.1.bias"],
        1.0: ["encoder_embed.weight", "encoder_embed.bias", "head.weight"],
        2.0: ["head.bias"],
    }


def test_frozen_parameters_do_not_move() -> None:
    model = make_model()
    model["head"].bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = ScaledAdam(parameter_groups(model, 0.045, lr_scale={"head": 0.1}, frozen=["encoder"]))
    for _ in range(4):
        optimizer.zero_grad()
        x = model["encoder"](model["encoder_embed"](torch.ones(5, 3)))
        model["head"](x).square().sum().backward()
        optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"encoder_embed.weight", "encoder_embed.bias", "head.weight"}
    assert optimizer.param_groups[1]["param_names"] == ["head.weight"]


def make_tied_model() -> nn.ModuleDict:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "output": nn.Linear(4, 5)})
    model["output"].weight = model["embedding"].weight
    return model


def test_a_shared_parameter_has_all_of_its_names() -> None:
    assert names_by_rate(parameter_groups(make_tied_model(), 1.0)) == {1.0: ["embedding.weight", "output.bias"]}
    for frozen in (["output.weight"], ["embedding"]):
        assert names_by_rate(parameter_groups(make_tied_model(), 1.0, frozen=frozen)) == {1.0: ["output.bias"]}
    with pytest.raises(ValueError, match="all are frozen"):
        parameter_groups(make_tied_model(), 1.0, frozen=["output"])
    groups = parameter_groups(make_tied_model(), 1.0, lr_scale={"output": 0.5, "embedding": 0.5})
    assert names_by_rate(groups) == {0.25: ["embedding.weight"], 0.5: ["output.bias"]}
    groups = parameter_groups(make_tied_model(), 1.0, lr_scale={"output.weight": 0.5})
    assert names_by_rate(groups) == {0.5: ["embedding.weight"], 1.0: ["output.bias"]}


def test_refuses() -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"'encodr' must name .* nearest names are encoder"):
        parameter_groups(model, 1.0, lr_scale={"encodr": 0.5})
    with pytest.raises(ValueError, match="'enc' must name"):
        parameter_groups(model, 1.0, frozen=["enc"])
    with pytest.raises(ValueError, match="list it in `frozen`"):
        parameter_groups(model, 1.0, lr_scale={"head": 0.0})
    with pytest.raises(ValueError, match="all are frozen"):
        parameter_groups(model, 1.0, frozen=["encoder", "encoder_embed", "head"])
