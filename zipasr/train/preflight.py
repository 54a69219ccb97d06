"""Data checks before the first step: which utterances a run would skip, and why.

No audio is opened, and few cuts are in memory at a time. Checked are all rules of `zipasr prepare` that need only the cut,
encoder frames at 25 Hz against tokens at the fastest speed, unknown characters, and repeated ids and texts. Of a large
manifest only a sample is checked, and the table says so.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.checkpoint import checkpoint_folders
from zipasr.data.audio_paths import missing_recording
from zipasr.data.lengths import frames_needed, num_encoder_frames
from zipasr.data.manifest_index import IndexedCuts
from zipasr.errors import DataError
from zipasr.progress import write_line
from zipasr.text import normalize, single_spaced
from zipasr.tokenizer import Tokenizer
from zipasr.train.bars import bars
from zipasr.train.config import TrainConfig
from zipasr.train.data import read_split
from zipasr.train.folder import tokenizer_folder
from zipasr.train.resolve import with_vocabulary
from zipasr.train.spellings import Spellings

MOST_UTTERANCES = 50_000
"""Maximum number of checked utterances per split: about five seconds of work; shares are accurate to 0.1 or 0.2 percent."""
_NUM_FILES = 2000
"""Number of files whose existence is checked; beyond it every fiftieth, because the folder may be on a slow network."""
_FILE_STRIDE = 50
_NUM_EXAMPLES = 3
_NUM_CHARACTERS = 30
_ROUNDING_S = 0.1
"""Tolerance by which cuts may end after their recording, because manifests round durations."""

_NO_TEXT = "without exactly one text"
_EMPTY = "without audio"
_RATE = f"not at {SAMPLE_RATE_HZ // 1000} kHz"
_SHORT, _LONG = "too short", "too long"
_TOKENS = "with more tokens than encoder frames"
_COPIES = "not used at every speed"
_DUPLICATE = "with an id that came before"
_SHARED_ID = "with an id of the training part"
_SHARED_TEXT = "with a text of the training part"
_BEYOND = "ending after the recording does"
_UNKNOWN = "with characters that the vocabulary lacks"
_MISSING = "without their recording"


@dataclass
class SplitReport:
    """Findings in one split."""

    name: str
    num_utterances: int = 0
    """Number of checked utterances."""
    num_there: int | None = None
    """Total number of utterances; None if unknown without reading on."""
    num_textless: int = 0
    """Number of further utterances that the index skips because they have no text or several."""
    durations_s: list[float] = field(default_factory=list)
    token_counts: list[int] = field(default_factory=list)
    """Number of tokens of each utterance that has a text."""
    num_lost: Counter[str] = field(default_factory=Counter)
    """Number of utterances that cannot be used, by reason; each counts once."""
    num_missing: int = 0
    """Number of utterances without their recording, of `num_files_checked`."""
    num_files_checked: int = 0
    num_noted: Counter[str] = field(default_factory=Counter)
    """Number of utterances that are used despite an irregularity, by kind."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the first affected utterances, by reason."""
    unknown: str = ""
    """Characters that are not in the vocabulary."""

    @property
    def is_sample(self) -> bool:
        """Whether only a part of the utterances was checked."""
        return self.num_there is None or self.num_there > self.num_utterances

    @property
    def lost_share(self) -> float:
        """Share of the utterances that cannot be used."""
        missing = self.num_missing / max(self.num_files_checked, 1)
        lost = min(1.0, self.num_lost.total() / max(self.num_utterances, 1) + missing)
        textless = self.num_textless / max(self.num_textless + (self.num_there or self.num_utterances), 1)
        return textless + (1.0 - textless) * lost

    def lose(self, reason: str, id: str) -> None:
        """Count an utterance that cannot be used."""
        self.num_lost[reason] += 1
        self.remember(reason, id)

    def note(self, what: str, id: str) -> None:
        """Count an utterance with an irregularity."""
        self.num_noted[what] += 1
        self.remember(what, id)

    def remember(self, reason: str, id: str) -> None:
        """Keep an id as an example, up to a maximum number."""
        known = self.examples.setdefault(reason, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(id)


@dataclass(frozen=True)
class DataReport:
    """Findings in the data of a run."""

    splits: dict[str, SplitReport]
    max_lost_share: float
    max_unknown_share: float = 1.0
    vocabulary_cure: str = ""
    """What to do if the vocabulary lacks characters."""
    mixtures: str = ""
    """A line about spellings that are mixed, or empty."""

    def require_usable(self) -> None:
        """Check that enough training data is left, that it is in the vocabulary, and that validation is meaningful.

        Raises:
            DataError: the training set would lose more than `max_lost_share`, or everything; more than `max_unknown_share`
                of it has unknown characters; the dev set is empty or has a repeated id.
        """
        train, dev = self.splits["train"], self.splits["dev"]
        if train.num_utterances == 0:
            raise DataError(
                "there must be utterances to train on, but the training manifest holds none; prepare the data again"
            )
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in train.num_lost.most_common())
        if train.num_textless:
            reasons += f"{', ' if reasons else ''}{train.num_textless:,} {_NO_TEXT}"
        if train.num_missing:
            reasons += (
                f"{', ' if reasons else ''}{train.num_missing:,} of {train.num_files_checked:,} without their recording, "
                f"such as {train.examples[_MISSING][0]}"
            )
        if train.lost_share > self.max_lost_share or train.lost_share >= 1.0:
            raise DataError(
                f"at most {self.max_lost_share:.0%} of the training utterances may be lost (max_lost_share), but "
                f"{train.lost_share:.1%} of {train.num_utterances:,} would be: {reasons}; {', or '.join(_cures(train))}"
            )
        self._require_known_characters(train)
        if dev.num_utterances == 0:
            raise DataError(
                "there must be utterances to validate on, but the dev manifest holds none; move some there from the "
                "training manifest, or prepare 3 utterances or more"
            )
        if dev.num_noted[_DUPLICATE]:
            names = ", ".join(dev.examples[_DUPLICATE])
            raise DataError(
                f"every utterance to validate on must have an id of its own, but {dev.num_noted[_DUPLICATE]:,} ids come "
                f"again ({names}), so that errors would be counted against another text; rename them"
            )

    def _require_known_characters(self, train: SplitReport) -> None:
        num_unknown = train.num_noted[_UNKNOWN]
        if num_unknown > self.max_unknown_share * train.num_utterances:
            raise DataError(
                f"at most {self.max_unknown_share:.0%} of the training utterances may have characters that the vocabulary "
                f"lacks (max_unknown_share), but {num_unknown / train.num_utterances:.1%} of {train.num_utterances:,} have: "
                f"{' '.join(train.unknown[:_NUM_CHARACTERS])}{' ...' if len(train.unknown) > _NUM_CHARACTERS else ''}; the "
                f"model would learn to write <unk> there. {self.vocabulary_cure}"
            )

    def format_table(self) -> str:
        """The report as a table for a terminal."""
        lines = [f"{'split':<8}{'utterances':>12}{'hours':>10}{'lost':>9}   looked at"]
        for name, split in self.splits.items():
            looked_at = "all"
            if split.is_sample:
                looked_at = f"{split.num_utterances:,}, spread evenly" if split.num_there else "the first ones only"
            number = split.num_there or split.num_utterances
            hours = sum(split.durations_s) / 3600.0 * number / max(split.num_utterances, 1)
            lines.append(f"{name:<8}{number:>12,}{hours:>10,.2f}{split.lost_share:>9.2%}   {looked_at}")
        for name, split in self.splits.items():
            lines += _problems(name, split)
        lines += [self.mixtures] if self.mixtures else []
        train = self.splits["train"]
        lines += bars("train: seconds of an utterance", train.durations_s)
        lines += bars("train: tokens of an utterance", train.token_counts)
        return "\n".join(line.rstrip() for line in lines)


