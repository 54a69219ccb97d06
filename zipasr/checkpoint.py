"""The folder format of checkpoints: JSON documents, safetensors and plain files under one list of checksums.

A folder is written next to its destination and then renamed, so that it exists completely or not at all. `checksums.json`
holds the SHA-256 of every file, and a file that does not match is refused. Nothing in it can run code when loaded. A folder
that a training run writes checkpoints into is locked against other processes.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from zipasr import __version__
from zipasr.config import from_json
from zipasr.eight_bit import from_eight_bits, is_in_eight_bits
from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.folder_swap import beside, replace_folder, sync_folder
from zipasr.lfs import HEAD_BYTES, refuse_pointer
from zipasr.lines import parse_json, replacing

T = TypeVar("T")

CHECKSUMS = "checksums.json"
FORMAT_VERSION = 2
"""Version of folders with weights in eight bits; all others have version 1, which older programs read too."""
CHECKPOINTS_SUBFOLDER = "checkpoints"
"""Folder of the training checkpoints inside the folder of a run."""
LOCK_FILE = ".lock"
_ORPHANS_LIVE_S = 15.0  # torch's data readers check every 5 s whether their parent is alive
logger = logging.getLogger(__name__)


def write_folder(
    folder: str | os.PathLike[str],
    *,
    documents: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    blobs: Mapping[str, bytes],
    replaceable: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint folder atomically, replacing an existing one.

    Args:
        folder: path of the folder.
        documents: file name -> JSON value.
        tensors: file name -> named tensors, stored as safetensors.
        blobs: file name -> content.
        replaceable: file name -> content of files without a checksum, which others replace later (`write_text`).
    Returns:
        The path of the folder.
    Raises:
        CheckpointError: the disk is full or the path is not writable; an existing checkpoint is untouched.
        ConfigError: the folder has no name of its own (`.`, `..`).
    """
    folder = Path(folder)
    partial = beside(folder, "partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        texts = {name: json.dumps(value, indent=1, ensure_ascii=False) for name, value in documents.items()}
        files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}  # paths may not be UTF-8
        files.update(blobs)
        checksums = {name: _write_file(partial / name, content) for name, content in files.items()}
        for name, named in tensors.items():
            contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
            checksums[name] = _write_file(partial / name, safetensors.torch.save(contiguous))
        for name, content in (replaceable or {}).items():
            _write_file(partial / name, content)
        version = FORMAT_VERSION if any(map(is_in_eight_bits, tensors.values())) else 1
        index = {"format": "zipasr", "version": version, "written_by": __version__, "sha256": checksums}
        _write_file(partial / CHECKSUMS, json.dumps(index, indent=1).encode())
        sync_folder(partial)
        replace_folder(partial, folder)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise CheckpointError(
            f"could not write checkpoint {folder}: {reason}; earlier checkpoints are untouched. "
            "Free some space or choose another folder, then run the same command again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def write_text(path: Path, text: str | bytes) -> Path:
    """Write a separate file, such as a calibration, into a model folder; atomically, and without a checksum.

    Raises CheckpointError if it cannot be written; nothing is left of it then.
    """
    try:
        with replacing(path, follows_links=False) as partial:
            partial.write_bytes(text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}; check permissions and space") from error
    return path


class CheckpointFolder:
    """Reader of a folder written by `write_folder`; checks each file against its checksum."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        index_path = self.path / CHECKSUMS
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path} must be a checkpoint folder, but there is no such folder")
        if not index_path.is_file():
            raise CheckpointError(
                f"{self.path} must be a checkpoint folder with a {CHECKSUMS}, but has none; it was not written by "
                "zipasr or not completely"
            )
        try:
            content = index_path.read_bytes()
            refuse_pointer(content, index_path, CheckpointError)
            index = parse_json(content)
            self._sha256: dict[str, str] = dict(index["sha256"])
            version = int(index["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index_path} is damaged ({error}); use another checkpoint") from error
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{self.path} must have checkpoint format {FORMAT_VERSION} or older, but has format {version}, which zipasr "
                f"{index.get('written_by', '(unknown)')} wrote; this is {__version__}: upgrade"
            )
        self.has_eight_bits = version == FORMAT_VERSION

    def names(self) -> list[str]:
        """Names of the files in the folder."""
        return list(self._sha256)

    def blob(self, name: str) -> bytes:
        """The verified content of one file.

        Raises:
            CheckpointError: the file is missing, cut short or changed.
        """
        with self._open(name) as file:
            content = file.read()
        self._verify(name, hashlib.sha256(content).hexdigest())
        return content

    @contextmanager
    def _open(self, name: str) -> Iterator[BufferedReader]:
        if name not in self._sha256:
            raise CheckpointError(f"{self.path} must hold {name}, but holds {', '.join(self._sha256)}")
        try:
            with (self.path / name).open("rb") as file:
                refuse_pointer(file.peek(HEAD_BYTES), self.path / name, CheckpointError)
                yield file
        except OSError as error:
            raise CheckpointError(f"{self.path / name} cannot be read: {error}") from error

    def _verify(self, name: str, sha256: str) -> None:
        if sha256 != self._sha256[name]:
            raise CheckpointError(
                f"{self.path / name} is damaged: its content does not match the checksum written with it; copy it again or "
                "use another checkpoint"
            )

    def checksum(self, name: str) -> str:
        """The SHA-256 of one file, which is verified in pieces, so that memory never holds all of it.

        Raises:
            CheckpointError: as for `blob`.
        """
        with self._open(name) as file:
            self._verify(name, found := hashlib.file_digest(file, "sha256").hexdigest())
        return found

    def document(self, name: str) -> Any:
        """The JSON value of one file.

        Raises:
            CheckpointError: as for `blob`, or the file is no JSON.
        """
        content = self.blob(name)
        try:
            return parse_json(content)
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} must be JSON, but is not: {error}; use another checkpoint") from error

    def config(self, cls: type[T], name: str) -> T:
        """The configuration of type `cls` in one JSON file.

        Raises:
            CheckpointError: as for `blob`, or the file holds another configuration.
        """
        try:
            return from_json(cls, self.document(name), where=f"{self.path / name}")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The named tensors of one safetensors file, on the CPU; those in eight bits as float32."""
        try:
            return from_eight_bits(safetensors.torch.load(self.blob(name)))
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{self.path / name} is not a safetensors file: {error}") from error
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def open_tensors(self, name: str) -> Any:
        """One safetensors file to read tensor by tensor: `keys()` and `get_tensor(key)`, on the CPU.

        The checksum is verified in pieces, so that memory holds no more than the tensors asked for.

        Raises:
            CheckpointError: as for `blob`, or its weights are in eight bits.
        """
        self.checksum(name)
        try:
            opened = safetensors.safe_open(self.path / name, framework="pt")
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{self.path / name} is not a safetensors file: {error}") from error
        if is_in_eight_bits(opened.keys()):
            raise CheckpointError(
                f"{self.path / name} must have its weights in full, but has them in eight bits; use the model it was made of"
            )
        return opened


def build(model_class: Callable[[Any], T], config: Any, *, source: str) -> T:
    """A model of this class with a configuration that was read from the file `source`.

    Raises:
        CheckpointError: its sizes contradict each other, or are too large for the memory.
    """
    try:
        return model_class(config)
    except (ValueError, TypeError, RuntimeError) as error:  # torch raises all three for sizes that it cannot make
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{source} must describe a model that this machine can hold, but: {reason}; use another or a smaller one"
        ) from error


