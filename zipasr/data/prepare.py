"""Any source of speech to a folder that trains: `prepare` writes cuts, audio, and a list of what it could not use.

Out come `{train,dev,test}_cuts.jsonl.gz` (Lhotse, recordings by absolute path), `audio/*.flac` at 16 kHz mono for what
is not such a file already, `rejected.jsonl` and `prepare.json`. The same source gives the same bytes again.
"""

import gzip
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, load_audio, save_flac
from zipasr.data.corpora import open_source
from zipasr.data.prompts import split_prompts
from zipasr.data.splits import split_utterances
from zipasr.data.spoken import has_digits, spoken_words
from zipasr.data.utterance import Reason, Rejected, Utterance
from zipasr.data.validate import Limits, check_id, check_samples, check_sound, check_text, reject
from zipasr.errors import AudioError, ConfigError, DataError
from zipasr.progress import track

SPLITS = ("train", "dev", "test")
TEXT_STYLES = ("as-written", "words")

_OVERSHOOT_S = 0.5
"""By how much a segment may end after its recording does; Kaldi's extract-segments allows the same."""

_NOT_FINITE = "NaN or infinite"
"""What `load_audio` says of samples that are no numbers; it has one exception for all that is wrong with a file."""

_ROUNDING_S = 0.1
"""A stated length of a whole recording that is short by less than this was rounded, and the whole is taken."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a source is prepared."""

    lang: str = "en"
    """Language of entries that name none; of the prompts, the package."""
    text_style: str | None = None
    """as-written, or words (upper case, no punctuation, digits spelled out). None: words for prompts only."""
    dev_share: float = 0.1
    """Part of the utterances held out for dev where the source does not say."""
    test_share: float = 0.1
    """Part of the utterances held out for test where the source does not say."""
    max_held_out: int = 1000
    """The most utterances in each of dev and test where the source does not say."""
    seed: int = 0
    """Another one holds out other utterances."""
    limits: Limits = field(default_factory=Limits)
    """How long an utterance may be."""
    num_jobs: int = 2
    """Recordings that are decoded at once."""
    allow_damaged: bool = False
    """Whether to take damaged and cut recordings, with silence for what cannot be decoded, instead of rejecting them."""
    subset: str | None = None
    """Training part of a published corpus, such as M of GigaSpeech; None: the one of the published recipe."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.text_style not in (None, *TEXT_STYLES):
            raise ConfigError(f"text_style must be {' or '.join(TEXT_STYLES)}, but is {self.text_style!r} instead")
        if min(self.dev_share, self.test_share) < 0 or self.dev_share + self.test_share >= 1:
            raise ConfigError(
                "dev_share and test_share must be from 0 up and less than 1 together, "
                f"but are {self.dev_share} and {self.test_share} instead"
            )
        if self.num_jobs < 1 or self.max_held_out < 1:
            raise ConfigError(
                f"num_jobs and max_held_out must be 1 or more, but are {self.num_jobs} and {self.max_held_out} instead"
            )


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What `prepare` made."""

    num_utterances: dict[str, int]
    """By split."""
    durations_s: dict[str, float]
    """By split."""
    num_words: dict[str, int]
    """By split."""
    num_rejected: dict[str, int]
    """By reason."""
    num_unseen_words: dict[str, int]
    """Distinct words of dev and test that the training part does not hold."""
    num_repeated_sentences: dict[str, int]
    """Utterances of dev and test whose whole text is also in the training part."""
    missing_parts: list[str] = field(default_factory=list)
    """Official parts of a published corpus of which nothing was found."""

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values."""
        return asdict(self)

    def format_table(self) -> str:
        """Lay the report out for a terminal."""
        lines = [f"{'split':<8}{'utterances':>12}{'minutes':>10}{'words':>10}"]
        for split, number in self.num_utterances.items():
            minutes = self.durations_s[split] / 60
            lines.append(f"{split:<8}{number:>12,}{minutes:>10,.1f}{self.num_words[split]:>10,}")
        lines += ["", f"rejected {sum(self.num_rejected.values()):>11,}"]
        lines += [f"  {reason:<36}{number:>8,}" for reason, number in self.num_rejected.items()]
        for split, number in self.num_unseen_words.items():
            if number:
                lines.append(f"note: {number:,} distinct words of {split} do not occur in train")
        for split, number in self.num_repeated_sentences.items():
            if number:
                lines.append(f"note: {number:,} texts of {split} also occur in train")
        if self.missing_parts:
            lines.append(f"note: nothing found of {', '.join(self.missing_parts)}")
        return "\n".join(lines)


class _Ready(NamedTuple):
    """An utterance whose audio lies ready."""

    utterance: Utterance
    audio: Path
    num_samples: int


def _require_lhotse() -> None:
    """Fail early, with the cure, if Lhotse is missing."""
    try:
        import lhotse  # noqa: F401
    except ImportError as error:
        raise DataError('preparing data needs lhotse: pip install "zipasr[train]"') from error


def _styled(utterance: Utterance, text_style: str) -> Utterance | Rejected:
    """Put the text of an utterance into the wanted style."""
    if text_style == "as-written":
        return replace(utterance, text=" ".join(utterance.text.split()))
    words = spoken_words(utterance.text, utterance.language or "en")
    if has_digits(words):
        detail = f"expected words, got digits that may be read in several ways: {utterance.text!r}"
        return reject(utterance, Reason.DIGITS, detail)
    return replace(utterance, text=words)


def _sift(entries: Iterable[Utterance | Rejected], text_style: str) -> tuple[list[Utterance], list[Rejected]]:
    """Apply the rules that need no audio."""
    utterances: list[Utterance] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, Utterance):
            fault = check_id(entry, seen) or check_text(entry)
            seen.add(entry.id)
            entry = fault or _styled(entry, text_style)
        if isinstance(entry, Utterance):
            entry = check_text(entry) or entry
        if isinstance(entry, Rejected):
            rejected.append(entry)
        else:
            utterances.append(entry)
    return utterances, rejected


def _flac_path(folder: Path, utterance_id: str) -> Path:
    """Give a place for the audio of an utterance: its id as a path, made safe, and marked where that changed it."""
    parts = [re.sub(r"[^\w.,=+-]", "_", part).lstrip(".")[:50] for part in utterance_id.split("/")]
    safe = "/".join(part for part in parts if part)
    if safe != utterance_id:
        digest = hashlib.sha256(utterance_id.encode(errors="surrogatepass")).hexdigest()[:12]
        safe = f"{safe}-{digest}" if safe else digest
    return folder / f"{safe}.flac"


def _is_plain(path: Path, num_samples: int) -> bool:
    """Tell whether a file is WAV or FLAC at 16 kHz mono, which Lhotse reads as it is."""
    if path.suffix.lower() not in (".wav", ".flac") or not path.is_file():  # a pipe has been read
        return False
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    with suppress(AudioLoadingError, OSError, RuntimeError, ValueError):  # what Lhotse cannot open is converted
        recording = Recording.from_file(path)
        shape = (recording.sampling_rate, recording.num_channels, recording.num_samples)
        return shape == (SAMPLE_RATE_HZ, 1, num_samples)
    return False


def _cut_out(samples: np.ndarray, utterance: Utterance) -> np.ndarray | Rejected:
    """Take the part of a recording that an utterance names."""
    length_s = len(samples) / SAMPLE_RATE_HZ
    end_s = length_s if utterance.duration_s is None else utterance.start_s + utterance.duration_s
    if end_s > length_s + _OVERSHOOT_S or (utterance.start_s > 0 and utterance.start_s >= length_s):
        detail = f"expected sound from {utterance.start_s:g} to {end_s:g} s, got a recording of {length_s:.2f} s"
        return reject(utterance, Reason.UNREADABLE, detail)
    if utterance.start_s == 0 and end_s > length_s - _ROUNDING_S:
        return samples
    return samples[round(utterance.start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]


def _load(utterance: Utterance, config: PrepareConfig) -> tuple[np.ndarray, bool]:
    """Decode the channel and track of an utterance; return also whether that needed `allow_damaged`."""
    audio, channel, audio_track = utterance.audio, utterance.channel, utterance.audio_track
    try:
        return load_audio(audio, channel=channel, audio_track=audio_track), False
    except AudioError:
        if not config.allow_damaged:
            raise
        return load_audio(audio, channel=channel, audio_track=audio_track, allow_damaged=True), True


def _convert(utterances: Sequence[Utterance], folder: Path, config: PrepareConfig) -> list[_Ready | Rejected]:
    """Decode one channel of one track of one recording, check its utterances, and write FLAC for those that need it."""
    try:
        samples, is_damaged = _load(utterances[0], config)
    except (AudioError, ValueError) as error:
        reason = Reason.NOT_FINITE if _NOT_FINITE in str(error) else Reason.UNREADABLE
        return [reject(utterance, reason, str(error)) for utterance in utterances]
    results: list[_Ready | Rejected] = []
    for utterance in utterances:
        part = _cut_out(samples, utterance)
        if isinstance(part, Rejected):
            results.append(part)
            continue
        fault = check_samples(utterance, len(part), limits=config.limits) or check_sound(utterance, part)
        if fault:
            results.append(fault)
            continue
        is_whole = len(part) == len(samples) and utterance.channel is None and not is_damaged
        if is_whole and _is_plain(utterance.audio, len(samples)):
            results.append(_Ready(utterance, utterance.audio.absolute(), len(part)))
            continue
        path = _flac_path(folder, utterance.id).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_flac(path, part)
        results.append(_Ready(utterance, path, len(part)))
    return results


def _convert_all(
    utterances: Sequence[Utterance], folder: Path, config: PrepareConfig, has_progress: bool
) -> Iterator[_Ready | Rejected]:
    """Convert every recording once, several at a time, in the order of the utterances."""
    groups: dict[tuple[Path, int | None, int | None], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.audio, utterance.channel, utterance.audio_track].append(utterance)
    with ThreadPoolExecutor(config.num_jobs) as pool:
        results = pool.map(lambda group: _convert(group, folder, config), groups.values())
        is_hidden = not has_progress
        for result in track(results, "prepare", total=len(groups), unit="files", is_hidden=is_hidden, is_kept=True):
            yield from result


def _assign(utterances: Sequence[Utterance], kind: str, config: PrepareConfig) -> dict[str, str]:
    """Decide the split of every utterance: as the source says, if it holds anything out, else by our own rule."""
    if kind == "prompts":
        return split_prompts(utterances)
    if any(utterance.split in ("dev", "test") for utterance in utterances):
        return {utterance.id: utterance.split or "train" for utterance in utterances}
    shares = {"test": config.test_share, "dev": config.dev_share}
    return split_utterances(utterances, shares, max_held_out=config.max_held_out, seed=config.seed)


def _cut(ready: _Ready) -> dict[str, Any]:
    """Describe an utterance as a Lhotse cut."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    utterance, duration_s = ready.utterance, ready.num_samples / SAMPLE_RATE_HZ
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=[0], source=str(ready.audio))],
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
        custom=dict(utterance.custom) or None,
    )
    cut = MonoCut(
        id=utterance.id, start=0.0, duration=duration_s, channel=0, supervisions=[supervision], recording=recording
    )
    return cut.to_dict()


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, gzipped if the name says so, whole or not at all, with the same bytes every time.

    A file name that is no UTF-8 has lone surrogates in Python; as escapes of JSON they come back as they were.
    """
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="backslashreplace")
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _report(parts: dict[str, list[_Ready]], rejected: Sequence[Rejected]) -> PrepareReport:
    """Count what was made."""
    words = {split: [word for ready in part for word in ready.utterance.text.split()] for split, part in parts.items()}
    trained = set(words["train"])
    sentences = {ready.utterance.text for ready in parts["train"]}
    held_out = [split for split in SPLITS[1:] if parts[split]]
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
    """Turn a source of speech into cuts, audio and a list of rejects in the folder `out`.

    A bad recording or entry is listed with its reason and the rest goes on. An existing `out` is written over.

    Args:
        source: a folder, a manifest, Lhotse cuts, a Kaldi directory, or the word `prompts`; see `corpora.open_source`. Or
            NAME:FOLDER for a published corpus with its official splits; see `published.PUBLISHED`.
        has_progress: whether to show on stderr how far it is.
    Raises:
        DataError: the source is of no known kind, nothing in it can be used, `out` is the source or cannot be written.
        ConfigError: prompts are asked for as written, or a subset of a source that has none.
    """
    from zipasr.data.prepare_published import parse_named, prepare_published  # which takes config and report from here

    config = config or PrepareConfig()
    _require_lhotse()
    out = Path(out)
    named = parse_named(source)
    if named is not None:
        if config.allow_damaged:
            raise ConfigError(f"allow_damaged must be left out for {source}, whose audio stays as it is, but is given")
        return prepare_published(named, out, config, has_progress=has_progress)
    if config.subset is not None:
        raise ConfigError(f"subset must be left out for {source}, which is no published corpus, but is {config.subset!r}")
    if source != "prompts" and out.is_dir() and Path(source).resolve() == out.resolve():
        raise DataError(f"expected another folder than the source for the output, got {out} for both: choose a new one")
    kind, entries = open_source(source, config.lang, skip=out)
    if kind == "prompts" and config.text_style == "as-written":
        raise ConfigError("text_style must be words for prompts, but is 'as-written' instead")
    text_style = "as-written" if kind == "prompts" else config.text_style or "as-written"
    utterances, rejected = _sift(entries, text_style)
    try:
        (out / "audio").mkdir(parents=True, exist_ok=True)
        ready: list[_Ready] = []
        for result in _convert_all(utterances, out / "audio", config, has_progress):
            if isinstance(result, Rejected):
                rejected.append(result)
            else:
                ready.append(result)
        ready.sort(key=lambda item: item.utterance.id)
        rejected.sort(key=lambda entry: (entry.id, entry.audio, entry.detail))
        _write_lines(out / "rejected.jsonl", (entry.to_dict() for entry in rejected))
        if not ready:
            raise DataError(_nothing_left(source, rejected, out))
        return _write(ready, rejected, kind, config, out)
    except OSError as error:
        raise DataError(f"expected to write to {out}, got: {error}") from error


def _nothing_left(source: str | Path, rejected: Sequence[Rejected], out: Path) -> str:
    """Say why there is nothing to write."""
    if not rejected:
        return f"expected utterances in {source}, got none"
    example = f"for example {rejected[0].id}: {rejected[0].reason}, {rejected[0].detail}"
    listed = out / "rejected.jsonl"
    return f"expected utterances in {source}, got {len(rejected)} rejected and none good; {example}. See {listed}"


def _write(
    ready: Sequence[_Ready], rejected: Sequence[Rejected], kind: str, config: PrepareConfig, out: Path
) -> PrepareReport:
    """Split the utterances, write the cuts of each split and the summary."""
    splits = _assign([item.utterance for item in ready], kind, config)
    parts = {split: [item for item in ready if splits[item.utterance.id] == split] for split in SPLITS}
    for split, part in parts.items():
        path = out / f"{split}_cuts.jsonl.gz"
        if part:
            _write_lines(path, map(_cut, part))
        else:
            path.unlink(missing_ok=True)
    report = _report(parts, rejected)
    _write_lines(out / "prepare.json", [{"kind": kind, "config": asdict(config), "report": report.to_dict()}])
    return report
