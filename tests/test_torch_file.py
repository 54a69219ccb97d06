"""Contract: tensors and plain values are read from other people's files; code in them does not run; damaged files of every
kind are refused with the cure."""

import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zipasr.errors import CheckpointError
from zipasr.torch_file import read_torch_file

TENSOR = torch.arange(300.0)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def save(content: Any, path: Path, is_archive: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    return path


@pytest.mark.parametrize("is_archive", [True, False])
def test_tensors_and_harmless_values(tmp_path: Path, is_archive: bool) -> None:
    content = {"model": {"a": TENSOR}, "lr": 0.5, "names": ["x", None], "dir": Path("a/b"), "version": torch.__version__}
    found = read_torch_file(save(content, tmp_path / "a.pt", is_archive))
    assert torch.equal(found.pop("model")["a"], TENSOR)
    assert found.pop("dir").parts == ("a", "b")
    assert found == {"lr": 0.5, "names": ["x", None], "version": str(torch.__version__)}
    assert type(found["version"]) is str


def test_safetensors_by_content_or_by_name(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.pt"):
        save_file({"a": TENSOR}, tmp_path / name)
        assert torch.equal(read_torch_file(tmp_path / name)["a"], TENSOR)


@pytest.mark.parametrize("is_archive", [True, False])
def test_code_runs_only_if_trusted(tmp_path: Path, is_archive: bool, caplog: pytest.LogCaptureFixture) -> None:
    made = tmp_path / "made"
    path = save({"a": TENSOR, "hook": Hostile(made)}, tmp_path / "a.pt", is_archive)
    with pytest.raises(CheckpointError, match=r"than tensors and plain values \((posix|nt)\.mkdir\)") as error:
        read_torch_file(path)
    assert "pretrained.pt" in str(error.value) and "trust_pickle=True" in str(error.value)
    assert not made.exists()
    assert "because it is trusted" not in caplog.text
    assert torch.equal(read_torch_file(path, trust_pickle=True)["a"], TENSOR)
    assert made.exists()
    assert "mkdir), because it is trusted" in caplog.text


@pytest.mark.parametrize("value", [np.float64(1.0), torch.nn.Linear(1, 1), types.SimpleNamespace(a=1)])
def test_what_is_not_known_to_be_harmless_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        read_torch_file(save({"a": TENSOR, "more": value}, tmp_path / "a.pt"))


def test_list_of_harmless_types_is_not_left_behind(tmp_path: Path) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    read_torch_file(save({"a": TENSOR, "dir": Path("a")}, tmp_path / "a.pt"))
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_code_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("absent_package")
    module.Sampler = type("Sampler", (), {"__module__": "absent_package"})  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "absent_package", module)
        path = save({"a": TENSOR, "sampler": module.Sampler()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"plain values \(absent_package\.Sampler\)"):
        read_torch_file(path)
    with pytest.raises(CheckpointError, match=r"needs Python code that is not here .*absent_package"):
        read_torch_file(path, trust_pickle=True)


def test_old_torch_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = save({"a": TENSOR}, tmp_path / "a.pt")
    read_torch_file(path)
    assert "hole" not in caplog.text
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    read_torch_file(path)
    assert "torch 2.9.1+cpu has a vulnerability in its safe loading" in caplog.text


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript_is_refused_with_the_cure(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "jit_script.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript .* use the pretrained\.pt or epoch-N\.pt"):
        read_torch_file(tmp_path / "jit_script.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (b"this is no checkpoint", "cut short or damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\x10\0\0\0\0\0\0\0{", "cut short or damaged"),
        (b"PK\3\4 and nothing more", "cut short or damaged"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_torch_file(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.pt must be a checkpoint file, but there is no such file"):
        read_torch_file(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="is a folder; name a file in it"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize("is_archive", [True, False])
def test_files_cut_short_anywhere(tmp_path: Path, is_archive: bool) -> None:
    content = save({"model": {"a": TENSOR}}, tmp_path / "a.pt", is_archive).read_bytes()
    for length in range(0, len(content) - 1, max(1, len(content) // 40)):
        (tmp_path / "cut.pt").write_bytes(content[:length])
        # A truncated name is an unknown name.
        with pytest.raises(
            CheckpointError, match=r"cut short or damaged|plain values \((torch|collections)\.[\w.]*\)"
        ) as error:
            read_torch_file(tmp_path / "cut.pt")
        assert "Re-running" not in str(error.value), "torch's advice to load it unsafely must not be passed on"


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    path = save({"model": {"a": TENSOR}}, tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[content.index(TENSOR.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum of a/data/0 does not match"):
        read_torch_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_flipped_bytes_of_the_old_format_give_a_value_or_the_right_error(tmp_path: Path) -> None:
    """The old format has no checksums: the result may be any value or the right error, but no other exception."""
    content = save({"model": {"a": TENSOR}, "dir": Path("a"), "lr": 0.5}, tmp_path / "a.pt", is_archive=False).read_bytes()
    positions = torch.randint(len(content) - 4 * len(TENSOR), (300,), generator=torch.Generator().manual_seed(0))
    num_refused = 0
    for i, position in enumerate(positions.tolist()):
        damaged = bytearray(content)
        damaged[position] ^= 1 << i % 8
        (tmp_path / "b.pt").write_bytes(damaged)
        try:
            read_torch_file(tmp_path / "b.pt")
        except CheckpointError:
            num_refused += 1
    assert num_refused > 100
