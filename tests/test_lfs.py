"""Contract: a Git LFS pointer in place of any file that we open is named as such, with the path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zipasr
from tests.tiny_model import save_tiny, tiny_tokenizer
from zipasr.audio import load_audio
from zipasr.checkpoint import CheckpointFolder
from zipasr.cli.transcribe import _listed
from zipasr.data.manifest_index import open_cuts
from zipasr.errors import ZipasrError
from zipasr.hub import open_tokenizer
from zipasr.lines import read_lines
from zipasr.lm.arpa import read_arpa
from zipasr.prepare.corpora import iterate_array
from zipasr.recognizer.file_alignment import read_text
from zipasr.search.hotwords import read_hotwords
from zipasr.tokenizer import Tokenizer
from zipasr.torch_file import read_torch_file

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 12345\n"

OPENERS: dict[str, Callable[[Path], Any]] = {
    "call.wav": load_audio,
    "list.txt": lambda path: _listed(str(path)),
    "WenetSpeech.json": lambda path: list(iterate_array(path, "audios")),
    "call.mp3": load_audio,
    "model.safetensors": read_torch_file,
    "pretrained.pt": read_torch_file,
    "cuts.jsonl": open_cuts,
    "cuts.jsonl.gz": open_cuts,
    "rows.jsonl": lambda path: list(read_lines(path)),
    "rows.jsonl.gz": lambda path: list(read_lines(path)),
    "words.arpa": read_arpa,
    "words.arpa.gz": read_arpa,
    "bpe.model": lambda path: open_tokenizer(str(path)),
    "tokens.txt": Tokenizer.from_tokens,
    "tokenizer.model": lambda path: Tokenizer.load(path.parent),
    "call.txt": read_text,
    "hotwords.txt": read_hotwords,
    "checksums.json": lambda path: CheckpointFolder(path.parent),
}


@pytest.mark.parametrize("name", OPENERS)
def test_a_pointer_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(POINTER)
    with pytest.raises(ZipasrError, match="is only a Git LFS pointer; download the file itself") as raised:
        OPENERS[name](path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "config.json"])
def test_a_pointer_in_a_model_folder_is_named(name: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / name).write_text(POINTER)
    with pytest.raises(zipasr.CheckpointError, match="Git LFS pointer") as raised:
        zipasr.load(tmp_path / "model")
    assert name in str(raised.value)


def test_a_text_that_mentions_git_lfs_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the version https://git-lfs.github.com/spec/v1 is the first")
    assert read_text(tmp_path / "a.txt").startswith("the version")


@pytest.mark.parametrize("name", ["pretrained.pt", "bpe.model"])
def test_loading_a_file_names_the_conversion(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(tiny_tokenizer().to_bytes())
    with pytest.raises(zipasr.CheckpointError, match=r"must be a model folder, but is a file; .*zipasr convert"):
        zipasr.load(tmp_path / name)