def load_weights(model: nn.Module, tensors: dict[str, Tensor], *, source: str) -> None:
    """Copy named tensors into a model with exactly these names and shapes.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs.
    """
    if wrong := mismatches(model, tensors):
        raise CheckpointError(f"{source} does not match its configuration: {first_few(wrong)}")
    model.load_state_dict(tensors)


def mismatches(model: nn.Module, tensors: Mapping[str, Tensor], *, shown: Callable[[str], str] = str) -> list[str]:
    """Why named tensors are not the weights of a model: a sentence for each name that is missing or unknown, or whose shape
    differs.

    Args:
        model: the model.
        tensors: the tensors under the model's names.
        shown: gives the name of a tensor in the sentences, such as that of another project.
    """
    own = model.state_dict()
    wrong = [f"{shown(name)} is missing" for name in own if name not in tensors]
    wrong += [f"{shown(name)} is unknown" for name in tensors if name not in own]
    return wrong + [
        f"{shown(name)} must be {tuple(own[name].shape)}, but is {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]


def first_few(texts: Sequence[str], most: int = 5, *, separator: str = "; ") -> str:
    """The first `most` texts, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def checkpoint_folders(run_folder: Path) -> dict[int, Path]:
    """Training checkpoints of a run by number of steps, oldest first."""
    return numbered_folders(run_folder / CHECKPOINTS_SUBFOLDER)


def numbered_folders(parent: Path) -> dict[int, Path]:
    """The folders batch-N inside a folder by N, in ascending order."""
    found = {}
    for path in parent.glob("batch-*"):
        match = re.fullmatch(r"batch-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def clean_up(parent: str | os.PathLike[str], *, name: str | None = None) -> list[str]:
    """Clean up after killed writers in a folder of checkpoints: delete incomplete checkpoints, restore replaced ones.

    Call it only from the sole writer of the folder, or of the checkpoint `name` in it, and not while it writes.

    Returns:
        A sentence about each restored folder.
    """
    restored = []
    for path in sorted(Path(parent).glob(".*.*-*")):
        match = re.fullmatch(r"\.(.+)\.(partial|old)-\d+", path.name)
        if match is None or not path.is_dir() or name not in (None, match.group(1)):
            continue
        folder = path.with_name(match.group(1))
        if match.group(2) == "old" and not folder.exists():  # killed between the two renames that replace it
            path.rename(folder)
            restored.append(f"{folder} was being replaced when its writer was killed; the previous one is restored")
        else:
            shutil.rmtree(path, ignore_errors=True)
    return restored


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Context manager: create the folder `out` if missing, and lock it against other training processes (not on Windows).

    In it and its subfolders, incomplete checkpoints of a killed run are cleaned up.

    Raises:
        ConfigError: another process is training there.
        CheckpointError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK_FILE).open("a+", encoding="ascii")
    except OSError as error:
        raise CheckpointError(f"{out} must be a folder to write into, but: {error}") from error
    with file:
        file.seek(0)
        before = file.read()
        if not _lock(file):
            raise ConfigError(f"another process is training in {out}; wait for it, stop it, or choose another --out")
        for sentence in [*clean_up(out), *(text for path in out.iterdir() if path.is_dir() for text in clean_up(path))]:
            logger.warning("%s", sentence)
        try:
            yield
        except (ConfigError, DataError):  # a run that is refused leaves the folder as it was
            _replace_content(file, before)
            raise


def _lock(file: IO[str]) -> bool:
    """Lock a file and write the process id into it; False if another process holds the lock.

    After a run is killed, its data reading processes hold the lock for some seconds, until they notice. This function
    therefore waits if the process that locked the file is dead.
    """
    try:
        import fcntl
    except ImportError:
        return True
    deadline = time.monotonic() + _ORPHANS_LIVE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            if _is_alive(file.read()) or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            _replace_content(file, str(os.getpid()))
            return True


def _replace_content(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _is_alive(pid: str) -> bool:
    """Whether a process with this id exists on this machine; True if it is not a number."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True


def _write_file(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()
