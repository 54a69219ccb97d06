"""PyTorch checkpoints of others, found by the names of files: `find_checkpoint(names)`, a function of the names alone.

Three layouts are known: that of icefall's recipes (`exp/pretrained.pt`, `data/lang_*/bpe.model`), that of the authors'
package (`model.pt`, `data/NAME.vocab`) and that of soundsgoodai (`model.pt`, `bpe.model`, `config.yaml`). Names are relative
to the root of a repository or folder and have `/` between their parts.
"""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from zipasr.checkpoint import CHECKSUMS
from zipasr.errors import CheckpointError

Family = Literal["icefall", "authors", "soundsgoodai"]

_TORCHSCRIPT = re.compile(r"(.*[_-])?jit([_.-].*)?\.pt", re.IGNORECASE)
_GRAPHS = re.compile(r"(H?L?G|HL?|L(inv)?|L_disambig|.*rnn-?lm.*)([_.-].*)?\.pt")
"""Graphs of k2 and language models, which recipes keep beside their vocabularies."""
_WEIGHTS = re.compile(r".*\.(pt|pth|safetensors)", re.IGNORECASE)
_RANKED = (
    re.compile(r"pretrained[^/]*\.pt", re.IGNORECASE),
    re.compile(r"model\.(pt|safetensors)", re.IGNORECASE),
    re.compile(r"averaged?[^/]*\.pt", re.IGNORECASE),
    re.compile(r"epoch-(\d+)[^/]*\.pt", re.IGNORECASE),
    re.compile(r"(?:iter|checkpoint)-(\d+)[^/]*\.pt", re.IGNORECASE),
    re.compile(r"best-valid-loss\.pt", re.IGNORECASE),
)
"""Checkpoints by their names, what is averaged already first; of numbered ones, the last is the best."""
_OTHER = len(_RANKED)
_VOCABULARIES = ("bbpe.model", "bpe.model", "*.model", "*.vocab", "tokens.txt")
"""Vocabularies by their names, in lower case; the first kind that is there says most."""
_USUAL = ("bbpe.model", "bpe.model", "tokens.txt")
"""The only names of vocabularies that count far from a checkpoint, outside of `data/`."""
_CONFIGS = ("config.yaml", "config.yml")
_SHOWN = 6


class CheckpointFiles(NamedTuple):
    """The files of one model, by names relative to the root."""

    family: Family
    checkpoint: str
    """The file with the tensors."""
    vocabulary: str
    """The vocabulary; empty if there is none, and the caller has another."""
    config: str | None = None
    """The model's `config.yaml`, of soundsgoodai."""
    scripts: tuple[str, ...] = ()
    """Shell scripts with the flags of training and decoding, to be read as text."""
    other_vocabularies: tuple[str, ...] = ()
    """More vocabularies that are as near; the weights decide which one is the model's."""

    @property
    def names(self) -> tuple[str, ...]:
        """All these files: what a download must fetch."""
        several = (self.checkpoint, self.vocabulary, self.config or "", *self.scripts, *self.other_vocabularies)
        return tuple(name for name in several if name)


def find_checkpoint(names: Collection[str], subfolder: str = "", *, needs_vocabulary: bool = True) -> CheckpointFiles | None:
    """The checkpoint among files, with the vocabulary nearest to it; None: there is none to take.

    Args:
        names: names of all files, relative to the root.
        subfolder: folder with the model, or its checkpoint, where there are several; the vocabulary may be outside.
        needs_vocabulary: whether a checkpoint without a vocabulary is an error; not if the caller has one.
    Raises:
        CheckpointError: there are several models, or only TorchScript, or no vocabulary and no ONNX graphs to run instead.
    """
    within = subfolder.strip("/")
    names = [
        name for name in names if str(PurePosixPath(name)) == name and {"..", "/"}.isdisjoint(PurePosixPath(name).parts)
    ]
    own = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == CHECKSUMS}  # our model folders
    is_named = within in names and PurePosixPath(within).parent not in own  # in a folder below one of ours
    names = [name for name in names if own.isdisjoint(PurePosixPath(name).parents) or (is_named and name == within)]
    inside = [name for name in names if is_below(name, within)]
    has_graphs = any(name.lower().endswith(".onnx") for name in inside)
    checkpoint = within if within in names else _choose(inside, within, has_graphs=has_graphs)
    if checkpoint is None:
        return None
    vocabularies = _vocabularies_near(checkpoint, names)
    if not vocabularies and needs_vocabulary:
        if has_graphs:
            return None
        raise CheckpointError(
            f"{checkpoint} must have its vocabulary (bpe.model, bbpe.model, NAME.vocab or tokens.txt) beside it or in "
            "data/, but there is none (an encoder without heads, such as AudenAI's, has none and gives no text); get the "
            "one that the model was trained with, and convert the files: zipasr convert FOLDER --out DIR --tokenizer FILE"
        )
    folder = PurePosixPath(checkpoint).parent
    beside = [name for name in sorted(names) if PurePosixPath(name).parent == folder]
    config = next((name for name in beside if PurePosixPath(name).name.lower() in _CONFIGS), None)
    first, *others = vocabularies or [""]
    is_authors = config is None and first.endswith(".vocab")
    return CheckpointFiles(
        family="soundsgoodai" if config else "authors" if is_authors else "icefall",
        checkpoint=checkpoint,
        vocabulary=first,
        config=config,
        scripts=tuple(name for name in beside if name.endswith(".sh")),
        other_vocabularies=tuple(others),
    )


