"""Law: a weight in eight bits is off by half a step at most, and everything else comes back as it was. Contract: what cannot
be such a file is refused; checkpoints read it like any other."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zipasr.checkpoint import CHECKSUMS, FORMAT_VERSION, CheckpointFolder, write_folder
from zipasr.eight_bit import from_eight_bits, is_in_eight_bits, to_eight_bits
from zipasr.errors import CheckpointError


@given(seed=st.integers(0, 999), shape=st.sampled_from([(3, 32), (1, 40), (5, 8, 3, 3)]), exponent=st.integers(-30, 30))
def test_a_weight_is_off_by_half_a_step_of_its_row(seed: int, shape: tuple[int, ...], exponent: int) -> None:
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weights[0] *= 1000.0  # each row has its own scale
    (back,) = from_eight_bits(to_eight_bits({"w": weights})).values()
    error_R, largest_R = (back - weights).flatten(1).abs().amax(1), weights.flatten(1).abs().amax(1)
    assert (error_R <= largest_R / 254 * 1.0001).all()
    assert back.shape == weights.shape and back.dtype == torch.float32


def test_everything_but_large_matrices_stays_as_it_is() -> None:
    kept = {
        "bias": torch.randn(200),
        "scale": torch.tensor(0.3),
        "filters": torch.randn(64, 1, 15),
        "count": torch.arange(64).reshape(2, 32),
    }
    stored = to_eight_bits({**kept, "w": torch.zeros(2, 40)})
    assert not is_in_eight_bits(to_eight_bits(kept)) and is_in_eight_bits(stored)
    assert stored["w"].dtype == torch.int8
    back = from_eight_bits(stored)
    assert list(back) == [*kept, "w"]
    assert all(torch.equal(back[name], tensor) for name, tensor in {**kept, "w": torch.zeros(2, 40)}.items())


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="w must be finite, but is not"):
        to_eight_bits({"w": torch.full((2, 40), torch.inf)})


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"w/scale": torch.ones(2)}, "is missing"),
        ({"w/scale": torch.ones(2), "w": torch.ones(2, 40)}, r"is \(2, 40\) of torch.float32"),
        ({"w/scale": torch.ones(3), "w": torch.ones(2, 40, dtype=torch.int8)}, r"is \(2, 40\) of torch.int8"),
    ],
)
def test_scales_without_their_rows_are_refused(tensors: dict[str, torch.Tensor], found: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"w must be int8.*{found}"):
        from_eight_bits(tensors)
    folder = write_folder(tmp_path / "m", documents={}, tensors={"x.safetensors": tensors}, blobs={})
    with pytest.raises(CheckpointError, match=f"x.safetensors is damaged: w must be int8.*{found}"):
        CheckpointFolder(folder).tensors("x.safetensors")


def test_a_reader_of_single_tensors_refuses_eight_bits(tmp_path: Path) -> None:
    stored = to_eight_bits({"w": torch.ones(2, 40)})
    folder = write_folder(tmp_path / "m", documents={}, tensors={"x.safetensors": stored}, blobs={})
    torch.testing.assert_close(CheckpointFolder(folder).tensors("x.safetensors")["w"], torch.ones(2, 40))
    versions = json.loads((folder / CHECKSUMS).read_text())["version"], FORMAT_VERSION
    assert versions == (2, 2), "older programs ask for an upgrade"
    with pytest.raises(CheckpointError, match="must have its weights in full, but has them in eight bits"):
        CheckpointFolder(folder).open_tensors("x.safetensors")
