"""A published corpus to a folder that trains, with its official splits: what `prepare` does for `librispeech:FOLDER` and
its like.

Out come `train_cuts.jsonl.gz`, `dev_cuts.jsonl.gz`, one file for each test set (`test-clean_cuts.jsonl.gz`), or
`noise_cuts.jsonl.gz` for MUSAN; `rejected.jsonl` and `prepare.json`. No sound is copied, and one cut at a time is in memory.
"""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.manifest_index import open_cuts
from zipasr.data.prepare import PrepareConfig, PrepareReport
from zipasr.data.published import (
    PUBLISHED,
    Entry,
    PublishedCorpus,
    find_json,
    part_folder,
    read_folders,
    read_json,
    read_musan,
)
from zipasr.data.utterance import Reason, Rejected, Utterance
from zipasr.data.validate import check_samples
from zipasr.errors import ConfigError, DataError
from zipasr.progress import track

MUSAN = "musan"
NOISE = "noise"


class NamedSource(NamedTuple):
    """A corpus by name, and where it lies."""

    name: str
    folder: Path


def parse_named(source: str | Path) -> NamedSource | None:
    """Read `NAME:FOLDER`; None where a source is something else.

    Raises:
        DataError: there is no such folder.
    """
    match = re.fullmatch(rf"({'|'.join(PUBLISHED)}|{MUSAN}):(.+)", str(source))
    if match is None:
        return None
    folder = Path(match[2])
    if not folder.is_dir():
        raise DataError(f"expected the folder of {match[1]} after the colon, but {folder} is none; download it first")
    return NamedSource(match[1], folder)


class _Writer:
    """JSON lines, compressed if the name says so, with the same bytes every time."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, row: dict[str, Any]) -> None:
        self._file.write((json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


@contextmanager
def _writing(path: Path) -> Iterator[_Writer]:
    """A file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
                    yield _Writer(file)
            else:
                yield _Writer(raw)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Counts:
    """What the report tells, counted as it goes by."""

    def __init__(self, splits: list[str]) -> None:
        self.num_utterances = dict.fromkeys(splits, 0)
        self.num_samples = dict.fromkeys(splits, 0)
        self.num_words = dict.fromkeys(splits, 0)
        self.rejected: Counter[str] = Counter()

    def add(self, split: str, cut: Any) -> None:
        self.num_utterances[split] += 1
        self.num_samples[split] += cut.num_samples
        self.num_words[split] += sum(len((s.text or "").split()) for s in cut.supervisions)

    def report(self, missing_parts: list[str]) -> PrepareReport:
        return PrepareReport(
            num_utterances=self.num_utterances,
            durations_s={split: number / SAMPLE_RATE_HZ for split, number in self.num_samples.items()},
            num_words=self.num_words,
            num_rejected=dict(sorted(self.rejected.items())),
            num_unseen_words={},
            num_repeated_sentences={},
            missing_parts=missing_parts,
        )


