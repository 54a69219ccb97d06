"""From a published corpus to a folder of training data, with the official splits: `zipasr prepare librispeech:FOLDER`.

`prepare_published` writes `train_cuts.jsonl.gz`, `dev_cuts.jsonl.gz`, one file for each test set
(`test-clean_cuts.jsonl.gz`), or `noise_cuts.jsonl.gz` for MUSAN; `rejected.jsonl` and `prepare.json`. Audio is not copied,
and one cut at a time is in memory.
"""

import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.audio_paths import path_in
from zipasr.data.manifest_index import open_cuts
from zipasr.errors import ConfigError, DataError
from zipasr.lines import write_rows, writing_rows
from zipasr.prepare.config import CHOICE_OF_SPLITS, PrepareConfig
from zipasr.prepare.corpora import (
    PUBLISHED,
    Entry,
    PublishedCorpus,
    find_json,
    part_folder,
    read_folders,
    read_json,
    read_musan,
)
from zipasr.prepare.recording_files import expanded
from zipasr.prepare.report import PrepareReport
from zipasr.prepare.splits import NOISE
from zipasr.prepare.utterance import Reason, Rejected, Utterance, reject
from zipasr.prepare.validate import check_samples, check_text
from zipasr.progress import track
from zipasr.text import normalize

MUSAN = "musan"


class CorpusFolder(NamedTuple):
    """A published corpus: its name and its folder."""

    name: str
    folder: Path


def find_corpus(source: str | Path) -> CorpusFolder | None:
    """The corpus and folder of a source `NAME:FOLDER`; None for any other source.

    Raises:
        DataError: the folder does not exist.
    """
    match = re.fullmatch(rf"({'|'.join(PUBLISHED)}|{MUSAN}):(.+)", str(source))
    if match is None:
        return None
    folder = expanded(match[2])  # the shell leaves ~ after a colon as it is
    if not folder.is_dir():
        raise DataError(f"{match[1]}: must be followed by its folder, but {folder} is not a folder; download it first")
    return CorpusFolder(match[1], folder)


class _Counts:
    """Running counts for the report."""

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
            missing_parts=missing_parts,
        )