def check_new_run(config: TrainConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Print the table on stderr and check that the data can be used before the first step of a run; no-op later.

    Raises:
        DataError: a manifest cannot be read, or the data cannot be used; see `DataReport.require_usable`.
    """
    if checkpoint_folders(out):
        return
    report = examine(config, tokenizer, read_splits(Path(config.data)))
    write_line(report.format_table())
    report.require_usable()


def check_recipe(config: TrainConfig, out: Path) -> DataReport:
    """The report of `check_new_run`, without writing anything; uses the vocabulary of the run if there is one.

    Raises:
        DataError: a manifest cannot be read.
        ConfigError: the vocabulary cannot be created as configured.
        CheckpointError: the vocabulary of the run, or of the model to finetune, cannot be read.
    """
    splits = read_splits(Path(config.data))
    config, tokenizer = with_vocabulary(config, splits["train"], tokenizer_folder(out))
    return examine(config, tokenizer, splits)


def read_splits(folder: Path) -> dict[str, IndexedCuts]:
    """The cuts of train, dev and, if it exists, test in a prepared folder.

    Raises:
        DataError: train or dev is missing, or a manifest is damaged or has another sampling rate.
    """
    names = ["train", "dev"]
    if any((folder / f"test_cuts.jsonl{ending}").is_file() for ending in (".gz", "")):
        names.append("test")
    return {name: read_split(folder, name) for name in names}


def examine(
    config: TrainConfig, tokenizer: Tokenizer, splits: Mapping[str, Iterable[Any]], *, most: int = MOST_UTTERANCES
) -> DataReport:
    """Apply every rule that needs no audio to the cuts of "train", "dev" and optionally "test".

    Args:
        config: configuration of the run.
        tokenizer: vocabulary of the run.
        splits: Lhotse cuts, train first. Of a sequence with more than `most` cuts, an evenly spread sample is checked; of
            an iterable, the first ones.
        most: maximum number of checked utterances per split.
    """
    ids: set[str] = set()
    texts: set[int] = set()
    spellings = Spellings()
    reports = {}
    for name, cuts in splits.items():
        report = SplitReport(name)
        is_train = name == "train"
        own_ids: set[str] = set()
        characters: set[str] = set()
        for cut in _chosen(cuts, most, report):
            report.num_utterances += 1
            report.durations_s.append(float(cut.duration))
            if cut.id in own_ids:
                report.note(_DUPLICATE, cut.id)
            own_ids.add(cut.id)
            if not is_train and cut.id in ids:
                report.note(_SHARED_ID, cut.id)
            _look_for_file(cut, report)
            text = _text_of(cut)
            if text is None:
                report.lose(_NO_TEXT, cut.id)
                continue
            spellings.add(text)
            text = single_spaced(normalize(text))
            characters.update(text)
            words = hash(text)
            if is_train:
                texts.add(words)
            elif words in texts:
                report.note(_SHARED_TEXT, cut.id)
            tokens = tokenizer.encode(text)
            has_no_unk = tokenizer.unk_id is None
            if tokenizer.unknown_characters(text) if has_no_unk else tokenizer.unk_id in tokens:
                report.note(_UNKNOWN, cut.id)
            _apply_rules(cut, tokens, config, report, is_train=is_train)
        if is_train:
            ids = own_ids
        report.unknown = "".join(sorted(tokenizer.unknown_characters(" ".join(sorted(characters)))))
        reports[name] = report
    cure = _vocabulary_cure(tokenizer, config)
    return DataReport(reports, config.max_lost_share, config.max_unknown_share, cure, spellings.describe_mixtures())


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


def _apply_rules(cut: Any, tokens: Sequence[int], config: TrainConfig, report: SplitReport, *, is_train: bool) -> None:
    """Count an utterance with a text under the first rule that it violates; length limits apply to training only."""
    report.token_counts.append(len(tokens))
    if cut.has_recording and cut.end > cut.recording.duration + _ROUNDING_S:
        report.note(_BEYOND, cut.id)
    problems = _problems_of_copies(cut, tokens, config, is_train=is_train)
    if cut.sampling_rate != SAMPLE_RATE_HZ:
        report.lose(_RATE, cut.id)
    elif cut.num_samples <= 0:
        report.lose(_EMPTY, cut.id)
    elif all(problems):
        report.lose(problems[0] if len(set(problems)) == 1 else _TOKENS, cut.id)
    elif any(problems):
        report.note(_COPIES, cut.id)


def _problems_of_copies(cut: Any, tokens: Sequence[int], config: TrainConfig, *, is_train: bool) -> list[str]:
    """The first rule that each copy at another speed violates, or "" if none; one for all if they share the decision."""
    factors = config.batch.speed_factors
    speeds = factors if config.use_copy_limits and is_train else (1.0,)
    needed = frames_needed(tokens, has_ctc=config.model.ctc is not None) if config.use_token_limit else 1
    problems = []
    for speed in speeds:
        copy_s = round(cut.duration / speed, 8)
        fastest = max(factors) if is_train and not config.use_copy_limits else speed
        if is_train and copy_s < config.min_duration_s:
            problems.append(_SHORT)
        elif is_train and copy_s > config.max_duration_s:
            problems.append(_LONG)
        elif num_encoder_frames(int(cut.num_samples / fastest)) < needed:
            problems.append(_TOKENS)
        else:
            problems.append("")
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
        report.remember(_MISSING, f"{missing} ({cut.id})" if missing else cut.id)


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


def _problems(name: str, split: SplitReport) -> list[str]:
    """Messages about skipped utterances and irregularities of a split."""
    lines = []
    verb = "lost" if name == "train" else "cannot be scored"
    found = [(count, split.num_utterances, reason, verb) for reason, count in split.num_lost.most_common()]
    found += [(split.num_missing, split.num_files_checked, _MISSING, verb)] if split.num_missing else []
    found += [(count, split.num_utterances, what, "note") for what, count in split.num_noted.most_common()]
    if split.num_textless:
        found.append((split.num_textless, split.num_textless + (split.num_there or 0), _NO_TEXT, verb))
    for count, total, reason, kind in found:
        examples = split.examples.get(reason, [])
        more = ", ..." if count > len(examples) > 0 else ""
        ids = f": {', '.join(examples)}{more}" if examples else ""
        lines.append(f"{name}: {kind}: {count:,} of {total:,} ({count / total:.2%}) {reason}{ids}")
    if split.unknown:
        lines.append(f"{name}: note: the vocabulary lacks {' '.join(split.unknown)}")
    return lines


def _cures(split: SplitReport) -> Iterator[str]:
    """What to do about the utterances that are lost."""
    if split.num_missing:
        yield "put the recordings back, or prepare the data again from where they are now"
    if split.num_lost[_TOKENS]:
        yield "use tokens of several letters, which are fewer (tokenizer.kind=unigram, a larger tokenizer.vocab_size)"
    if split.num_lost[_SHORT] or split.num_lost[_LONG]:
        yield "change min_duration_s or max_duration_s"
    if split.num_textless or split.num_lost:
        yield "fix the data"
    if split.lost_share < 1.0:
        yield "raise max_lost_share"
