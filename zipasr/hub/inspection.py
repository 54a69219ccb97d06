"""What a model is and what zipasr can do with it: `inspect_model(REF or PATH)`.

Of a model on the hub that is not in the cache, only its listing and its small files are fetched; of a folder of ours, only
configuration and vocabulary are read. Checkpoints and graphs of others are opened, since only their tensors and metadata say
what they are.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zipasr import onnx_runtime
from zipasr.config import to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.built_in import built_in_folder, is_built_in
from zipasr.hub.capabilities import ABILITIES, KINDS, Capability, capabilities
from zipasr.hub.client import fetch, find_commit, list_files
from zipasr.hub.connection import Hub, open_hub
from zipasr.hub.conversion import open_checkpoint
from zipasr.hub.description import (
    ModelDescription,
    VocabularyDescription,
    describe_config,
    describe_export,
    describe_folder,
    describe_metadata,
    describe_search,
    describe_vocabulary,
)
from zipasr.hub.layout import LANGUAGE_MODEL, Layout, listing_of, recognize
from zipasr.hub.local_files import find_local
from zipasr.hub.model_table import KnownModel, find_known
from zipasr.hub.origin import read_source
from zipasr.hub.reference import Reference, is_reference, parse_reference, refuse_page
from zipasr.model import resolve_model_folder
from zipasr.onnx_runtime import GraphFiles
from zipasr.tokenizer import Tokenizer

_SMALL_BYTES = 20_000_000
"""Files up to this size are fetched to look into a model: configurations and vocabularies."""
_WEIGHTS = (".safetensors", ".onnx", ".pt", ".pth", ".data", ".weights")
_VOSK_FOLDERS = ("am-onnx", "am")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found."""

    model: str
    """The reference or the path."""
    kind: str = ""
    """One of `KINDS`, or the family of a language model; empty if no model was recognized."""
    files: Mapping[str, int] = field(default_factory=dict)
    """The files that the model needs -> sizes in bytes; all files, if none was recognized."""
    description: ModelDescription | None = None
    """What it is made of; None if that takes fetching it, or it is refused."""
    vocabulary: VocabularyDescription | None = None
    """Its labels, if they are known."""
    commit: str = ""
    """The commit of a model on the hub."""
    source: str = ""
    """The reference that the folder was made from; empty if it was not."""
    known: KnownModel | None = None
    """Its row in the table of published models."""
    refused: str = ""
    """Why zipasr cannot use it, and what to do; empty if it can."""

    @property
    def layout(self) -> str:
        """Its kind in words."""
        return KINDS[self.kind].title if self.kind in KINDS else self.kind or "no model that zipasr knows"

    @property
    def abilities(self) -> dict[str, Capability]:
        """What zipasr can do with it; empty if it was not looked into."""
        if self.refused:
            return {ability: Capability(False, self.refused) for ability in ABILITIES}
        return {} if self.description is None else capabilities(self.kind, self.description)

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON."""
        return {
            "model": self.model,
            "kind": self.kind,
            "layout": self.layout,
            "commit": self.commit or None,
            "source": self.source or None,
            "files": dict(self.files),
            "bytes": sum(self.files.values()),
            "description": to_json(self.description),
            "vocabulary": to_json(self.vocabulary),
            "known": self.known.to_dict() if self.known is not None else None,
            "abilities": {name: found._asdict() for name, found in self.abilities.items()},
            "refused": self.refused or None,
        }


def inspect_model(model: str | os.PathLike[str]) -> Inspection:
    """What a model is, and what zipasr can do with it.

    Args:
        model: a reference `hf:OWNER/NAME[@REVISION][#SUBFOLDER]`, a folder, a checkpoint file, or a model of the package.
    Raises:
        CheckpointError: there is no such file, folder, repository or revision, or the hub cannot be reached.
        ConfigError: the reference is malformed.
    """
    if is_reference(model):
        return _inspect_reference(parse_reference(model))
    if is_built_in(model):
        return replace(inspect_model(built_in_folder(os.fspath(model))), model=os.fspath(model))
    refuse_page(model)
    path = Path(model)
    if not path.exists():
        raise CheckpointError(f"{path} must be a model, but there is no such file or folder; check the path")
    try:
        root, layout = _recognize_path(path)
    except (CheckpointError, ConfigError) as error:
        files = listing_of(path) if path.is_dir() else {path.name: path.stat().st_size}
        return Inspection(model=str(path), files=files, refused=str(error))
    sizes = {name: (root / name).stat().st_size for name in layout.fetch if (root / name).is_file()}
    found = Inspection(model=str(path), kind=_kind(layout), files=sizes, source=_source(root / layout.folder))
    return _look_into(found, root, layout)


def _inspect_reference(reference: Reference) -> Inspection:
    hub = open_hub()
    commit, hub = find_commit(hub, reference)
    known = find_known(str(reference))
    if (folder := _cached(hub, reference, commit)) is not None:
        return replace(inspect_model(folder), model=str(reference), commit=commit, known=known)
    sizes = list_files(hub, reference, commit)
    found = Inspection(model=str(reference), commit=commit, known=known, files=sizes)
    try:
        layout = recognize(sizes, subfolder=reference.subfolder)
    except (CheckpointError, ConfigError) as error:
        return replace(found, refused=str(error))
    found = replace(found, kind=_kind(layout), files={name: sizes[name] for name in layout.fetch})
    if known is not None and known.refused and layout.checkpoint is not None:
        return replace(found, refused=known.refused)
    small = {name: size for name, size in found.files.items() if size <= _SMALL_BYTES and not name.endswith(_WEIGHTS)}
    paths = fetch(hub, reference, commit, small, max_bytes=len(small) * _SMALL_BYTES)
    if layout.is_own:
        root = hub.folder(reference) / "snapshots" / commit
        return _look_into(found, root, layout)
    return replace(found, vocabulary=_small_vocabulary(layout, paths))


def _look_into(found: Inspection, root: Path, layout: Layout) -> Inspection:
    """An inspection with what the files say, or with the reason why they are refused."""
    if found.kind == LANGUAGE_MODEL:
        return found
    try:
        description = _describe(root, layout)
    except (CheckpointError, ConfigError) as error:
        return replace(found, refused=str(error))
    is_first = found.kind == "onnx transducer" and description.encoder.name == "Zipformer 1"
    kind = "onnx zipformer 1" if is_first else found.kind
    return replace(found, kind=kind, description=description, vocabulary=description.vocabulary)


def _describe(root: Path, layout: Layout) -> ModelDescription:
    if layout.checkpoint is not None:
        opened = open_checkpoint(root, layout.checkpoint)
        search = "" if opened.search is None else str(opened.search.search)
        return describe_config(opened.model.config, opened.tokenizer, search=search)
    if layout.graphs is not None:
        scorer, tokenizer, _ = onnx_runtime.load_foreign(root, layout.graphs)
        return describe_export(
            scorer.config,
            tokenizer,
            search=describe_search(root),
            precision=_precisions(layout.graphs),
            encoder=describe_metadata(scorer.metadata),
        )
    return describe_folder(root / layout.folder)


def _recognize_path(path: Path) -> tuple[Path, Layout]:
    """The root and the layout of local files."""
    if path.is_dir():
        folder = path
        if not onnx_runtime.is_exported(path):
            with contextlib.suppress(CheckpointError):
                folder = resolve_model_folder(path)
        listing = listing_of(folder)
        try:
            return folder, recognize(listing)
        except CheckpointError:
            if not any(name.endswith((".pt", ".pth")) for name in listing):
                raise
    root, files = find_local(path)  # a checkpoint whose vocabulary is in a folder above
    return root, Layout(files.family, "", files.names, checkpoint=files)


def _kind(layout: Layout) -> str:
    """The kind of a layout, as far as names tell."""
    if layout.graphs is None:
        return layout.family
    graphs = layout.graphs
    if graphs.keywords is not None:
        return "keywords"
    first = (graphs.encoder or graphs.ctc or "").partition("/")[0]
    if first in _VOSK_FOLDERS:
        return "vosk"
    return "onnx ctc" if graphs.encoder is None else "onnx transducer"


def _precisions(files: GraphFiles) -> str:
    """The precision of each graph by its name; one for all if they agree."""
    marks = {"int8": r"\bint8\b", "float16": r"\bfp16\b|\bfloat16\b"}
    found = {}
    for part, name in files.graphs().items():
        found[part] = next((kind for kind, mark in marks.items() if re.search(mark, name, re.IGNORECASE)), "float32")
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{part} {precision}" for part, precision in found.items())


def _small_vocabulary(layout: Layout, paths: Mapping[str, Path]) -> VocabularyDescription | None:
    """The labels of a model whose weights are not here; None if they cannot be read without them."""
    graphs, checkpoint = layout.graphs, layout.checkpoint
    names = [graphs.vocabulary, graphs.tokens] if graphs is not None else [checkpoint.vocabulary if checkpoint else None]
    for name in names:
        try:
            if name is not None and name in paths:
                return describe_vocabulary(Tokenizer.from_file(paths[name]))
        except (CheckpointError, ConfigError):
            continue
    return None


def _cached(hub: Hub, reference: Reference, commit: str) -> Path | None:
    """The folder that was made of a model, if it is in the cache."""
    for path in sorted((hub.folder(reference) / "zipasr").glob(f"{commit}*")):
        document = read_source(path)
        if (document.get("revision"), document.get("subfolder")) == (commit, reference.subfolder):
            return path
    return None


def _source(folder: Path) -> str:
    """The reference of the model that a folder was made from; empty if it is not known."""
    document = read_source(folder)
    if not document.get("repository"):
        return ""
    return str(Reference(document["repository"], document.get("revision") or "main", document.get("subfolder") or ""))
