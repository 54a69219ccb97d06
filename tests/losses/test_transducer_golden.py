"""Transducer losses, golden: the original's values, gradients, occupations and ranges, for three kinds of lattice, in
float32 and float64. Its calls without lengths pass labels that are the blank, which we refuse: they are compared at the
lattice.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import pad

from tests.losses.transducer_batches import SCALES, all_kinds
from zipasr.losses import full_transducer_loss, prune_ranges, pruned_transducer_loss, simple_transducer_loss
from zipasr.losses.lattice import sum_paths

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = {"f32": 1e-6, "f64": 1e-9}
RANGES = (2, 4, 5, 8, 20)


@functools.cache
def golden(kind: str, dtype: str) -> dict[str, Tensor]:
    with safe_open(GOLDEN / f"d_rnnt_{kind}_{dtype}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["meta"])["rnnt_type"] == kind
        return {name: file.get_tensor(name) for name in file.keys()}


def golden_lens(kind: str) -> tuple[Tensor, Tensor]:
    boundary = golden(kind, "f64")["in.boundary"]
    return boundary[:, 3], boundary[:, 2]


def error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).abs().max() / theirs.abs().max()).item()


def check_gradient(ours: Tensor, kind: str, dtype: str, name: str) -> None:
    """In float32 the original's own rounding is up to 5e-6, against its float64 run: ours must be nearer to that."""
    assert error(ours, golden(kind, dtype)[name]) < {"f32": 6e-6, "f64": 1e-9}[dtype]
    if dtype == "f32" and not name.endswith("pruned5.logits"):  # its two runs have ranges that differ by a tie
        assert error(ours, golden(kind, "f64")[name]) < 1e-6


def golden_logits(data: dict[str, Tensor], position_NTR: Tensor) -> Tensor:
    size, num_frames, width = position_NTR.shape
    index = position_NTR.flatten(1)[:, :, None].expand(-1, -1, 6)
    rows = data["in.dec_proj"].gather(1, index).view(size, num_frames, width, 6)
    return (torch.tanh(data["in.enc_proj"][:, :, None] + rows) @ data["in.out_w"] * 2).requires_grad_()


both_types = pytest.mark.parametrize("dtype", ["f32", "f64"])


@both_types
@all_kinds
@pytest.mark.parametrize(("lm_scale", "am_scale"), SCALES)
def test_simple_loss_agrees_with_golden(kind, dtype, lm_scale, am_scale):
    data = golden(kind, dtype)
    name = f"smoothed.lm{lm_scale}_am{am_scale}"
    am, lm = data["in.am"].clone().requires_grad_(), data["in.lm"].clone().requires_grad_()
    result = simple_transducer_loss(
        am, lm, data["in.symbols"], *golden_lens(kind), blank=0, lm_scale=lm_scale, am_scale=am_scale, kind=kind
    )
    result.loss_N.sum().backward()
    assert error(result.loss_N.sum(), data[f"out.{name}"]) < TOLERANCE[dtype]
    if (lm_scale, am_scale) == (0, 0):
        assert error(result.loss_N, data["out.simple.b.none"]) < TOLERANCE[dtype]
    check_gradient(am.grad, kind, dtype, f"grad.{name}.am")
    check_gradient(lm.grad, kind, dtype, f"grad.{name}.lm")
    num_columns = data[f"out.{name}.px_grad"].shape[2]
    symbol_NST = result.symbol_occupation_NTS.mT
    check_gradient(pad(symbol_NST, (0, num_columns - symbol_NST.shape[2])), kind, dtype, f"out.{name}.px_grad")
    check_gradient(result.blank_occupation_NTU.mT, kind, dtype, f"out.{name}.py_grad")


@both_types
@all_kinds
def test_lattice_without_lengths_agrees_with_golden(kind, dtype):
    data = golden(kind, dtype)
    num = 1 if kind == "regular" else 3  # the stored regular scores are cut at the ends of the other two
    symbol_NTU, blank_NTU = pad(data["out.logprobs.px"].mT[:num, :20], (0, 1)), data["out.logprobs.py"].mT[:num]
    lens = torch.full((num,), 20), torch.full((num,), 7)
    lattice = sum_paths(symbol_NTU, blank_NTU, *lens, kind=kind, num_positions=8, need_occupation=True)
    assert error(-lattice.log_prob_N, data["out.simple.nob.none"][:num]) < TOLERANCE[dtype]
    limit = {"f32": 6e-6, "f64": 1e-9}[dtype]
    theirs = data["out.simple.nob.px_grad"].mT[:num, :20]
    assert error(lattice.symbol_occupation_NTR[:, :, :7], theirs) < limit
    assert error(lattice.blank_occupation_NTR, data["out.simple.nob.py_grad"].mT[:num]) < limit


@both_types
@all_kinds
@pytest.mark.parametrize("prune_range", RANGES)
def test_ranges_and_pruned_loss_agree_with_golden(kind, dtype, prune_range):
    data, lens = golden(kind, dtype), golden_lens(kind)
    simple = simple_transducer_loss(data["in.am"], data["in.lm"], data["in.symbols"], *lens, blank=0, kind=kind)
    band = prune_ranges(*simple[1:], *lens, prune_range, kind)
    assert torch.equal(band.positions_NTR, data[f"out.ranges{prune_range}"])
    assert band.width == data[f"out.ranges{prune_range}"].shape[2]

    logits = golden_logits(data, band.positions_NTR)
    loss = pruned_transducer_loss(logits, band.first_label_NT, data["in.symbols"], *lens, blank=0, kind=kind)
    loss.sum().backward()
    assert error(loss, data[f"out.pruned{prune_range}.none"]) < TOLERANCE[dtype]
    assert error(loss.sum(), data[f"out.pruned{prune_range}.loss"]) < TOLERANCE[dtype]
    check_gradient(logits.grad, kind, dtype, f"grad.pruned{prune_range}.logits")


@both_types
@all_kinds
def test_full_loss_agrees_with_golden(kind, dtype):
    data, lens = golden(kind, dtype), golden_lens(kind)
    logits = golden_logits(data, torch.arange(8).expand(3, 20, 8))
    loss = full_transducer_loss(logits, data["in.symbols"], *lens, blank=0, kind=kind)
    loss.sum().backward()
    assert error(loss.sum(), data["out.full.loss"]) < TOLERANCE[dtype]
    check_gradient(logits.grad, kind, dtype, "grad.full.logits")
    loss = full_transducer_loss(logits, data["in.symbols"], *lens, blank=0, kind=kind, delay_penalty=0.05)
    assert error(loss.sum(), data["out.full.delay0.05"]) < TOLERANCE[dtype]