def prepare_published(source: NamedSource, out: Path, config: PrepareConfig, *, has_progress: bool = False) -> PrepareReport:
    """Write the cuts of a published corpus, its texts as the published recipe has them.

    The limits of `config` concern the training part; dev and test keep every utterance with sound and text.

    Raises:
        DataError: the folder is laid out in another way, or `out` cannot be written.
        ConfigError: a setting means nothing for this corpus.
    """
    _check_config(source.name, config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if source.name == MUSAN:
            report = _prepare_noise(source, out, has_progress)
        else:
            report = _prepare_speech(source, out, config, has_progress)
        with _writing(out / "prepare.json") as lines:
            lines.write({"kind": source.name, "config": asdict(config), "report": report.to_dict()})
    except OSError as error:
        raise DataError(f"expected to read {source.folder} and to write to {out}, got: {error}") from error
    return report


def _check_config(name: str, config: PrepareConfig) -> None:
    if config.text_style is not None:
        raise ConfigError(
            f"text_style must be left out for {name}, whose texts are as published, but is {config.text_style}"
        )
    subsets = PUBLISHED[name].subsets if name in PUBLISHED else ()
    if config.subset is not None and config.subset not in subsets:
        cure = f"one of {', '.join(subsets)}" if subsets else "left out"
        raise ConfigError(f"subset of {name} must be {cure}, but is {config.subset!r} instead")


def _prepare_noise(source: NamedSource, out: Path, has_progress: bool) -> PrepareReport:
    counts = _Counts([NOISE])
    with _writing(out / f"{NOISE}_cuts.jsonl.gz") as lines:
        for cut in _with_progress(read_musan(source.folder), has_progress):
            counts.add(NOISE, cut)
            lines.write(cut.to_dict())
    return counts.report([])


def _prepare_speech(source: NamedSource, out: Path, config: PrepareConfig, has_progress: bool) -> PrepareReport:
    corpus = PUBLISHED[source.name]
    splits = _splits(corpus, config)
    present = [part for part in splits if corpus.has_one_json or part_folder(*source, part).is_dir()]
    if corpus.has_one_json:
        find_json(*source)
    if not present:
        raise DataError(
            f"expected the parts {', '.join(splits)} of {source.name} in {source.folder}, got none of them; name the folder "
            "that they lie in"
        )
    names = list(dict.fromkeys(splits.values()))
    counts, found = _Counts(names), set()
    with ExitStack() as stack:
        writers = {split: stack.enter_context(_writing(out / f"{split}_cuts.jsonl.gz")) for split in names}
        rejected = stack.enter_context(_writing(out / "rejected.jsonl"))
        for part, entry in _with_progress(_entries(source, present, config), has_progress):
            split = splits.get(part, "")
            entry = _checked(entry, corpus, config if split == "train" else None)
            if isinstance(entry, Rejected):
                counts.rejected[entry.reason.value] += 1
                rejected.write(entry.to_dict())
                continue
            found.add(part)
            counts.add(split, entry)
            writers[split].write(entry.to_dict())
    for split in names:
        if not counts.num_utterances[split]:
            (out / f"{split}_cuts.jsonl.gz").unlink()
    if not found:
        raise DataError(
            f"expected utterances in {source.folder}, got {sum(counts.rejected.values())} rejected and none good; see "
            f"{out / 'rejected.jsonl'}"
        )
    if counts.num_utterances["train"]:
        open_cuts(out / "train_cuts.jsonl.gz")  # makes the index now, so that training can start at once
    return counts.report([part for part in splits if part not in found])


def _splits(corpus: PublishedCorpus, config: PrepareConfig) -> dict[str, str]:
    """Name of the split of each part that is wanted."""
    train = corpus.train if config.subset is None else (config.subset,)
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(corpus.dev, "dev"), **corpus.test}


def _entries(source: NamedSource, parts: list[str], config: PrepareConfig) -> Iterator[tuple[str, Entry]]:
    if PUBLISHED[source.name].has_one_json:
        yield from read_json(source.name, source.folder, parts)
        return
    for part in parts:
        for entry in read_folders(source.name, source.folder, part, config.num_jobs):
            yield part, entry


def _checked(entry: Entry, corpus: PublishedCorpus, config: PrepareConfig | None) -> Entry:
    """The cut with its text as trained on, or why it is dropped; limits count where there is a `config`."""
    if isinstance(entry, Rejected):
        return entry
    supervision = entry.supervisions[0]
    audio = entry.recording.sources[0].source
    text = corpus.normalise(supervision.text or "")
    if text is None:
        detail = f"expected speech, got a garbage tag in {supervision.text!r}"
        return Rejected(id=entry.id, audio=audio, reason=Reason.NOT_SPEECH, detail=detail)
    if not text:
        return Rejected(id=entry.id, audio=audio, reason=Reason.NO_TEXT, detail="expected a transcript, got an empty text")
    supervision.text = text
    if config is None:
        return entry
    utterance = Utterance(id=entry.id, audio=Path(audio), text=text)
    # Ids are not compared: they are unique as published, and ten million of them would fill the memory.
    return check_samples(utterance, entry.num_samples, limits=config.limits) or entry


def _with_progress(entries: Any, has_progress: bool) -> Any:
    """Count what goes by on stderr."""
    return track(entries, "prepare", unit="utterances", is_hidden=not has_progress, is_kept=True)
