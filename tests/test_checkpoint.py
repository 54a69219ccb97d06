"""Checkpoint folders. Contract: what is written comes back; damage is refused; a failed write loses nothing."""

import dataclasses
import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.forked import Forked
from tests.tiny_model import noise, save_tiny, tiny_asr_model, tiny_tokenizer
from tests.watchdog import WATCHDOG_S
from zipasr import checkpoint
from zipasr.checkpoint import CheckpointFolder, write_folder, write_text
from zipasr.errors import CheckpointError, ConfigError
from zipasr.model import AsrModel, tiny
from zipasr.recognizer import Recognizer

DOCUMENTS = {"config.json": {"name": "Zürich", "numbers": [1, 2.5, None]}}
TENSORS = {
    "model.safetensors": {
        "a": torch.arange(6.0).reshape(2, 3),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
    }
}
BLOBS = {"tokenizer.model": bytes(range(256))}


def write(folder: Path, value: int = 0) -> Path:
    return write_folder(folder, documents={**DOCUMENTS, "value.json": value}, tensors=TENSORS, blobs=BLOBS)


def assert_whole(folder: Path, value: int = 0) -> None:
    files = CheckpointFolder(folder)
    assert files.document("config.json") == DOCUMENTS["config.json"]
    assert files.document("value.json") == value
    assert files.blob("tokenizer.model") == BLOBS["tokenizer.model"]
    tensors = files.tensors("model.safetensors")
    assert tensors.keys() == TENSORS["model.safetensors"].keys()
    for name, tensor in TENSORS["model.safetensors"].items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_round_trip_and_overwrite(tmp_path: Path) -> None:
    assert write(tmp_path / "deep" / "model") == tmp_path / "deep" / "model"
    assert_whole(tmp_path / "deep" / "model")
    write(tmp_path / "deep" / "model", value=7)
    assert_whole(tmp_path / "deep" / "model", value=7)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    names = {"config.json", "value.json", "model.safetensors", "tokenizer.model"}
    assert set(CheckpointFolder(tmp_path / "deep" / "model").names()) == names


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    file = write(tmp_path / "model") / name
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.unlink()
    files = CheckpointFolder(tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"{name} (is damaged|cannot be read)"):
        files.blob(name)
    assert files.document("value.json") == 0


