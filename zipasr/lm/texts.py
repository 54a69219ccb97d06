"""Training texts of language models: files -> lines -> label ids, and batches of lines of similar length.

A line is a sentence. Files are plain text, or manifests (JSON lines: lhotse cuts with `supervisions`, or rows with a
`text`), gzipped or not. The ids of all lines are stored in one array, with four bytes per label.
"""

import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zipasr.errors import ConfigError, DataError
from zipasr.lines import parse_json, read_lines
from zipasr.text import lower, normalize, single_spaced, upper
from zipasr.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, kw_only=True)
class HeldOutConfig:
    """Selection of held-out lines for evaluation if no other text is given."""

    share: float = 0.05
    """Share of the distinct lines."""
    max_lines: int = 2000
    """Maximum number of lines."""
    seed: int = 0
    """Random seed of the selection."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share must be above 0 and below 1, but is {self.share}")
        if self.max_lines < 1:
            raise ConfigError(f"max_lines must be at least 1, but is {self.max_lines}")


class Texts(NamedTuple):
    """Training lines and held-out lines."""

    train: list[str]
    held_out: list[str]


def read_and_split(
    texts: Paths,
    dev: Paths,
    tokenizer: Tokenizer,
    held_out: HeldOutConfig,
    *,
    max_unknown_share: float,
    is_share_settable: bool = False,
) -> Texts:
    """Read files, check them against the recognizer's vocabulary, and hold lines out if `dev` is empty.

    Raises:
        DataError: see `read_texts` and `hold_out`.
        ConfigError: see `check_characters`.
    """
    train, others = read_texts(texts), read_texts(dev) if dev else []
    check_characters(train + others, tokenizer, max_share=max_unknown_share, is_settable=is_share_settable)
    return Texts(train, others) if dev else hold_out(train, held_out)


def read_texts(paths: Paths) -> list[str]:
    """The non-empty lines of files, normalized, with single spaces; lines that are not UTF-8 are skipped with a warning.

    Raises:
        DataError: a file cannot be read, a manifest is damaged, or there is no text at all.
    """
    texts = [text for path in paths for line in _lines(Path(path)) if (text := single_spaced(normalize(line)))]
    if not texts:
        raise DataError(f"there must be text in {', '.join(map(str, paths))}, but there is none; check the files")
    return texts


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, or the texts of a manifest."""
    is_manifest, num_bad = path.name.removesuffix(".gz").endswith(".jsonl"), 0
    for number, line in read_lines(path):
        if line is None:
            num_bad += 1
        elif is_manifest:
            yield from _texts_of_row(line, f"line {number} of {path}")
        else:
            yield line
    if num_bad:
        logger.warning("%s: skipped %d lines that are not UTF-8", path, num_bad)


def _texts_of_row(line: str, where: str) -> list[str]:
    if not line.strip():
        return []
    try:
        row: Any = parse_json(line)
        texts = [part.get("text") for part in row["supervisions"]] if "supervisions" in row else [row["text"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where} must be a cut with supervisions or a row with a text, but is {line[:80]!r} ({error!r})"
        ) from error
    if not all(text is None or isinstance(text, str) for text in texts):
        raise DataError(f"the text of {where} must be a string, but is {texts!r}")
    return [text or "" for text in texts]


def hold_out(texts: Sequence[str], config: HeldOutConfig) -> Texts:
    """Split lines into training and held-out lines; equal lines are in the same part.

    Raises:
        DataError: there are fewer than two distinct lines.
    """
    different = list(dict.fromkeys(texts))
    if len(different) < 2:
        raise DataError(
            f"there must be two or more different lines, some to learn from and some to hold out, but there is only "
            f"{len(different)}; give more text, or other text to measure on with --dev FILE"
        )
    num = min(max(1, round(config.share * len(different))), config.max_lines, len(different) - 1)
    chosen = torch.randperm(len(different), generator=torch.Generator().manual_seed(config.seed))[:num].tolist()
    held_out = {different[i] for i in chosen}
    return Texts([text for text in texts if text not in held_out], [text for text in different if text in held_out])


