"""Devices, threads and precision. Contract: a device name gives a device or an error message. Law: the fast matrix product
is the exact one; settings of a block are restored after it."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest
import torch

from zipasr import device
from zipasr.device import (
    DTYPES,
    SMALL_MODEL_PARAMETERS,
    arithmetic,
    check_precision,
    configure_threads,
    fast_matmul,
    select_device,
    split_threads,
)
from zipasr.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Fake the devices of this machine."""
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
    assert select_device("cuda:01") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="cuda:2 was requested, but there are 2"):
        select_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "abacus", "CPU", "cuda:x", "cpu:0", "cpu:", "mps:", "cuda:", "cuda:²"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"must be auto, cpu, cuda, cuda:N or mps, but is {name!r}"):
        select_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_device_that_is_not_there(machine: dict[str, bool], name: str) -> None:
    with pytest.raises(ConfigError, match=f"device {name} was requested, but this machine has none"):
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


@pytest.mark.parametrize("is_training", [False, True])
def test_precision_that_a_device_cannot_compute_in_is_refused(is_training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.get_rng_state()
    for name in ("float32", "bfloat16", "float16"):
        check_precision(name, CPU, is_training=is_training)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ConfigError, match="tf32 needs an NVIDIA GPU, Ampere or newer, but the device is cpu; use float32"):
        check_precision("tf32", CPU, is_training=is_training)
    with pytest.raises(ConfigError, match="precision must be one of float32, tf32, bfloat16, float16, but is 'double'"):
        check_precision("double", CPU, is_training=is_training)

    def unable(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Half is not implemented here\nat line 3")

    monkeypatch.setattr(torch, "autocast", unable)
    check_precision("float32", CPU, is_training=is_training)
    verb = "train" if is_training else "compute"
    with pytest.raises(ConfigError, match=rf"float16 .* cpu cannot {verb} in it \(Half is not implemented here\)"):
        check_precision("float16", CPU, is_training=is_training)


@pytest.mark.parametrize(("capability", "is_able"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_needs_ampere(capability: tuple[int, int], is_able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with nullcontext() if is_able else pytest.raises(ConfigError, match="but the device is cuda:1"):
        check_precision("tf32", torch.device("cuda:1"))


def test_float32_is_no_tf32_on_a_gpu_and_what_was_set_before_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # asks for the GPU
    flags = lambda: (matmul.allow_tf32, convolution.allow_tf32)  # noqa: E731
    at_first = flags()
    try:
        for matmul.allow_tf32, convolution.allow_tf32 in ((False, True), (True, False)):
            before = flags()
            for precision, is_rounded in (("float32", False), ("tf32", True), ("bfloat16", False)):
                with suppress(KeyError), arithmetic(precision, gpu):
                    assert flags() == (is_rounded, is_rounded)
                    raise KeyError
                assert flags() == before
                with arithmetic(precision, CPU):
                    assert flags() == before
    finally:
        matmul.allow_tf32, convolution.allow_tf32 = at_first


def test_arithmetic_rounds_products_in_half_precision() -> None:
    x = torch.randn(4, 4)
    for precision, dtype in DTYPES.items():
        with arithmetic(precision, CPU):
            assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


@pytest.fixture
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three threads, and no settings of the user."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(
    ("asked", "variable", "num_parameters", "expected"),
    [
        (None, None, SMALL_MODEL_PARAMETERS - 1, 1),
        (None, None, SMALL_MODEL_PARAMETERS, 3),
        (None, "3", 1, 3),
        (2, None, 1, 2),
        (2, "3", SMALL_MODEL_PARAMETERS, 2),
    ],
)
def test_threads(
    asked: int | None, variable: str | None, num_parameters: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert configure_threads(asked, num_parameters=num_parameters) == expected
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("num_threads", [0, -1, 1025, 10**30])
def test_threads_out_of_range(num_threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads must be from 1 to 1024, but is {num_threads}"):
        configure_threads(num_threads, num_parameters=1)
    with pytest.raises(ConfigError, match="threads must be from 1 to 1024"):
        split_threads(num_threads, num_readers=0, device=CPU)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("num_threads", "num_readers", "kind", "expected"),
    [
        (1, 2, "cpu", (1, 0)),
        (3, 2, "cpu", (3, 0)),
        (4, 2, "cpu", (3, 1)),
        (16, 2, "cpu", (14, 2)),
        (16, 0, "cpu", (16, 0)),
        (1, 2, "cuda", (1, 0)),
        (2, 2, "cuda", (1, 1)),
        (8, 2, "cuda", (6, 2)),
    ],
)
def test_threads_are_shared_with_readers(num_threads: int, num_readers: int, kind: str, expected: tuple[int, int]) -> None:
    assert split_threads(num_threads, num_readers=num_readers, device=torch.device(kind)) == expected