def test_damaged_or_missing_checksums(tmp_path: Path) -> None:
    checksums = write(tmp_path / "model") / checkpoint.CHECKSUMS
    content = checksums.read_text()
    for text in (content[: len(content) // 2], "{}", "[]", "3", "[" * 100_000, json.dumps({"sha256": 5, "version": 1})):
        checksums.write_text(text)
        with pytest.raises(CheckpointError, match=r"checksums.json is damaged"):
            CheckpointFolder(tmp_path / "model")
    checksums.write_text(content.replace('"version": 1', '"version": 99'))
    with pytest.raises(
        CheckpointError, match=r"must have checkpoint format 2 or older, but has format 99, which zipasr .* wrote"
    ):
        CheckpointFolder(tmp_path / "model")
    checksums.unlink()
    with pytest.raises(CheckpointError, match="has none"):
        CheckpointFolder(tmp_path / "model")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        CheckpointFolder(tmp_path / "nowhere")


def test_unknown_file_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must hold nothing.json, but holds config.json"):
        CheckpointFolder(write(tmp_path / "model")).blob("nothing.json")


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", documents={}, tensors={}, blobs={"model.safetensors": b"something else"})
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        CheckpointFolder(tmp_path / "model").tensors("model.safetensors")


@pytest.mark.parametrize("failing_file", range(5))
def test_full_disk_loses_nothing(tmp_path: Path, failing_file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model")
    num_written = 0

    def fsync(descriptor: int) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > failing_file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="the disk is full; earlier checkpoints are untouched"):
        write(tmp_path / "model", value=1)
    monkeypatch.undo()
    assert_whole(tmp_path / "model", value=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_swap_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model")
    rename = Path.rename

    def rename_unless_new(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_unless_new)
    with pytest.raises(CheckpointError, match="could not write checkpoint"):
        write(tmp_path / "model", value=1)
    assert_whole(tmp_path / "model", value=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_full_disk_at_the_first_checkpoint_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        write(tmp_path / "model")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not write checkpoint"):
        write(tmp_path / "file" / "model")


def write_again_and_again(folder: str) -> None:
    for value in range(10**6):
        tensors = {"t": torch.full((200_000,), float(value))}
        write_folder(folder, documents={"v.json": value}, tensors={"m.safetensors": tensors}, blobs={})
        print(value, flush=True)


def test_killed_while_writing(tmp_path: Path) -> None:
    """Whenever the process dies, the folder is one of the complete ones written, or the previous one, set aside."""
    for attempt in range(3):
        folder = tmp_path / str(attempt) / "model"
        process = Forked(write_again_and_again, str(folder), cwd=tmp_path, environment={})
        assert process.first_line() == "0"
        time.sleep(0.02 * attempt + 0.013)
        process.kill()
        assert process.wait(WATCHDOG_S) == -signal.SIGKILL
        # Killed between the two renames: the new folder is not yet in place and the old one not yet deleted.
        (whole,) = [folder] if folder.exists() else folder.parent.glob(".model.old-*")
        files = CheckpointFolder(whole)
        assert files.tensors("m.safetensors")["t"].unique().tolist() == [files.document("v.json")]


def test_model_round_trip(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    model, tokenizer = AsrModel.load(folder)
    original = tiny_asr_model()
    assert model.config == original.config
    assert not model.training
    assert tokenizer.pieces == tiny_tokenizer().pieces
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    found = Recognizer(model, tokenizer).transcribe(noise(0.5))
    assert found == Recognizer(original, tiny_tokenizer()).transcribe(noise(0.5))


def test_model_with_a_misspelled_key(tmp_path: Path) -> None:
    documents, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    documents["config.json"]["encoder"]["chanels"] = documents["config.json"]["encoder"].pop("channels")
    write_folder(tmp_path / "model", documents=documents, tensors=tensors, blobs=blobs)
    with pytest.raises(CheckpointError, match=r"encoder\.chanels; did you mean channels"):
        AsrModel.load(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_a_configuration_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    _, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    write_folder(tmp_path / "model", documents={}, tensors=tensors, blobs=blobs | {"config.json": content})
    with pytest.raises(CheckpointError, match=r"config\.json must be JSON, but is not: "):
        AsrModel.load(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 10**11},  # more memory than any machine has
        {"vocab_size": 2**62},  # more than 64 bits can count
    ],
)
def test_a_model_larger_than_the_memory(tmp_path: Path, change: dict[str, int]) -> None:
    documents, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    write_folder(
        tmp_path / "model", documents={"config.json": documents["config.json"] | change}, tensors=tensors, blobs=blobs
    )
    with pytest.raises(CheckpointError, match=r"config\.json must describe a model that this machine can hold, but: "):
        AsrModel.load(tmp_path / "model")


def test_model_whose_weights_do_not_fit(tmp_path: Path) -> None:
    documents, tensors, blobs = tiny_asr_model().to_files(tiny_tokenizer())
    weights = dict(tensors["model.safetensors"])
    weights["nonsense"] = weights.pop("ctc.output.bias")
    weights["ctc.output.weight"] = torch.zeros(2, 3)
    write_folder(tmp_path / "model", documents=documents, tensors={"model.safetensors": weights}, blobs=blobs)
    with pytest.raises(CheckpointError, match="does not match its configuration") as caught:
        AsrModel.load(tmp_path / "model")
    for part in ("ctc.output.bias is missing", "nonsense is unknown", "ctc.output.weight must be ("):
        assert part in str(caught.value)


def test_model_with_another_tokenizer(tmp_path: Path) -> None:
    model = AsrModel(dataclasses.replace(tiny(), vocab_size=77))
    with pytest.raises(ConfigError, match="the tokenizer must have the model's 77 entries, but has"):
        model.save(tmp_path / "model", tiny_tokenizer())


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        write(path, content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "search.json").write_text("before")
    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(
        CheckpointError, match=r"search\.json cannot be written: No space left on device; check permissions and space"
    ):
        write_text(tmp_path / "search.json", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("search.json", "before")]
