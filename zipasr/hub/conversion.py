"""Checkpoints of others -> our model folder: `convert(root, files, out)`.

The folder holds configuration, weights as safetensors, vocabulary, `source.json` (where it comes from) and, where settings
of the search are known, `search.json`. It is written at once or not at all. Nothing of the files is executed.
"""

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder, write_folder
from zipasr.eight_bit import to_eight_bits
from zipasr.errors import CheckpointError, ConfigError
from zipasr.folder_swap import require_name
from zipasr.hub.checkpoint_files import CheckpointFiles
from zipasr.hub.inside import path_inside
from zipasr.hub.model_yaml import MAX_BYTES, ModelYaml, read_model_yaml
from zipasr.hub.origin import SOURCE_FILE, Origin, source_document
from zipasr.hub.refusals import errors_about
from zipasr.hub.settings import ModelSettings, settings_from_scripts
from zipasr.hub.weights import read_checkpoint
from zipasr.lfs import refuse_pointer
from zipasr.model import WEIGHTS_FILE, AsrModel, resolve_model_folder
from zipasr.search.confidence import CALIBRATION_FILE
from zipasr.search.default_search import SEARCH_FILE, SEARCH_FILES, DefaultSearch
from zipasr.search.strategy import SearchConfig
from zipasr.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_CHECKPOINT_GB = 12.0
"""Largest checkpoint that is opened unless asked for: an `epoch-N.pt` of the largest published model, 700 M parameters and
four times as many numbers, has 11.2 GB."""
_ONE_MOMENT = re.compile(r"(epoch|iter|checkpoint)-\d+\.pt")
NO_SETTINGS = ModelSettings()


class OpenedCheckpoint(NamedTuple):
    """A checkpoint of others as a model."""

    model: AsrModel
    """In eval mode on the CPU."""
    tokenizer: Tokenizer
    search: DefaultSearch | None
    """The search that its settings ask for; None: the usual one."""
    files: tuple[str, ...]
    """Names of the files that were read."""


def convert(
    root: Path,
    files: CheckpointFiles,
    out: str | os.PathLike[str],
    *,
    settings: ModelSettings = NO_SETTINGS,
    known: ModelSettings = NO_SETTINGS,
    tokenizer: Path | None = None,
    max_gb: float = MAX_CHECKPOINT_GB,
    origin: Origin | None = None,
) -> Path:
    """Write a checkpoint of others as a model folder, and return its path.

    Args:
        root: folder with the files.
        files: their names; see `find_checkpoint`.
        out: folder to write, new or from an earlier conversion.
        settings: what the caller knows of the model; it counts more than what the files say.
        known: what the table of known models says; it counts less.
        tokenizer: vocabulary to take instead of that among the files.
        max_gb: largest size of the checkpoint; a larger one is not opened.
        origin: where the files come from.
    Raises:
        CheckpointError: a file is missing, damaged, too large, unsafe or of another kind, or nothing can be written.
        ConfigError: a setting is missing or wrong, the vocabulary is another model's, or `out` holds something else.
    """
    out = Path(out)
    check_place(out)
    opened = open_checkpoint(root, files, settings=settings, known=known, tokenizer=tokenizer, max_gb=max_gb)
    if _ONE_MOMENT.fullmatch(PurePosixPath(files.checkpoint).name):
        logger.warning(
            "%s holds the weights of one moment of a training; results of recipes are those of averages", files.checkpoint
        )
    documents, tensors, blobs = opened.model.to_files(opened.tokenizer)
    documents[SOURCE_FILE] = source_document(root, opened.files, family=files.family, origin=origin or Origin())
    replaceable = {} if opened.search is None else {SEARCH_FILE: opened.search.to_json().encode()}
    return write_folder(out, documents=documents, tensors=tensors, blobs=blobs, replaceable=replaceable)


