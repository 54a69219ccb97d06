"""Contract: a path that is no checkpoint of others is refused with what to give instead, and never as a bug."""

from pathlib import Path

import pytest

from tests.hub.published_layouts import icefall_folder, model_of
from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import find_local, inspect_model
from zipasr.model import WEIGHTS_FILE, resolve_model_folder
from zipasr.tokenizer import MODEL_FILE


@pytest.mark.parametrize("name", [WEIGHTS_FILE, MODEL_FILE, "config.json", "checksums.json"])
def test_a_file_of_a_model_folder_of_ours(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"give the folder: {folder}$"):
        find_local(folder / name)
    with pytest.raises(CheckpointError, match=f"give its folder: {folder}$"):
        resolve_model_folder(folder / name)
    assert str(folder) in inspect_model(folder / name).refused


def test_a_checkpoint_of_others_below_a_model_folder_of_ours(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "data")  # whose files are listed, since vocabularies may be there
    icefall_folder(folder, model_of(tiny_tokenizer().vocab_size), tiny_tokenizer().to_bytes(), "lang_bpe_48/bpe.model")
    root, files = find_local(folder / "exp" / "pretrained.pt", needs_vocabulary=False)
    assert (root / files.checkpoint).samefile(folder / "exp" / "pretrained.pt")


def test_a_graph_is_used_by_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(ConfigError, match=f"is an ONNX graph.* give the folder, {tmp_path}$"):
        find_local(path)
    with pytest.raises(CheckpointError, match=f"give its folder: {tmp_path}$"):
        resolve_model_folder(path)


@pytest.mark.parametrize(
    ("name", "content"), [("kw.txt", b"HELLO WORLD\n"), ("x.arpa", b"\\data\\\nngram 1=4\n"), ("empty", b"")]
)
def test_a_file_that_is_no_checkpoint(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"must be a checkpoint .* but is another file"):
        find_local(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [("model.pt", b""), ("epoch", b"PK\x03\x04"), ("weights.bin", b"\x80\x02}")])
def test_a_checkpoint_by_its_name_or_content(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert Path(find_local(tmp_path / name, needs_vocabulary=False)[1].checkpoint).name == name


def test_a_model_of_the_package_needs_no_conversion() -> None:
    with pytest.raises(ConfigError, match="zipasr pull commands --out DIR"):
        find_local(Path("commands"))
