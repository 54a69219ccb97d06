"""Data checks before the first step: which utterances a run would skip, and why.

No audio is opened, and few cuts are in memory at a time. Checked are all rules of `zipasr prepare` that need only the cut,
encoder frames at 25 Hz against tokens at the fastest speed, unknown characters, and repeated ids and texts. Of a large
manifest only a sample is checked, and the table says so.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.checkpoint import checkpoint_folders
from zipasr.data.audio_paths import missing_recording
from zipasr.data.lengths import frames_needed, num_encoder_frames
from zipasr.data.manifest_index import IndexedCuts
from zipasr.progress import write_line
from zipasr.text import normalize, single_spaced
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import read_split
from zipasr.train.data_report import DataReport, Finding, SplitReport
from zipasr.train.folder import tokenizer_folder
from zipasr.train.resolve import with_vocabulary
from zipasr.train.spellings import Spellings

MOST_UTTERANCES = 50_000
"""Maximum number of checked utterances per split: about five seconds of work; shares are accurate to 0.1 or 0.2 percent."""
_NUM_FILES = 2000
"""Number of files whose existence is checked; beyond it every fiftieth, because the folder may be on a slow network."""
_FILE_STRIDE = 50
_MIX = "mix."
_ROUNDING_S = 0.1
"""Tolerance by which cuts may end after their recording, because manifests round durations."""


def check_new_run(config: TrainConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Print the table on stderr and check that the data can be used before the first step of a run; no-op later.

    Raises:
        DataError: a manifest cannot be read, or the data cannot be used; see `DataReport.require_usable`.
    """
    if checkpoint_folders(out):
        return
    report = examine(config, tokenizer, read_splits(config))
    write_line(report.format_table())
    report.require_usable()


def check_recipe(config: TrainConfig, out: Path) -> DataReport:
    """The report of `check_new_run`, without writing anything; uses the vocabulary of the run if there is one.

    Raises:
        DataError: a manifest cannot be read.
        ConfigError: the vocabulary cannot be created as configured.
        CheckpointError: the vocabulary of the run, or of the model to finetune, cannot be read.
    """
    splits = read_splits(config)
    config, tokenizer = with_vocabulary(config, splits["train"], tokenizer_folder(out))
    return examine(config, tokenizer, splits)


def read_splits(config: TrainConfig) -> dict[str, IndexedCuts]:
    """The cuts of train, of the folders to mix in ("mix.0", "mix.1", ...), of dev and, if it exists, of test.

    Raises:
        DataError: train or dev is missing, or a manifest is damaged or has another sampling rate.
    """
    folder = Path(config.data)
    train = read_split(folder, "train")
    has_test = any((folder / f"test_cuts.jsonl{ending}").is_file() for ending in (".gz", ""))
    mixed = {f"{_MIX}{i}": read_split(mix.data, "train") for i, mix in enumerate(config.mix)}
    others = {name: read_split(folder, name) for name in ("dev", *(["test"] if has_test else []))}
    return {"train": train, **mixed, **others}


def examine(
    config: TrainConfig, tokenizer: Tokenizer, splits: Mapping[str, Iterable[Any]], *, most: int = MOST_UTTERANCES
) -> DataReport:
    """Apply every rule that needs no audio to the cuts of "train", "dev" and optionally "test" and what is mixed in.

    Cuts to train on come first in `splits`; "mix.0" is from `config.mix[0]`. Of a sequence with more than `most` cuts, an
    evenly spread sample is checked; of an iterable, the first ones.
    """
    trained, spellings = _Trained(), Spellings()
    reports = {}
    for name, cuts in splits.items():
        mixed_from = config.mix[int(name.removeprefix(_MIX))].data if name.startswith(_MIX) else ""
        report = reports[name] = SplitReport(name, mixed_from)
        _examine_split(_chosen(cuts, most, report), report, config, tokenizer, trained, spellings)
    cure = _vocabulary_cure(tokenizer, config)
    return DataReport(reports, config.max_lost_share, config.max_unknown_share, cure, spellings.describe_mixtures())


@dataclass
class _Trained:
    """What the parts to train on contain, by which others are judged."""

    ids: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    """Hashes of the texts."""