def best_vocabularies(names: Iterable[str]) -> list[str]:
    """The vocabulary of each folder that says most, among names of files; those that say most first."""
    best: dict[PurePosixPath, tuple[int, str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        rank = next((i for i, kind in enumerate(_VOCABULARIES) if fnmatchcase(path.name.lower(), kind)), None)
        if rank is not None and (path.parent not in best or rank < best[path.parent][0]):
            best[path.parent] = rank, name
    return [name for _, name in sorted(best.values())]


def is_below(name: str, folder: str) -> bool:
    """Whether a file is in a folder or below it, or is what is named; an empty name is that of the root."""
    return not folder or name == folder or name.startswith(f"{folder}/")


def listed(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more


def _choose(names: Collection[str], subfolder: str, *, has_graphs: bool) -> str | None:
    """The checkpoint to take among files of a subfolder."""
    weights = [name for name in names if _WEIGHTS.fullmatch(name) and not _GRAPHS.fullmatch(PurePosixPath(name).name)]
    programs = sorted(name for name in weights if _TORCHSCRIPT.fullmatch(PurePosixPath(name).name))
    ranks = {name: _rank(PurePosixPath(name).name) for name in weights if name not in programs}
    if has_graphs or any(rank < _OTHER for rank, _ in ranks.values()):  # other files of weights are then no models
        ranks = {name: rank for name, rank in ranks.items() if rank[0] < _OTHER}
    if not ranks:
        if programs and not has_graphs:
            raise CheckpointError(
                f"there must be a checkpoint, but {listed(programs)} hold TorchScript, a program whose names and structure "
                "are changed; ask the author for the pretrained.pt or epoch-N.pt that it was exported from, or for ONNX "
                "graphs"
            )
        return None
    best = {folder: _best_in(folder, ranks) for folder in {PurePosixPath(name).parent for name in ranks}}
    if (top := PurePosixPath(subfolder)) in best:  # a model at the top is the repository's; folders hold variants of it
        return best[top]
    if len(best) > 1:
        folders = sorted(str(folder) for folder in best)
        raise CheckpointError(
            f"there must be one model, but there are several, in {listed(folders)}; choose one: "
            f"hf:OWNER/NAME#{folders[0]}, or the path of its checkpoint, such as {best[PurePosixPath(folders[0])]}"
        )
    (checkpoint,) = best.values()
    return checkpoint


def _rank(name: str) -> tuple[int, int]:
    """Sorts checkpoints of a folder, the best first."""
    for i, pattern in enumerate(_RANKED):
        if match := pattern.fullmatch(name):
            return i, -int(match[1]) if match.groups() and match[1].isdecimal() else 0
    return _OTHER, 0


def _best_in(folder: PurePosixPath, ranks: dict[str, tuple[int, int]]) -> str:
    """The checkpoint to take in a folder."""
    own = sorted((rank, name) for name, rank in ranks.items() if PurePosixPath(name).parent == folder)
    equal = [name for rank, name in own if rank == own[0][0]]
    if len(equal) > 1:
        raise CheckpointError(
            f"there must be one checkpoint to take, but there are {listed(equal)}; choose one: hf:OWNER/NAME#{equal[0]}, "
            "or its path"
        )
    return equal[0]


def _vocabularies_near(checkpoint: str, names: Collection[str]) -> list[str]:
    """The vocabularies nearest to a checkpoint: beside it, in data/ there, or the same in a folder above it."""
    paths = [PurePosixPath(name) for name in names]
    for i, folder in enumerate(PurePosixPath(checkpoint).parents):
        beside = [path for path in paths if path.parent == folder and (i == 0 or path.name.lower() in _USUAL)]
        data = [path for path in paths if folder / "data" in path.parents]
        lang = [path for path in paths if path.parent.parent == folder != path.parent and "lang" in path.parent.name]
        for places in (beside, data, lang) if i == 0 else (data, lang, beside):
            if found := best_vocabularies(map(str, places)):
                return found
    return []
