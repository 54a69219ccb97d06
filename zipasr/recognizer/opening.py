"""The parts of a recognizer, read from disk: the model, trained here or exported, and language models."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from zipasr import onnx_runtime
from zipasr.checkpoint import CheckpointFolder
from zipasr.device import select_device
from zipasr.errors import ConfigError
from zipasr.features import FbankConfig
from zipasr.hub import local_model
from zipasr.lm.ngram_file import NGRAM_FILE
from zipasr.model import WEIGHTS_FILE, AsrModel, resolve_model_folder
from zipasr.search.scorer import Scorer
from zipasr.search.strategy import NO_LANGUAGE_MODELS, LanguageModels
from zipasr.tokenizer import MODEL_FILE, Tokenizer


class OpenedModel(NamedTuple):
    """A model with the files that belong to it."""

    scorer: Scorer
    tokenizer: Tokenizer
    features: FbankConfig
    device: torch.device
    folder: Path
    """Folder that it was read from, which also holds calibrations and the default search."""


def holds_graphs(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds graphs that run here: exported, or of another project.

    Raises:
        CheckpointError: they are of several models, or one is missing.
    """
    return onnx_runtime.is_exported(folder) or onnx_runtime.find_foreign(folder) is not None


def search_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder in which the default search and the calibrations of a model are: that of the model, or of its graphs.

    Raises:
        CheckpointError: there is no such model.
    """
    folder = local_model(folder)
    return folder if holds_graphs(folder) else resolve_model_folder(folder)


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files with the weights of a model.

    Raises:
        CheckpointError: there is no such model.
    """
    folder = local_model(folder)
    if (files := onnx_runtime.find_foreign(folder)) is not None:
        return [folder / name for name in (*files.graphs().values(), *files.data)]
    path = search_folder(folder)
    return [*path.glob(WEIGHTS_FILE), *path.glob("*.onnx")]


def open_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a model, without its weights if they were trained here.

    Raises:
        CheckpointError: there is no such model, or a file is damaged.
    """
    folder = local_model(folder)
    if holds_graphs(folder):
        return open_model(folder, "cpu").tokenizer
    return Tokenizer.from_bytes(CheckpointFolder(resolve_model_folder(folder)).blob(MODEL_FILE))


def open_model(folder: str | os.PathLike[str], device: str) -> OpenedModel:
    """The model of a folder, or of a reference to the hub: trained here, exported, or the graphs of another project.

    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
        ConfigError: this machine has no such device, or exported graphs cannot run there.
    """
    folder = local_model(folder)
    if holds_graphs(folder):
        if device not in ("auto", "cpu"):
            raise ConfigError(f"exported graphs run on the CPU, but the device is {device}; leave it out or use the model")
        files = onnx_runtime.find_foreign(folder)
        exported = onnx_runtime.load(folder) if files is None else onnx_runtime.load_foreign(folder, files)
        return OpenedModel(*exported, torch.device("cpu"), folder)
    chosen, path = select_device(device), resolve_model_folder(folder)
    model, tokenizer = AsrModel.load(path)
    return OpenedModel(model.to(chosen), tokenizer, model.config.features, chosen, path)


def open_language_models(
    lm: str | os.PathLike[str] | None,
    lodr: str | os.PathLike[str] | None,
    tokenizer: Tokenizer,
    device: torch.device,
    folder: Path,
) -> LanguageModels:
    """A language model, an n-gram to subtract from it, and that of the training texts in the model's folder; see
    `Recognizer.load`.
    """
    own = folder / NGRAM_FILE
    if lm is None and lodr is None and not own.is_file():
        return NO_LANGUAGE_MODELS
    from zipasr.lm import load_language_model, load_token_ngram, read_ngram  # needed by few models

    return LanguageModels(
        load_language_model(local_model(lm), tokenizer, device=device) if lm is not None else None,
        load_token_ngram(lodr, tokenizer) if lodr is not None else None,
        read_ngram(own, tokenizer) if own.is_file() else None,
    )
