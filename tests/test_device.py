"""Devices. Contract: a name gives a device or a sentence. Law: the fast product is the exact one."""

from collections.abc import Iterator

import pytest
import torch

from zipasr import device
from zipasr.device import fast_matmul, select_device
from zipasr.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What this machine seems to have."""
    has = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has["mps"])
    return has


def test_auto_takes_the_best(machine: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device() == CPU
    machine["mps"] = True
    assert select_device("auto") == torch.device("mps")
    machine["cuda"] = True
    assert select_device("auto") == torch.device("cuda")
    assert select_device("cpu") == CPU
    assert select_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="cuda:2 was asked for, but there are 2"):
        select_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "abacus", "CPU", "cuda:x", "cpu:0"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"must be auto, cpu, cuda, cuda:N or mps, but is {name!r}"):
        select_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_device_that_is_not_there(machine: dict[str, bool], name: str) -> None:
    with pytest.raises(ConfigError, match=f"device {name} was asked for, but this machine has none"):
        select_device(name)


@pytest.fixture
def _precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_fast_matmul_restores_the_setting(before: str, kind: str) -> None:
    torch.set_float32_matmul_precision(before)
    with fast_matmul(torch.device(kind)):
        inside = torch.get_float32_matmul_precision()
        if kind == "cuda" or before == "medium":
            assert inside == before
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(KeyError), fast_matmul(torch.device(kind)):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("_precision")
@pytest.mark.parametrize("is_exact", [True, False])
def test_fast_matmul_is_for_processors_where_it_is_exact(is_exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(device, "_is_onednn_exact", lambda: is_exact)
    with fast_matmul(CPU):
        assert torch.get_float32_matmul_precision() == ("medium" if is_exact else "highest")


@pytest.mark.usefixtures("_precision")
def test_fast_matmul_is_exact_to_float32() -> None:
    torch.set_float32_matmul_precision("highest")
    generator = torch.Generator().manual_seed(1)
    for n, k, m in [(7, 33, 5), (128, 512, 256), (1000, 64, 192)]:
        a, b = torch.randn(n, k, generator=generator), torch.randn(k, m, generator=generator)
        exact = a.double() @ b.double()
        with fast_matmul(CPU):
            fast = [a @ b, torch.nn.functional.linear(a, b.T), torch.bmm(a[None], b[None])[0]]
        for product in fast:
            assert product.dtype == torch.float32
            assert (product - exact).abs().max() < 1e-5 * k**0.5