def _examine_split(
    cuts: Iterable[Any],
    report: SplitReport,
    config: TrainConfig,
    tokenizer: Tokenizer,
    trained: _Trained,
    spellings: Spellings,
) -> None:
    """Apply the rules to the cuts of one split; what is trained on is added to `trained`, every text to `spellings`."""
    ids: set[str] = set()
    characters: set[str] = set()
    for cut in cuts:
        report.num_utterances += 1
        report.durations_s.append(float(cut.duration))
        if cut.id in ids:
            report.note(Finding.REPEATED_ID, cut.id)
        ids.add(cut.id)
        if not report.is_trained_on and cut.id in trained.ids:
            report.note(Finding.SHARED_ID, cut.id)
        _look_for_file(cut, report)
        text = _text_of(cut)
        if text is None:
            report.lose(Finding.NO_TEXT, cut.id)
            continue
        spellings.add(text)
        text = single_spaced(normalize(text))
        characters.update(text)
        if report.is_trained_on:
            trained.texts.add(hash(text))
        elif hash(text) in trained.texts:
            report.note(Finding.SHARED_TEXT, cut.id)
        tokens = tokenizer.encode(text)
        has_no_unk = tokenizer.unk_id is None
        if tokenizer.unknown_characters(text) if has_no_unk else tokenizer.unk_id in tokens:
            report.note(Finding.UNKNOWN_CHARACTERS, cut.id)
        _apply_rules(cut, tokens, config, report)
    if report.is_trained_on:
        trained.ids |= ids
    report.unknown = "".join(sorted(tokenizer.unknown_characters(" ".join(sorted(characters)))))


def _vocabulary_cure(tokenizer: Tokenizer, config: TrainConfig) -> str:
    """What to do if a vocabulary that was not learned from the training texts lacks many of their characters."""
    letters = "".join(tokenizer.letters)
    style = "prepare the data with texts in the style of the vocabulary"
    if letters.isupper():
        style = "prepare the data in upper case, like the vocabulary: zipasr prepare SOURCE --out DIR --text-style words"
    elif letters.islower():
        style = "prepare the data with texts in lower case, like the vocabulary, and with its punctuation only"
    new = "leave tokenizer.file out" if config.finetune is None else "--set finetune.vocabulary=new"
    return f"Either {style}, or learn a new vocabulary with: {new}"


def _apply_rules(cut: Any, tokens: Sequence[int], config: TrainConfig, report: SplitReport) -> None:
    """Count an utterance with a text under the first rule that it violates; length limits apply to training only."""
    report.token_counts.append(len(tokens))
    if cut.has_recording and cut.end > cut.recording.duration + _ROUNDING_S:
        report.note(Finding.BEYOND_RECORDING, cut.id)
    problems = _problems_of_copies(cut, tokens, config, is_train=report.is_trained_on)
    found = [problem for problem in problems if problem]
    if cut.sampling_rate != SAMPLE_RATE_HZ:
        report.lose(Finding.SAMPLING_RATE, cut.id)
    elif cut.num_samples <= 0:
        report.lose(Finding.NO_AUDIO, cut.id)
    elif len(found) == len(problems):
        report.lose(found[0] if len(set(found)) == 1 else Finding.TOO_MANY_TOKENS, cut.id)
    elif found:
        report.note(Finding.NOT_EVERY_SPEED, cut.id)


def _problems_of_copies(cut: Any, tokens: Sequence[int], config: TrainConfig, *, is_train: bool) -> list[Finding | None]:
    """The first rule that each copy at another speed violates, or None; one for all if they share the decision."""
    factors = config.batch.speed_factors
    speeds = factors if config.use_copy_limits and is_train else (1.0,)
    needed = frames_needed(tokens, has_ctc=config.model.ctc is not None) if config.use_token_limit else 1
    problems: list[Finding | None] = []
    for speed in speeds:
        copy_s = round(cut.duration / speed, 8)
        fastest = max(factors) if is_train and not config.use_copy_limits else speed
        if is_train and copy_s < config.min_duration_s:
            problems.append(Finding.TOO_SHORT)
        elif is_train and copy_s > config.max_duration_s:
            problems.append(Finding.TOO_LONG)
        elif num_encoder_frames(int(cut.num_samples / fastest)) < needed:
            problems.append(Finding.TOO_MANY_TOKENS)
        else:
            problems.append(None)
    return problems


def _text_of(cut: Any) -> str | None:
    """The text of a cut with exactly one text, else None."""
    if len(cut.supervisions) != 1:
        return None
    text: str = cut.supervisions[0].text or ""
    return text if normalize(text).strip() else None


def _look_for_file(cut: Any, report: SplitReport) -> None:
    """Count an utterance if the file of its recording does not exist."""
    if report.num_files_checked >= _NUM_FILES and report.num_utterances % _FILE_STRIDE:
        return
    report.num_files_checked += 1
    missing = missing_recording(cut)
    if missing or not cut.has_recording:
        report.num_missing += 1
        report.remember(Finding.NO_RECORDING, f"{missing} ({cut.id})" if missing else cut.id)


def _chosen(cuts: Iterable[Any], most: int, report: SplitReport) -> Iterator[Any]:
    """Yield all cuts, or a sample of at most `most`; their total number goes into the report."""
    if isinstance(cuts, Sequence):
        report.num_there = len(cuts)
        report.num_textless = cuts.num_cuts - cuts.num_usable if isinstance(cuts, IndexedCuts) else 0
        number = min(most, len(cuts))
        for i in range(number):
            yield cuts[i * len(cuts) // number]
        return
    iterator = iter(cuts)
    yield from itertools.islice(iterator, most)
    if next(iterator, None) is None:
        report.num_there = report.num_utterances
