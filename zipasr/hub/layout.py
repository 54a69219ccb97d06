"""What a repository or folder holds, recognized from the names and sizes of its files alone: `recognize(listing)`.

First our own folders (a model, an export, a language model), then checkpoints of others (`hub/checkpoint_files.py`), then
ONNX graphs of others (`onnx_runtime/foreign_files.py`). Nothing is opened here; a layout says which files are needed.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zipasr.checkpoint import CHECKPOINTS_SUBFOLDER, CHECKSUMS
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.checkpoint_files import CheckpointFiles, find_checkpoint, is_below, listed
from zipasr.lm.neural import CONFIG_FILE as LM_CONFIG_FILE
from zipasr.lm.neural import WEIGHTS_FILE as LM_WEIGHTS_FILE
from zipasr.lm.ngram_file import NGRAM_FILE
from zipasr.model import CONFIG_FILE, MODEL_SUBFOLDER, WEIGHTS_FILE
from zipasr.onnx_runtime.foreign_files import GraphFiles, find_graphs
from zipasr.onnx_runtime.layout import EXPORT_FILE, Precision

MODEL, EXPORT, LANGUAGE_MODEL = "zipasr", "zipasr export", "zipasr language model"
"""Families of our own folders."""
_OWN = {
    EXPORT: (EXPORT_FILE, CHECKSUMS),
    MODEL: (CONFIG_FILE, WEIGHTS_FILE, CHECKSUMS),
    LANGUAGE_MODEL: (LM_CONFIG_FILE, LM_WEIGHTS_FILE, CHECKSUMS),
}
"""The files by which our own folders are known."""
_OWN_WEIGHTS = {EXPORT: (".onnx", NGRAM_FILE), MODEL: (WEIGHTS_FILE, NGRAM_FILE), LANGUAGE_MODEL: (LM_WEIGHTS_FILE,)}
_OWN_SMALL = (".json", ".model", ".txt", ".vocab")
_RUN_SUBFOLDERS = (CHECKPOINTS_SUBFOLDER, "best", "finetuned_from")
"""Folders of a training run with models that are not its result."""
_WEIGHTS = (".pt", ".pth", ".onnx", ".safetensors", ".bin", ".nemo", ".gguf", ".ckpt")
_MAX_FILES = 20_000


class Layout(NamedTuple):
    """What was recognized."""

    family: str
    """zipasr, zipasr export, zipasr language model, icefall, authors, soundsgoodai or onnx."""
    folder: str
    """Where the model is, for one of our own; empty: at the top."""
    fetch: tuple[str, ...]
    """The files that are needed."""
    checkpoint: CheckpointFiles | None = None
    """The files of a checkpoint of others."""
    graphs: GraphFiles | None = None
    """The files of graphs of others."""

    @property
    def is_own(self) -> bool:
        """Whether zipasr wrote the folder."""
        return self.checkpoint is None and self.graphs is None


def recognize(listing: Mapping[str, int], *, subfolder: str = "", precision: Precision = "float32") -> Layout:
    """What a repository or folder holds.

    Args:
        listing: names of all files, with / between folders -> sizes in bytes.
        subfolder: folder of the model, its checkpoint, or what the names of its graphs start with, if there are several.
        precision: that of ONNX graphs; others than float32 are taken before a checkpoint.
    Raises:
        CheckpointError: there is no model, there are several, or a file of it is missing.
        ConfigError: graphs in this precision are not there.
    """
    names = _names_for(listing, subfolder)
    own = _find_own(names, subfolder)
    if own is not None:
        if precision != "float32":
            raise ConfigError(
                f"there must be ONNX graphs of another project for {precision}, but this is a folder of zipasr, which has "
                "one precision; leave it out"
            )
        return own
    is_other = _is_of_transformers(names)
    checkpoint = None
    if precision == "float32" and not is_other:
        is_place = any(is_below(name, subfolder) for name in names)  # and not only the start of the names of graphs
        checkpoint = find_checkpoint(names, subfolder if is_place else "")
    if checkpoint is not None:
        return Layout(checkpoint.family, "", checkpoint.names, checkpoint=checkpoint)
    graphs = _find_graphs(names, subfolder, precision)
    if graphs is not None:
        fetch = (*graphs.graphs().values(), graphs.tokens, graphs.vocabulary, graphs.keywords, *graphs.data)
        return Layout("onnx", "", tuple(dict.fromkeys(name for name in fetch if name)), graphs=graphs)
    if precision != "float32":
        raise ConfigError(f"there must be ONNX graphs in {precision}, but there are none; leave the precision out")
    raise CheckpointError(
        "there must be a Zipformer (a folder of zipasr, a checkpoint such as exp/pretrained.pt with its vocabulary, or ONNX "
        f"graphs), but there {_what_is_there(names)}{', as models of transformers have them' if is_other else ''}; see the "
        "known ones with: zipasr models"
    )


def listing_of(folder: str | os.PathLike[str]) -> dict[str, int]:
    """The files of a local folder, with / between folders -> sizes in bytes; hidden folders are left out.

    Raises:
        CheckpointError: there is no such folder, or it has more files than a model has.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CheckpointError(f"{root} must be the folder of a model, but there is no such folder; check the path")
    sizes: dict[str, int] = {}
    for place, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths = [Path(place) / name for name in sorted(names)]
        sizes |= {path.relative_to(root).as_posix(): path.stat().st_size for path in paths if path.is_file()}
        if len(sizes) > _MAX_FILES:
            raise CheckpointError(
                f"{root} must be the folder of a model, but has more than {_MAX_FILES} files; name its own"
            )
    return sizes


