"""Graphs of other projects (icefall, sherpa-onnx, Vosk) as a `Scorer`: `load_foreign`.

Features (N, T, F) at 100 Hz in, frames at 25 Hz out. The metadata of the graphs say what they are, and their inputs, which
types and sizes they take; the result is described by an `ExportedConfig`, as an exported folder is.
"""

import dataclasses
import logging
import os
from pathlib import Path

import torch

from zipasr.checkpoint import CHECKSUMS, checkpoint_folders
from zipasr.errors import CheckpointError
from zipasr.onnx_runtime.external_data import check_external_data
from zipasr.onnx_runtime.folder import Exported
from zipasr.onnx_runtime.foreign_files import GraphFiles, find_graphs
from zipasr.onnx_runtime.graph import Graph
from zipasr.onnx_runtime.kind import described, is_streaming, output_width
from zipasr.onnx_runtime.layout import ExportedFiles
from zipasr.onnx_runtime.streaming import OnnxStreamingModel
from zipasr.onnx_runtime.unpadded import UnpaddedModel
from zipasr.tokenizer import Tokenizer

logger = logging.getLogger(__name__)
_MIN_EQUAL_SHARE = 0.9
"""Share of the pieces that two vocabularies of one model have in common; symbols of other kinds may be named differently."""
_RUN_MODEL = "model"
"""Folder of the model inside the folder of a training run, whatever else is there."""
_MAX_DEPTH, _MAX_FILES = 2, 10_000
"""How far to look for graphs: exp/ and data/lang_bpe_500/ are the deepest of the published folders."""


def load_foreign(root: Path, files: GraphFiles, *, num_threads: int | None = None) -> Exported:
    """Load the graphs of another project.

    Args:
        root: the folder that the names of the files are relative to.
        files: the files, from `find_graphs`.
        num_threads: threads of onnxruntime; None: as many as PyTorch uses.
    Raises:
        CheckpointError: a file is missing or damaged, weights are outside the folder, the graphs are no Zipformer, or take
            only inputs of one size, or the vocabulary is another model's.
        ConfigError: onnxruntime is not installed.
    """
    threads = torch.get_num_threads() if num_threads is None else num_threads
    names = files.graphs()
    graphs = {part: _open(root, name, threads) for part, name in names.items()}
    known = described(graphs)
    num_outputs = output_width(graphs.get("joiner") or graphs["ctc"])
    tokenizer = _open_tokenizer(root, files, num_outputs=num_outputs)
    config = dataclasses.replace(known, files=ExportedFiles(**names), blank_id=tokenizer.blank_id)
    kind = OnnxStreamingModel if is_streaming(graphs.get("encoder") or graphs["ctc"]) else UnpaddedModel
    scorer = kind(config, {names[part]: graph for part, graph in graphs.items()})
    return Exported(scorer, tokenizer, config.features)


def find_foreign(folder: str | os.PathLike[str]) -> GraphFiles | None:
    """The graphs of another project in a folder; None: there are none, or the folder is one of ours.

    Raises:
        CheckpointError: there are several models, or a graph is missing.
    """
    root = Path(folder)
    is_ours = any((path / CHECKSUMS).exists() for path in (root, root / _RUN_MODEL)) or bool(checkpoint_folders(root))
    return None if is_ours else find_graphs(_names(root))


def _names(root: Path) -> list[str]:
    """Files of a folder and of those in it, but for hidden folders, and models and exports of ours."""
    names: list[str] = []
    waiting = [(root, 0)]
    while waiting and len(names) < _MAX_FILES:
        folder, depth = waiting.pop(0)
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        names += [path.relative_to(root).as_posix() for path in entries if path.is_file()]
        if depth < _MAX_DEPTH:
            inside = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
            waiting += [(path, depth + 1) for path in inside if not (path / CHECKSUMS).exists()]
    return names


def _open(root: Path, name: str, num_threads: int) -> Graph:
    path = root / name
    check_external_data(path, root)
    return Graph(path, name=str(path), num_threads=num_threads)


def _open_tokenizer(root: Path, files: GraphFiles, *, num_outputs: int) -> Tokenizer:
    """The vocabulary that can write a text, or the table of symbols where there is none of this model.

    Raises:
        CheckpointError: neither is there, or fits.
    """
    if files.tokens is None and files.vocabulary is None:
        raise CheckpointError(f"{root} must hold the symbols of the model, tokens.txt, but does not; download them too")
    if files.vocabulary is None:
        return Tokenizer.from_file(root / str(files.tokens), num_outputs=num_outputs)
    path = root / files.vocabulary
    if files.tokens is None:
        return Tokenizer.from_file(path, num_outputs=num_outputs)
    table = Tokenizer.from_file(root / files.tokens, num_outputs=num_outputs)
    try:
        tokenizer = Tokenizer.from_file(path, num_outputs=num_outputs)
    except CheckpointError as error:
        reason = str(error)
    else:
        num_equal = sum(piece == other for piece, other in zip(tokenizer.pieces, table.pieces, strict=True))
        if num_equal >= _MIN_EQUAL_SHARE * num_outputs:
            return tokenizer
        reason = f"{path} has other pieces than {files.tokens}, which is that of the model"
    logger.warning("%s; only %s is used", reason, files.tokens)
    return table