def shrink(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a model of ours with its weights in eight bits (`zipasr.eight_bit`), a quarter of the size, and return its path.

    Args:
        folder: a model folder, or that of a training run.
        out: folder to write, new or from an earlier conversion.
    Raises:
        CheckpointError: there is no such model, it is damaged, or nothing can be written.
        ConfigError: `out` holds something else.
    """
    source, out = resolve_model_folder(folder), Path(out)
    check_place(out)
    files = CheckpointFolder(source)
    model, tokenizer = AsrModel.load(source)
    documents, _, blobs = model.to_files(tokenizer)
    if SOURCE_FILE in files.names():
        documents[SOURCE_FILE] = files.document(SOURCE_FILE)
    else:
        documents[SOURCE_FILE] = source_document(source, [WEIGHTS_FILE], family="zipasr", origin=Origin())
    try:
        tensors = {WEIGHTS_FILE: to_eight_bits(model.state_dict())}
    except ValueError as error:
        raise CheckpointError(f"{source / WEIGHTS_FILE} is damaged: {error}") from error
    kept = (*SEARCH_FILES, CALIBRATION_FILE)
    replaceable = {name: (source / name).read_bytes() for name in kept if (source / name).is_file()}
    return write_folder(out, documents=documents, tensors=tensors, blobs=blobs, replaceable=replaceable)


def check_place(out: Path) -> None:
    """Check that writing a converted model to a folder replaces nothing but an earlier one.

    Raises:
        ConfigError: it would, or the folder has no name.
    """
    require_name(out)
    is_free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_free and not ((out / SOURCE_FILE).is_file() and (out / CHECKSUMS).is_file()):
        raise ConfigError(
            f"{out} must be a new folder or one of an earlier conversion, which is replaced, but holds something else; "
            "choose another --out"
        )


def open_checkpoint(
    root: Path,
    files: CheckpointFiles,
    *,
    settings: ModelSettings = NO_SETTINGS,
    known: ModelSettings = NO_SETTINGS,
    tokenizer: Path | None = None,
    max_gb: float = MAX_CHECKPOINT_GB,
) -> OpenedCheckpoint:
    """Read a checkpoint of others; arguments and errors are those of `convert`."""
    settings_there = settings_from_scripts({name: text for name in files.scripts if (text := _script(root, name))})
    used = list(files.scripts)
    described: ModelYaml | None = None
    checkpoint, vocabulary, others = files.checkpoint, files.vocabulary, files.other_vocabularies
    if files.config is not None:
        described = _description(root, files.config)
        settings_there = described.settings.over(settings_there)
        checkpoint = _named(root, files.config, described.checkpoint) or checkpoint
        if (named := _named(root, files.config, described.vocabulary)) is not None:
            vocabulary, others = named, ()
        used.append(files.config)
    path = path_inside(root, checkpoint)
    _check_size(path, max_gb, "it takes much time and memory; if that is what you want, raise the limit (--max-gb)")
    if tokenizer is None and not vocabulary:
        raise CheckpointError(f"{path} must have its vocabulary beside it, but there is none; add --tokenizer FILE")
    names = () if tokenizer is not None else (vocabulary, *others)
    paths = [path_inside(root, name) for name in names] if tokenizer is None else [tokenizer]
    merged = settings.over(settings_there.over(known))
    model, opened = read_checkpoint(path, paths, merged, check=described.check if described is not None else None)
    search = default_search(merged, has_transducer=model.has_transducer, has_attention=model.has_attention)
    return OpenedCheckpoint(model, opened, search, (checkpoint, *names, *used))


def _check_size(path: Path, max_gb: float, cure: str) -> None:
    size_gb = path.stat().st_size / 1e9
    if size_gb > max_gb:
        raise CheckpointError(f"{path} must have at most {max_gb:g} GB, but has {size_gb:.4g} GB; {cure}")


def _script(root: Path, name: str) -> str | None:
    """The text of a script; None: it is too long to be a few lines of flags."""
    path = path_inside(root, name)
    if path.stat().st_size > MAX_BYTES:
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def _description(root: Path, name: str) -> ModelYaml:
    path = path_inside(root, name)
    _check_size(path, MAX_BYTES / 1e9, "it does not describe a model")
    content = path.read_bytes()
    refuse_pointer(content, path, CheckpointError)
    with errors_about(path):
        return read_model_yaml(content.decode("utf-8", errors="replace"))


def _named(root: Path, config: str, name: str | None) -> str | None:
    """The name, relative to the root, of a file that `config.yaml` names relative to its own folder."""
    if name is None:
        return None
    folder = PurePosixPath(config).parent
    path_inside(root / folder, name)
    return str(folder / name)


def default_search(settings: ModelSettings, *, has_transducer: bool, has_attention: bool) -> DefaultSearch | None:
    """The search that settings ask for: that which published results use, with the penalty and the beam; None: the usual."""
    given = {"blank_penalty": settings.blank_penalty or None, "beam": settings.beam_size}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return None
    method = "beam" if has_transducer else "attention_rescoring" if has_attention else "ctc_greedy"
    if method == "ctc_greedy" and settings.beam_size is not None:
        method = "ctc_beam"
    search = SearchConfig(method=method, **changes)  # type: ignore[arg-type]
    return DefaultSearch(search=search, chosen_on="settings that came with the model")
