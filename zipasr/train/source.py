"""The checkpoint that a finetuning run starts from: read from its path, or known from the folder of the run.

A run stores the checkpoint's architecture, vocabulary and SHA-256 in `finetuned_from/`. Its own checkpoints contain the
weights, so that it can be resumed after the original checkpoint is gone.
"""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.checkpoint import CHECKSUMS, CheckpointFolder, checkpoint_folders, write_folder
from zipasr.config import from_json, to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub import find_local, is_reference, local_model, open_checkpoint, pinned
from zipasr.model import WEIGHTS_FILE, AsrConfig, AsrModel, resolve_model_folder
from zipasr.tokenizer import MODEL_FILE, Tokenizer
from zipasr.train.config import FinetuneConfig

SOURCE_FOLDER = "finetuned_from"
_SOURCE_FILE = "source.json"


class Source(NamedTuple):
    """The checkpoint that a finetuning run starts from: model, vocabulary and SHA-256."""

    path: Path
    model: AsrModel
    tokenizer: Tokenizer
    sha256: str
    is_there: bool = True
    """Whether the weights are those of the checkpoint; False if it is gone and the run folder only records its shape."""


def open_source(config: FinetuneConfig) -> Source:
    """Read the checkpoint that a run starts from.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another kind, or its vocabulary cannot be found.
        ConfigError: a vocabulary is given for a checkpoint that has its own.
    """
    path = local_model(config.checkpoint)
    if path.is_file():
        root, files = find_local(path, needs_vocabulary=False)
        given = Path(config.tokenizer) if config.tokenizer is not None else None
        if given is None and not files.vocabulary:
            raise CheckpointError(
                f"the vocabulary of {path} must be given, since none lies where published models have theirs; add: --set "
                "finetune.tokenizer=PATH/bpe.model"
            )
        opened = open_checkpoint(root, files, tokenizer=given, max_gb=math.inf)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source(path, opened.model, opened.tokenizer, digest)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} must be a checkpoint to begin with (a model folder, the folder of a run, one of its checkpoints, a "
            ".pt file of icefall, or hf:OWNER/NAME), but there is no such file or folder"
        )
    if config.tokenizer is not None:
        raise ConfigError(
            f"finetune.tokenizer is for .pt files, but {path} has a vocabulary of its own; leave it out, or see "
            "finetune.vocabulary for a new one"
        )
    folder = resolve_model_folder(path)
    model, tokenizer = AsrModel.load(folder)
    return Source(folder, model, tokenizer, json.loads((folder / CHECKSUMS).read_bytes())["sha256"][WEIGHTS_FILE])


def pin_source(config: FinetuneConfig, run_folder: Path | None) -> FinetuneConfig:
    """The same checkpoint, but of a model on the hub the commit that the run started from, or for a new run the newest.

    Raises:
        CheckpointError: the model cannot be found.
    """
    known: dict[str, Any] = {}
    if run_folder is not None and (run_folder / SOURCE_FOLDER).is_dir():
        known = CheckpointFolder(run_folder / SOURCE_FOLDER).document(_SOURCE_FILE)
    earlier = known.get("checkpoint", "")
    return replace(config, checkpoint=pinned(config.checkpoint, like=earlier if is_reference(earlier) else ""))


def remember(config: FinetuneConfig, run_folder: Path) -> None:
    """Record in the folder of a run which checkpoint it starts from, unless already recorded.

    Raises:
        CheckpointError: the checkpoint cannot be read, or nothing can be written.
    """
    if (run_folder / SOURCE_FOLDER).is_dir():
        return
    source = open_source(config)
    known = {
        "path": str(source.path),
        "checkpoint": config.checkpoint,
        "sha256": source.sha256,
        "model": to_json(source.model.config),
    }
    write_folder(
        run_folder / SOURCE_FOLDER,
        documents={_SOURCE_FILE: known},
        tensors={},
        blobs={MODEL_FILE: source.tokenizer.to_bytes()},
    )


def source_of(config: FinetuneConfig, run_folder: Path | None) -> Source:
    """The checkpoint that a run starts from; if it is gone, the record of it in the folder of a resumed run.

    Raises:
        CheckpointError: it cannot be read, and there is no run with checkpoints that started from it.
        ConfigError: a vocabulary is given for a checkpoint that has its own.
    """
    try:
        return open_source(config)
    except CheckpointError:
        if run_folder is None or not checkpoint_folders(run_folder) or not (run_folder / SOURCE_FOLDER).is_dir():
            raise
        files = CheckpointFolder(run_folder / SOURCE_FOLDER)
        known = files.document(_SOURCE_FILE)
        if config.sha256 not in (None, known["sha256"]):
            raise
    model = AsrModel(from_json(AsrConfig, known["model"], where=str(files.path / _SOURCE_FILE)))
    return Source(Path(known["path"]), model, Tokenizer.from_bytes(files.blob(MODEL_FILE)), known["sha256"], is_there=False)
