"""The ONNX graphs among the files of a model of another project: `find_graphs`, from names alone.

Folders of icefall, sherpa-onnx, Vosk and others hold several versions of a model side by side. The metadata of a graph
decides what it is; names only choose which one to open.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from zipasr.errors import CheckpointError, ConfigError
from zipasr.onnx_runtime.layout import Precision

_PART = r"encoder|decoder|joiner|ctc|model"
_NAME = re.compile(
    rf"(?:(?P<prefix>.+?)[-_.])?(?P<part>{_PART})(?P<suffix>(?:[-_.].*?)??)"
    r"(?:[-_.](?P<precision>int8|fp16|fp32|float16|float32))?\.onnx",
    re.IGNORECASE,
)
_PRECISIONS: dict[str, Precision] = {"int8": "int8", "fp16": "float16", "float16": "float16"}
_FALLBACKS: tuple[Precision, ...] = ("float32", "float16", "int8")
_TRANSDUCER = ("encoder", "decoder", "joiner")
_FIRST_FOLDERS = ("", "am-onnx", "am", "exp")
"""Folders whose graphs come first: the root, those of Vosk, that of icefall."""
_SKIPPED_FOLDERS = frozenset({"test_wavs", "test-wavs", "log", "logs", "tensorboard", "lm", ".git", ".cache", "__macosx"})
_USUAL_CHUNK = (16, 128)
"""Chunk and left context at 50 Hz of which the published models have results."""
_VOCABULARIES = ("bbpe.model", "bpe.model", "tokenizer.model", "*.model", "bpe.vocab", "*.vocab")
"""Vocabularies that can write a text, the best first."""


@dataclass(frozen=True, kw_only=True)
class GraphFiles:
    """Names of the files that make up a model of another project, relative to its folder, with / between folders."""

    encoder: str | None = None
    """The encoder of a transducer, which then has a decoder and a joiner too."""
    decoder: str | None = None
    """The decoder (predictor) of a transducer."""
    joiner: str | None = None
    """The joiner of a transducer."""
    ctc: str | None = None
    """The graph of a CTC model; None beside a transducer."""
    tokens: str | None = None
    """The table of symbols and ids."""
    vocabulary: str | None = None
    """A sentencepiece model, or pieces with scores, which can also write a text."""
    keywords: str | None = None
    """Keywords of a model for keyword spotting."""
    data: tuple[str, ...] = ()
    """Files with weights beside a graph, by the names that are usual; the graphs say which they are."""

    def graphs(self) -> dict[str, str]:
        """The names of the graphs, by part."""
        named = {part: getattr(self, part) for part in (*_TRANSDUCER, "ctc")}
        return {part: name for part, name in named.items() if name is not None}


class _Stem(NamedTuple):
    """What the names of the graphs of one model share."""

    folder: str
    prefix: str
    suffix: str

    def label(self) -> str:
        """The stem as a person would name it."""
        return "/".join(filter(None, (self.folder, f"{self.prefix}*{self.suffix}.onnx")))


_Versions = Mapping[Precision, str]
_Model = dict[str, _Versions]


def find_graphs(names: Collection[str], *, precision: Precision = "float32") -> GraphFiles | None:
    """The files of the model of another project among the names of a folder; None: it has no graphs.

    Of several versions of a model, those in the root, of the last epoch, and with chunks of 16 frames and a left context of
    128 are preferred. The decoder is always in float32 if there is one, since it gains nothing from 8 bits.

    Args:
        names: relative to the folder, with / between folders.
        precision: that of the graphs; float32 stands for the most precise ones.
    Raises:
        CheckpointError: there are several models, graphs are missing, or none has the precision.
    """
    models = _models(names)
    wanted = next(
        (parts for parts in (_TRANSDUCER, ("ctc",)) if any(model.keys() >= set(parts) for model in models.values())), None
    )
    if wanted is None:
        _refuse_incomplete(models)
        return None
    complete = {stem: model for stem, model in models.items() if model.keys() >= set(wanted)}
    stem = _chosen(complete)
    graphs = {part: _version(part, complete[stem][part], precision) for part in wanted}
    tokens = _tokens(names, stem)
    return GraphFiles(
        **graphs,
        tokens=tokens,
        vocabulary=_vocabulary(names, stem, tokens),
        keywords=_beside(names, stem.folder, "keywords.txt"),
        data=tuple(sorted(name for name in names if any(_is_data_of(name, graph) for graph in graphs.values()))),
    )


def _models(names: Iterable[str]) -> dict[_Stem, _Model]:
    """The versions of the graphs of every stem, by part; decoders and joiners without a chunk belong to every chunk."""
    found: dict[_Stem, dict[str, dict[Precision, str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        match = _NAME.fullmatch(path.name)
        if match is None or _SKIPPED_FOLDERS & {part.lower() for part in path.parts[:-1]}:
            continue
        stem = _Stem(_folder(name), match["prefix"] or "", match["suffix"])
        if re.search(_PART, stem.prefix + stem.suffix, re.IGNORECASE):
            continue  # such as decoder_model_merged.onnx of Whisper
        part = match["part"].lower().replace("model", "ctc")
        version = _PRECISIONS.get((match["precision"] or "").lower(), "float32")
        found.setdefault(stem, {}).setdefault(part, {}).setdefault(version, name)
    return {stem: _completed(stem, found) for stem in found}


def _completed(stem: _Stem, found: Mapping[_Stem, Mapping[str, _Versions]]) -> _Model:
    """The graphs of a stem; an encoder takes a decoder and a joiner that it lacks from those without its chunk or epoch."""
    model: _Model = dict(found[stem])
    for suffix in (_without_chunk(stem.suffix), "") if "encoder" in model else ():
        others = found.get(stem._replace(suffix=suffix), {})
        model = {part: others[part] for part in ("decoder", "joiner") if part in others} | model
    return model


def _refuse_incomplete(models: Mapping[_Stem, _Model]) -> None:
    for stem, model in models.items():
        if "joiner" in model:
            missing = [part for part in _TRANSDUCER if part not in model]
            raise CheckpointError(
                f"a transducer must have an encoder, a decoder and a joiner of one name, but {stem.label()} lacks the "
                f"{' and the '.join(missing)}; download the folder again"
            )


def _chosen(models: Mapping[_Stem, _Model]) -> _Stem:
    """The stem to take.

    Raises:
        CheckpointError: several differ in more than epochs and chunks.
    """
    rank = min(map(_folder_rank, models))
    stems = [stem for stem in models if _folder_rank(stem) == rank]
    different = sorted({stem._replace(suffix="") for stem in stems})
    if len(different) > 1:
        plain = [stem for stem in different if not stem.prefix]
        if len(plain) != 1 or len({stem.folder for stem in different}) > 1:
            raise CheckpointError(
                f"a folder must hold one model, but holds {', '.join(stem.label() for stem in different)}; "
                "copy the files of one of them, with its tokens.txt, into a folder of their own"
            )
        stems = [stem for stem in stems if not stem.prefix]
    return min(stems, key=_preference)


def _folder_rank(stem: _Stem) -> tuple[int, int]:
    folder = stem.folder.lower()
    first = _FIRST_FOLDERS.index(folder) if folder in _FIRST_FOLDERS else len(_FIRST_FOLDERS)
    return first, len(PurePosixPath(folder).parts)


def _preference(stem: _Stem) -> tuple[float, ...]:
    """Sorts the versions of a model: the last epoch, the usual chunk, then short chunks with much left context."""
    numbers = {key: _number(stem.suffix, key) for key in ("epoch", "avg", "chunk", "left")}
    chunk, left = numbers["chunk"], numbers["left"]
    usual = chunk in (0, _USUAL_CHUNK[0]), (chunk, left) in ((0, 0), _USUAL_CHUNK)
    return -numbers["epoch"], *(not is_so for is_so in usual), chunk, -left, -numbers["avg"], len(stem.suffix)


def _number(suffix: str, key: str) -> int:
    match = re.search(rf"{key}[-_.](\d+)", suffix, re.IGNORECASE)
    return int(match[1]) if match is not None else 0


def _without_chunk(suffix: str) -> str:
    return re.sub(r"[-_.](?:chunk|left)[-_.]\d+", "", suffix, flags=re.IGNORECASE)


def _version(part: str, versions: _Versions, precision: Precision) -> str:
    """The file of a graph in a precision, or the next one.

    Raises:
        ConfigError: int8 or float16 is requested, but this encoder or CTC graph is not there in it.
    """
    if precision != "float32" and part in ("encoder", "ctc") and precision not in versions:
        raise ConfigError(f"the graphs must be there in {precision}, but only in {', '.join(versions)}; choose one of these")
    wanted: Precision = "float32" if part == "decoder" else precision
    return next(versions[kind] for kind in (wanted, *_FALLBACKS) if kind in versions)


def _tokens(names: Iterable[str], stem: _Stem) -> str | None:
    """The table of symbols of a model: the one nearest to its graphs.

    Raises:
        CheckpointError: two are as near.
    """
    prefixed = [f"{stem.prefix}{mark}tokens.txt" for mark in "-_."] if stem.prefix else []
    candidates = _nearest(names, stem.folder, [*prefixed, "tokens.txt", "*tokens*.txt"])
    if len(candidates) > 1:
        raise CheckpointError(
            f"a model must have one table of symbols, but there are {', '.join(candidates)}; copy its files, with its "
            "tokens.txt, into a folder of their own"
        )
    # One publisher calls the table config.json; its content decides.
    return candidates[0] if candidates else _beside(names, stem.folder, "config.json")


def _vocabulary(names: Iterable[str], stem: _Stem, tokens: str | None) -> str | None:
    """The vocabulary of a model that can write a text, in the folder of its table of symbols, or of its graphs."""
    prefixed = [f"{stem.prefix}{mark}{name}" for name in _VOCABULARIES[:2] for mark in "-_."] if stem.prefix else []
    for folder in dict.fromkeys([_folder(tokens) if tokens is not None else stem.folder, stem.folder]):
        inside = [name for name in names if _folder(name) == folder]
        for pattern in (*prefixed, *_VOCABULARIES):
            found = [name for name in inside if PurePosixPath(name.lower()).match(pattern)]
            if len(found) == 1:
                return found[0]
    return None


def _nearest(names: Iterable[str], folder: str, patterns: Iterable[str]) -> list[str]:
    """Files that match one of some patterns, by the nearest folder, then by the first pattern.

    Beside the graphs, then in lang/ (Vosk), data/lang*/ (icefall) or data/ (the authors), next to the folder of the graphs
    or in it, then above.
    """
    names, parent = list(names), _folder(folder) if folder else ""
    near = [folder, *(f"{base}/{name}".lstrip("/") for base in (parent, folder) for name in ("lang", "data/lang*", "data"))]
    for place in (*dict.fromkeys(near), parent, ""):
        inside = [name for name in names if _is_in(name, place)]
        for pattern in patterns:
            found = sorted(name for name in inside if PurePosixPath(name.lower()).match(pattern.lower()))
            if found:
                return found
    return []


def _is_in(name: str, place: str) -> bool:
    folder = _folder(name)
    return folder == place or ("*" in place and PurePosixPath(folder).match(place) and folder.count("/") == place.count("/"))


def _folder(name: str) -> str:
    folder = str(PurePosixPath(name).parent)
    return "" if folder == "." else folder


def _beside(names: Iterable[str], folder: str, wanted: str) -> str | None:
    path = str(PurePosixPath(folder) / wanted)
    return path if path in set(names) else None


def _is_data_of(name: str, graph: str) -> bool:
    """Whether a file has the name that weights beside a graph usually have."""
    stem = graph.removesuffix(".onnx")
    return name == f"{stem}.weights" or (name.startswith(graph) and name[len(graph) + 1 :] == "data")