def check_characters(texts: Iterable[str], tokenizer: Tokenizer, *, max_share: float, is_settable: bool = False) -> None:
    """Raise for texts in another script or case than the recognizer's; a few unknown characters only cause a warning.

    If the verb takes `--set max_unknown_share` (`is_settable`), the message says so.

    Raises:
        ConfigError: more than `max_share` of the characters, without white space, are not in the vocabulary.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    counts = Counter({character: n for character, n in counts.items() if not character.isspace()})
    unknown = tokenizer.unknown_characters(" ".join(counts))
    num, total = sum(counts[character] for character in unknown), counts.total()
    if not num:
        return
    listed = ", ".join(f"{c!r} {n} times" for c, n in counts.most_common() if c in unknown)[:200]
    if num <= max_share * total:
        logger.warning("%d of %d characters are not in the vocabulary and count as <unk>: %s", num, total, listed)
        return
    cure = "write the text as the recognizer's transcripts are written"
    if is_settable:
        cure += f", or accept more: --set max_unknown_share={math.ceil(100 * num / total) / 100:g}"
    for name, change in (("upper", upper), ("lower", lower)):
        changed = {change(character) for character in counts}
        if len(tokenizer.unknown_characters(" ".join(changed))) < len(unknown) / 2:
            cure = f"the recognizer writes in {name} case, so change the text to {name} case"
            break
    raise ConfigError(
        f"the text must be in the recognizer's vocabulary, but {num} of {total} characters ({num / total:.1%}) are not: "
        f"{listed}; {cure}"
    )


class LabelLines(NamedTuple):
    """Lines of labels, one after the other in one array."""

    labels: NDArray[np.int32]
    """The labels of all lines."""
    ends: NDArray[np.int64]
    """Index after the last label of each line."""

    @property
    def lens(self) -> NDArray[np.int64]:
        """Number of labels of each line."""
        return np.diff(self.ends, prepend=0)

    @property
    def num_predicted(self) -> int:
        """Number of labels and ends of lines, which a model must predict."""
        return len(self.labels) + len(self.ends)

    def batch(self, lines: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Labels (N, S), int64, padded with 0, and their lengths (N,)."""
        lens = self.lens_of(lines)
        labels_NS = np.zeros((len(lines), int(lens.max())), np.int64)
        for row, line, length in zip(labels_NS, lines, lens, strict=True):
            row[:length] = self.labels[self.ends[line] - length : self.ends[line]]
        return torch.from_numpy(labels_NS), torch.from_numpy(lens)

    def lens_of(self, lines: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of labels of some lines."""
        starts = np.where(lines > 0, self.ends[lines - 1], 0)
        return self.ends[lines] - starts


def encode_lines(texts: Iterable[str], tokenizer: Tokenizer, *, max_labels: int) -> LabelLines:
    """Encode lines; longer ones are split into parts of at most `max_labels` labels, which count as lines."""
    labels, ends = array("i"), array("q")
    for text in texts:
        ids = tokenizer.encode(text)
        for start in range(0, len(ids), max_labels):
            labels.extend(ids[start : start + max_labels])
            ends.append(len(labels))
    return LabelLines(np.array(labels, np.int32), np.array(ends, np.int64))


def batches(lines: LabelLines, *, batch_labels: int, seed: int | None = None) -> Iterator[NDArray[np.int64]]:
    """Batches of line indices: at most `batch_labels` labels each, including ends and padding, or one line.

    Lines are sorted by length to reduce padding; with a seed, lines of equal length and the batches are shuffled.
    """
    order = np.arange(len(lines.ends))
    generator = np.random.default_rng(seed)
    if seed is not None:
        generator.shuffle(order)
    order = order[np.argsort(lines.lens[order], kind="stable")]
    cuts, start = [0], 0
    for place, length in enumerate(lines.lens[order].tolist()):
        if place > start and (place - start + 1) * (length + 1) > batch_labels:
            cuts.append(start := place)
    parts = [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True) if b > a]
    if seed is not None:
        parts = [parts[i] for i in generator.permutation(len(parts))]
    yield from parts
