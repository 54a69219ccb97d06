"""From any source of speech to a folder of training data: cuts, audio, and a list of rejected entries.

`prepare` writes `{train,dev,test}_cuts.jsonl.gz` or `noise_cuts.jsonl.gz` (Lhotse), `audio/*.flac` at 16 kHz mono for
recordings in other formats (for a source that is one part, such as dev, `audio-dev/*.flac`), `rejected.jsonl` and
`prepare.json`. Paths in the cuts are relative to the folder for audio in it, so that it can be moved, and absolute for other
recordings. The same source gives the same bytes.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.audio_paths import path_in
from zipasr.data.manifest_index import require_lhotse
from zipasr.errors import ConfigError, DataError
from zipasr.lines import write_rows, writing_rows
from zipasr.prepare.config import CHOICE_OF_SPLITS, PrepareConfig
from zipasr.prepare.conversion import Converter, Ready, move_audio, recordings_in, staged_audio
from zipasr.prepare.corpora import make_cut
from zipasr.prepare.prompts import split_prompts
from zipasr.prepare.published import find_corpus, prepare_published
from zipasr.prepare.recording_files import expanded
from zipasr.prepare.report import PrepareReport
from zipasr.prepare.sources import OpenSource, open_source
from zipasr.prepare.splits import NOISE, SPLITS, audio_folder, audio_folders, split_utterances
from zipasr.prepare.spoken import has_digits, spoken_words
from zipasr.prepare.tags import TAGS, without_tags
from zipasr.prepare.utterance import Reason, Rejected, Utterance, reject
from zipasr.prepare.validate import check_id, check_text, check_unwritten_words
from zipasr.recognizer import Recognizer
from zipasr.text import normalize, single_spaced

_NUM_TAGS_SHOWN = 3
_LHOTSE_NAMES = ({"width"}, {"array"}, {"shape"}, {"id", "sources", "sampling_rate"})
"""Names by which Lhotse takes a value of `custom` for an image, an array or a recording of its own."""


def _styled(utterance: Utterance, text_style: str) -> Utterance | Rejected:
    """Normalize the text of an utterance and convert it to `text_style`, or reject the utterance."""
    if text_style == "as-written":
        text = single_spaced(normalize(utterance.text))
    else:
        text = spoken_words(utterance.text, utterance.language or "en")
        if has_digits(text):
            detail = f"expected words, got digits that may be read in several ways: {utterance.text!r}"
            return reject(utterance, Reason.DIGITS, detail)
    styled = replace(utterance, text=text)
    return check_text(styled) or styled


def _untagged(utterance: Utterance) -> Utterance | Rejected:
    """Drop the tags in the text of an utterance, or reject it if one stands for words."""
    fault = check_unwritten_words(utterance)
    if fault:
        return fault
    untagged = replace(utterance, text=without_tags(utterance.text))
    if utterance.text.strip() and not untagged.text:
        return reject(utterance, Reason.NO_TEXT, f"expected words, got tags only: {utterance.text!r}")
    return untagged


def _checked(
    entries: Iterable[Utterance | Rejected], text_style: str, config: PrepareConfig
) -> Iterator[Utterance | Rejected]:
    """Apply the checks that need no audio, and convert the texts; noise has none."""
    is_untagged = (config.tags or ("drop" if text_style == "words" else "keep")) == "drop"
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, Utterance):
            fault = check_id(entry, seen)
            seen.add(entry.id)
            if config.split == NOISE:
                yield fault or replace(entry, text="")
                continue
            entry = fault or (_untagged(entry) if is_untagged else entry)
            entry = _styled(entry, text_style) if isinstance(entry, Utterance) else entry
        yield entry


def _assign(utterances: Sequence[Utterance], kind: str, config: PrepareConfig) -> dict[str, str]:
    """The split of every utterance id: as configured, from the source if it holds anything out, or by `split_utterances`."""
    if config.split is not None:
        return {utterance.id: config.split for utterance in utterances}
    if kind == "prompts":
        return split_prompts(utterances)
    named = {utterance.split for utterance in utterances}
    shares = {"test": config.test_share, "dev": config.dev_share}
    if "dev" in named:
        shares = {}
    elif "test" in named:  # training needs a dev set
        del shares["test"]
    free = [utterance for utterance in utterances if utterance.split not in ("dev", "test")]
    splits = split_utterances(free, shares, max_held_out=config.max_held_out, seed=config.seed)
    return {utterance.id: splits.get(utterance.id) or utterance.split or "train" for utterance in utterances}


def _readable(value: Any) -> Any:
    """A value of `custom`: as JSON text if Lhotse, when it reads the cut, would take it for an object of its own."""
    is_taken = isinstance(value, dict) and any(names <= value.keys() for names in _LHOTSE_NAMES)
    return json.dumps(value, ensure_ascii=False) if is_taken else value


def _cut(ready: Ready, out: Path) -> dict[str, Any]:
    """The Lhotse cut of an utterance in the prepared folder `out`, as JSON values."""
    from lhotse import AudioSource, Recording, SupervisionSegment

    utterance, duration_s = ready.utterance, ready.num_samples / SAMPLE_RATE_HZ
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=path_in(out, ready.audio))],
        sampling_rate=SAMPLE_RATE_HZ,
        num_samples=ready.num_samples,
        duration=duration_s,
    )
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration_s,
        text=utterance.text,
        language=utterance.language,
        speaker=utterance.speaker,
        custom={name: _readable(value) for name, value in utterance.custom.items()} or None,
    )
    row: dict[str, Any] = make_cut(recording, supervision).to_dict()
    return row


def _report(parts: dict[str, list[Ready]], rejected: Sequence[Rejected]) -> PrepareReport:
    """Count utterances, words and rejects."""
    words = {split: [word for ready in part for word in ready.utterance.text.split()] for split, part in parts.items()}
    trained = set(words["train"])
    sentences = {ready.utterance.text for ready in parts["train"]}
    held_out = [split for split in SPLITS[1:] if parts[split] and parts["train"]]
    return PrepareReport(
        num_utterances={split: len(part) for split, part in parts.items()},
        durations_s={split: sum(r.num_samples for r in part) / SAMPLE_RATE_HZ for split, part in parts.items()},
        num_words={split: len(part) for split, part in words.items()},
        num_rejected=dict(sorted(Counter(entry.reason.value for entry in rejected).items())),
        num_unseen_words={split: len(set(words[split]) - trained) for split in held_out},
        num_repeated_sentences={
            split: sum(ready.utterance.text in sentences for ready in parts[split]) for split in held_out
        },
    )


def prepare(
    source: str | Path, out: str | Path, config: PrepareConfig | None = None, *, has_progress: bool = False
) -> PrepareReport:
    """Convert a source of speech to cuts, audio and a list of rejected entries in the folder `out`.

    A bad recording or entry is listed with its reason, and the others are prepared. The cuts in an existing `out` are
    replaced at the end; if `config.split` is set, only those of that part. Until then nothing changes in `out` but
    `rejected.jsonl`, which is that of the last run, like `prepare.json`. Audio of earlier runs stays, unless there is new
    audio of the same name.

    Args:
        source: a folder, a manifest, Lhotse cuts, a Kaldi directory, or the word `prompts`; see `sources.open_source`. Or
            NAME:FOLDER for a published corpus with its official splits; see `corpora.PUBLISHED`.
        has_progress: whether to show progress on stderr.
    Raises:
        DataError: the kind of the source is unknown, nothing in it can be used, `out` is the source or cannot be written, or
            new audio would replace a recording of the source.
        ConfigError: `text_style` is as-written for prompts, a setting has no effect for this source, or `align_with` is a
            model without a CTC head.
        CheckpointError: `align_with` is no model folder.
    """
    config = config or PrepareConfig()
    require_lhotse("preparing data")
    out = Path(out)
    corpus = find_corpus(source)
    if corpus is not None:
        return prepare_published(corpus, out, config, has_progress=has_progress)
    if config.subset is not None:
        raise ConfigError(f"subset must be left out for {source}, which is not a published corpus, but is {config.subset!r}")
    if source != "prompts":
        _refuse_own_folders(expanded(source), out)
    _refuse_without_effect(config, is_prompts=source == "prompts")
    opened = open_source(source, config.lang, skip=out, needs_texts=config.split != NOISE)
    if opened.kind == "prompts" and config.text_style == "as-written":
        raise ConfigError("text_style must be words for prompts, but is 'as-written' instead")
    text_style = "as-written" if opened.kind == "prompts" else config.text_style or "as-written"
    entries = list(_checked(opened.entries, text_style, config))
    utterances = [entry for entry in entries if isinstance(entry, Utterance)]
    audio = audio_folder(out, config.split)
    limits = replace(config.limits, max_duration_s=math.inf) if config.split == NOISE else config.limits
    recognizer = Recognizer.load(config.align_with) if config.align_with else None
    try:
        with staged_audio(audio) as staging:
            kept = recordings_in(audio, utterances)
            converter = Converter(audio, staging, replace(config, limits=limits), kept, recognizer)
            with closing(converter.convert(utterances, has_progress=has_progress)) as converted:
                results = list(converted)
            ready = sorted((r for r in results if isinstance(r, Ready)), key=lambda item: item.utterance.id)
            rejected = [entry for entry in (*entries, *results) if isinstance(entry, Rejected)]
            rejected.sort(key=lambda entry: (entry.id, entry.audio, entry.detail))
            write_rows(out / "rejected.jsonl", (entry.to_dict() for entry in rejected))
            if not ready:
                raise DataError(_no_utterances(source, rejected, out))
            return _write(ready, rejected, opened, config, out, staging)
    except OSError as error:
        raise DataError(f"{out} must be writable, but: {error}; choose another folder") from error


def _refuse_without_effect(config: PrepareConfig, *, is_prompts: bool) -> None:
    """Raise ConfigError if a setting has no effect."""
    if config.split == NOISE:
        config.refuse(("align_with", "text_style", "tags"), "noise, which has no texts")
        config.refuse(("limits.max_duration_s",), "noise, which may be of any length")
    if config.split is not None:
        config.refuse(CHOICE_OF_SPLITS, "a source that is kept whole as one part")
    if is_prompts:
        config.refuse(CHOICE_OF_SPLITS, "prompts, whose parts are always the same")
    if config.align_with is None:
        config.refuse(("min_align_confidence",), "a run without align_with")


def _refuse_own_folders(source: Path, out: Path) -> None:
    """Raise DataError if the source is the output folder, or in the folders for audio that it has or may get."""
    if source.resolve() == out.resolve() and out.is_dir():
        raise DataError(f"the output must be another folder than the source, but is {out} for both; choose a new one")
    for folder in audio_folders(out):
        if source.is_dir() and source.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"the source must be outside of {folder}, where audio is written, but is {source}; choose another output"
            )


def _no_utterances(source: str | Path, rejected: Sequence[Rejected], out: Path) -> str:
    """The message for a source without usable utterances."""
    if not rejected:
        return f"{source} must contain utterances, but has none"
    example = f"for example {rejected[0].id}: {rejected[0].reason}, {rejected[0].detail}"
    listed = out / "rejected.jsonl"
    return f"{source} must contain usable utterances, but all {len(rejected)} are rejected; {example}. See {listed}"


def _write(
    ready: Sequence[Ready], rejected: Sequence[Rejected], opened: OpenSource, config: PrepareConfig, out: Path, staging: Path
) -> PrepareReport:
    """Split the utterances; put audio, the cuts of each split and the summary in their places."""
    utterances = [item.utterance for item in ready]
    splits = _assign(utterances, opened.kind, config)
    names = (*SPLITS, NOISE) if config.split == NOISE else SPLITS
    parts = {split: [item for item in ready if splits[item.utterance.id] == split] for split in names}
    paths = {split: out / f"{split}_cuts.jsonl.gz" for split, part in parts.items() if part or config.split is None}
    with ExitStack() as stack:  # the new cuts appear when all is done
        for split in filter(parts.__getitem__, paths):
            write = stack.enter_context(writing_rows(paths[split], follows_links=False))
            for item in parts[split]:
                write(_cut(item, out))
        # The audio may replace that of the old cuts: without these, an interruption leaves no text beside other audio.
        for path in paths.values():
            path.unlink(missing_ok=True)
        move_audio(staging, audio_folder(out, config.split))
    report = replace(_report(parts, rejected), source=opened.name, notes=list(_notes(utterances, parts, config)))
    write_rows(out / "prepare.json", [{"kind": opened.kind, "config": asdict(config), "report": report.to_dict()}])
    return report


def _notes(utterances: Sequence[Utterance], parts: Mapping[str, Sequence[Ready]], config: PrepareConfig) -> Iterator[str]:
    """What may be other than the user expects, and the cure."""
    if config.split is None:
        yield from _notes_on_parts({utterance.split for utterance in utterances}, parts)
    tagged = [utterance.text for utterance in utterances if TAGS.search(utterance.text)]
    if tagged:
        tags = Counter(tag for text in tagged for tag in TAGS.findall(text))
        shown = ", ".join(tag for tag, _ in tags.most_common(_NUM_TAGS_SHOWN))
        yield (
            f"{len(tagged):,} texts have tags, such as {shown}, which a model would learn to write; to train without them, "
            "prepare with --set tags=drop"
        )


def _notes_on_parts(named: Set[str | None], parts: Mapping[str, Sequence[Ready]]) -> Iterator[str]:
    """What may be unexpected about the parts, given those that the source names."""
    if parts["train"] and not parts["dev"]:
        yield (
            "there is no dev part, which training needs; prepare 3 utterances or more with dev_share above 0, or a source "
            "with a dev part"
        )
    elif "test" in named and "dev" not in named and parts["dev"]:
        yield f"the source has no dev part, so training utterances were held out for it ({len(parts['dev']):,})"
    if not parts["train"]:
        yield "there is no training part: this data can be evaluated on, but not trained on"