def prepare_published(
    source: CorpusFolder, out: Path, config: PrepareConfig, *, has_progress: bool = False
) -> PrepareReport:
    """Write the cuts of a published corpus, with the texts of the published recipe.

    The limits of `config` apply to the training part; dev and test keep every utterance with audio and text.

    Raises:
        DataError: the folder does not have the published layout, or `out` cannot be written.
        ConfigError: a setting does not apply to this corpus.
    """
    _check_config(source.name, config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if source.name == MUSAN:
            report = _prepare_noise(source, out, has_progress)
        else:
            report = _prepare_speech(source, out, config, has_progress)
        write_rows(out / "prepare.json", [{"kind": source.name, "config": asdict(config), "report": report.to_dict()}])
    except OSError as error:
        raise DataError(f"{source.folder} must be readable and {out} writable, but: {error}") from error
    return report


def _check_config(name: str, config: PrepareConfig) -> None:
    """Raise ConfigError if a setting has no effect on a corpus."""
    config.refuse(("text_style", "tags", "lang"), f"{name}, whose texts are as published")
    config.refuse(("split", *CHOICE_OF_SPLITS), f"{name}, which has official parts")
    config.refuse(("allow_damaged", "align_with", "min_align_confidence"), f"{name}, whose audio is not converted")
    if name == MUSAN:
        config.refuse(("limits",), f"{name}, which may be of any length")
    subsets = PUBLISHED[name].subsets if name in PUBLISHED else ()
    if config.subset is not None and config.subset not in subsets:
        cure = f"one of {', '.join(subsets)}" if subsets else "left out"
        raise ConfigError(f"subset of {name} must be {cure}, but is {config.subset!r} instead")


def _prepare_noise(source: CorpusFolder, out: Path, has_progress: bool) -> PrepareReport:
    counts = _Counts([NOISE])
    with writing_rows(out / f"{NOISE}_cuts.jsonl.gz", follows_links=False) as write:
        for cut in _with_progress(read_musan(source.folder), has_progress):
            counts.add(NOISE, cut)
            write(_row(cut, out))
    return counts.report([])


def _prepare_speech(source: CorpusFolder, out: Path, config: PrepareConfig, has_progress: bool) -> PrepareReport:
    corpus = PUBLISHED[source.name]
    splits = _splits(corpus, config)
    if corpus.json_name:
        find_json(*source)
    present = [part for part in splits if corpus.json_name or part_folder(*source, part).is_dir()]
    if not present:
        raise DataError(
            f"{source.folder} must contain the parts {', '.join(splits)} of {source.name}, but has none of them; name the "
            "folder that contains them"
        )
    names = list(dict.fromkeys(splits.values()))
    counts, found = _Counts(names), set()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(writing_rows(out / f"{split}_cuts.jsonl.gz", follows_links=False)) for split in names
        }
        write_rejected = stack.enter_context(writing_rows(out / "rejected.jsonl"))
        entries = read_json(*source, present) if corpus.json_name else read_folders(*source, present, config.num_jobs)
        for part, entry in _with_progress(entries, has_progress):
            split = splits.get(part, "")
            entry = _checked(entry, corpus, config if split == "train" else None)
            if isinstance(entry, Rejected):
                counts.rejected[entry.reason.value] += 1
                write_rejected(entry.to_dict())
                continue
            found.add(part)
            counts.add(split, entry)
            writers[split](_row(entry, out))
    for split in names:
        if not counts.num_utterances[split]:
            (out / f"{split}_cuts.jsonl.gz").unlink()
    if not found:
        raise DataError(
            f"{source.folder} must contain usable utterances, but all {sum(counts.rejected.values())} are rejected; "
            f"see {out / 'rejected.jsonl'}"
        )
    if counts.num_utterances["train"]:
        open_cuts(out / "train_cuts.jsonl.gz")  # write the index now, so that training starts at once
    return counts.report([part for part in splits if part not in found])


def _row(cut: Any, out: Path) -> dict[str, Any]:
    """A cut as JSON values, with the paths that a manifest in `out` should have."""
    row: dict[str, Any] = cut.to_dict()
    for source in row["recording"]["sources"]:
        source["source"] = path_in(out, Path(source["source"]))
    return row


def _splits(corpus: PublishedCorpus, config: PrepareConfig) -> dict[str, str]:
    """The split of each official part to prepare."""
    train = corpus.train if config.subset is None else (config.subset,)
    return {**dict.fromkeys(train, "train"), **dict.fromkeys(corpus.dev, "dev"), **corpus.test}


def _checked(entry: Entry, corpus: PublishedCorpus, config: PrepareConfig | None) -> Entry:
    """The cut with its training text, or the reason for dropping it; the limits of `config` apply if it is given."""
    if isinstance(entry, Rejected):
        return entry
    supervision = entry.supervisions[0]
    text = corpus.normalize(normalize(supervision.text or ""))
    utterance = Utterance(id=entry.id, audio=Path(entry.recording.sources[0].source), text=text or "")
    if text is None:
        return reject(utterance, Reason.NOT_SPEECH, f"expected speech, got a garbage tag in {supervision.text!r}")
    # Ids are not compared: they are unique as published, and ten million would fill the memory.
    fault = check_text(utterance)
    if config is not None and fault is None:
        fault = check_samples(utterance, entry.num_samples, config.limits)
    supervision.text = text
    return fault or entry


def _with_progress(entries: Any, has_progress: bool) -> Any:
    """Show on stderr how many entries have been read."""
    return track(entries, "prepare", unit="utterances", is_hidden=not has_progress, is_kept=True)