def _names_for(listing: Mapping[str, int], subfolder: str) -> list[str]:
    """The names of files, without weights outside the subfolder: vocabularies may be there.

    Raises:
        CheckpointError: there is no such subfolder.
    """
    inside = [name for name in listing if _is_chosen(name, subfolder)]
    if subfolder and not inside:
        folders = sorted(
            {str(PurePosixPath(name).parent) for name in listing if name.endswith(_WEIGHTS) and not name.startswith("data/")}
            - {"."}
        )
        has = f"it has {listed(folders)}" if folders else "its model is at the top: leave #… out"
        raise CheckpointError(f"{subfolder} must be a folder or a file of the repository, but is not there; {has}")
    return [*inside, *(name for name in listing if name not in set(inside) and not name.endswith(_WEIGHTS))]


def _is_chosen(name: str, subfolder: str) -> bool:
    is_graph_of_it = name.endswith(".onnx") and name.startswith(tuple(subfolder + mark for mark in "-_."))
    return is_below(name, subfolder) or is_graph_of_it


def _find_own(names: Collection[str], subfolder: str) -> Layout | None:
    """Our own folder: at the top, in `model/` of a training run, or the only one further down.

    Raises:
        CheckpointError: there are several further down.
    """
    there = set(names)
    top = PurePosixPath(subfolder or ".")
    folders = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == CHECKSUMS]
    found = {
        folder: family
        for folder in folders
        for family, marks in _OWN.items()
        if folder.is_relative_to(top) and all(str(folder / mark) in there for mark in marks)
    }
    best = next((folder for folder in (top, top / MODEL_SUBFOLDER) if folder in found), None)
    if best is None:
        others = [folder for folder in found if not set(_RUN_SUBFOLDERS) & set(folder.parts)]
        if not others:
            return None
        best = others[0]
        if len(others) > 1:
            raise CheckpointError(
                f"there must be one model, but there are {len(others)}, in {listed(sorted(map(str, others)))}; choose one "
                f"with its folder: hf:OWNER/NAME#{min(map(str, others))}"
            )
    inside = [name for name in names if PurePosixPath(name).parent == best]
    needed = (*_OWN_SMALL, *_OWN_WEIGHTS[found[best]])
    folder = "" if best == PurePosixPath(".") else str(best)
    return Layout(found[best], folder, tuple(sorted(name for name in inside if name.endswith(needed))))


def _find_graphs(names: Collection[str], subfolder: str, precision: Precision) -> GraphFiles | None:
    try:
        return find_graphs(names, precision=precision)
    except CheckpointError as error:
        if subfolder:
            raise
        raise CheckpointError(
            f"{error}. On the hub, choose with the folder, or the start of the names: hf:OWNER/NAME#START"
        ) from error


def _is_of_transformers(names: Collection[str]) -> bool:
    """Whether files are those of a model of the package transformers, which are named like ours and those of others."""
    there = set(names)
    return {CONFIG_FILE, WEIGHTS_FILE} <= there and CHECKSUMS not in there and "config.yaml" not in there


def _what_is_there(names: Collection[str]) -> str:
    """The files of a repository in a few words, those with weights first."""
    shown = sorted(names, key=lambda name: (not name.endswith(_WEIGHTS), name))
    return f"are {listed(shown)}" if shown else "are no files"
