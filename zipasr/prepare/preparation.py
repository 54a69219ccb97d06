"""From any source of speech to a folder of training data: cuts, audio, and a list of rejected entries.

`prepare` writes `{train,dev,test}_cuts.jsonl.gz` (Lhotse, recordings by absolute path), `audio/*.flac` at 16 kHz mono for
recordings in other formats, `rejected.jsonl` and `prepare.json`. The same source gives the same bytes.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from zipasr.audio import SAMPLE_RATE_HZ, load_audio, save_flac
from zipasr.data.manifest_index import require_lhotse
from zipasr.errors import AudioError, ConfigError, DataError
from zipasr.lines import write_rows
from zipasr.prepare.config import PrepareConfig
from zipasr.prepare.corpora import make_cut
from zipasr.prepare.prompts import split_prompts
from zipasr.prepare.published import find_corpus, prepare_published
from zipasr.prepare.report import PrepareReport
from zipasr.prepare.sources import open_source
from zipasr.prepare.splits import SPLITS, split_utterances
from zipasr.prepare.spoken import has_digits, spoken_words
from zipasr.prepare.utterance import Reason, Rejected, Utterance
from zipasr.prepare.validate import check_id, check_samples, check_silence, check_text, reject
from zipasr.progress import track
from zipasr.text import single_spaced

_OVERSHOOT_S = 0.5
"""Tolerance for a segment that ends after its recording; Kaldi's extract-segments allows the same."""

_NOT_FINITE = "NaN or infinite"
"""Words of `load_audio` about such samples; it raises one exception type for every fault of a file."""

_ROUNDING_S = 0.1
"""A stated duration that is shorter than the recording by less than this counts as rounded: the whole recording is used."""

T = TypeVar("T")


class _Ready(NamedTuple):
    """An utterance with its audio on disk."""

    utterance: Utterance
    audio: Path
    num_samples: int


def _styled(utterance: Utterance, text_style: str) -> Utterance | Rejected:
    """Convert the text of an utterance to `text_style`, or reject the utterance."""
    if text_style == "as-written":
        return replace(utterance, text=single_spaced(utterance.text))
    words = spoken_words(utterance.text, utterance.language or "en")
    if has_digits(words):
        detail = f"expected words, got digits that may be read in several ways: {utterance.text!r}"
        return reject(utterance, Reason.DIGITS, detail)
    styled = replace(utterance, text=words)
    return check_text(styled) or styled


def _checked(entries: Iterable[Utterance | Rejected], text_style: str) -> Iterator[Utterance | Rejected]:
    """Apply the checks that need no audio."""
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, Utterance):
            fault = check_id(entry, seen) or check_text(entry)
            seen.add(entry.id)
            entry = fault or _styled(entry, text_style)
        yield entry


def _separated(results: Iterable[T | Rejected]) -> tuple[list[T], list[Rejected]]:
    """What can be used, and what cannot."""
    usable: list[T] = []
    rejected: list[Rejected] = []
    for result in results:
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            usable.append(result)
    return usable, rejected


def _flac_path(folder: Path, utterance_id: str) -> Path:
    """Path of the audio of an utterance: its id made safe for a file name, with a hash if that changed the id."""
    parts = [re.sub(r"[^\w.,=+-]", "_", part).lstrip(".")[:50] for part in utterance_id.split("/")]
    safe = "/".join(part for part in parts if part)
    if safe != utterance_id:
        digest = hashlib.sha256(utterance_id.encode(errors="surrogatepass")).hexdigest()[:12]
        safe = f"{safe}-{digest}" if safe else digest
    return folder / f"{safe}.flac"


def _is_plain(path: Path, num_samples: int) -> bool:
    """Whether a file is WAV or FLAC at 16 kHz mono, which Lhotse reads without conversion."""
    if path.suffix.lower() not in (".wav", ".flac") or not path.is_file():  # a pipe cannot be read again
        return False
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    with suppress(AudioLoadingError, OSError, RuntimeError, ValueError):  # what Lhotse cannot open is converted
        recording = Recording.from_file(path)
        shape = (recording.sampling_rate, recording.num_channels, recording.num_samples)
        return shape == (SAMPLE_RATE_HZ, 1, num_samples)
    return False


def _segment_samples(samples: np.ndarray, utterance: Utterance) -> np.ndarray | Rejected:
    """The samples of a recording that belong to an utterance."""
    length_s = len(samples) / SAMPLE_RATE_HZ
    end_s = length_s if utterance.duration_s is None else utterance.start_s + utterance.duration_s
    if end_s > length_s + _OVERSHOOT_S or (utterance.start_s > 0 and utterance.start_s >= length_s):
        detail = f"expected audio from {utterance.start_s:g} to {end_s:g} s, got a recording of {length_s:.2f} s"
        return reject(utterance, Reason.UNREADABLE, detail)
    if utterance.start_s == 0 and end_s > length_s - _ROUNDING_S:
        return samples
    return samples[round(utterance.start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]


def _load(utterance: Utterance, config: PrepareConfig) -> tuple[np.ndarray, bool]:
    """Decode the channel and track of an utterance; also return whether that needed `allow_damaged`."""
    audio, channel, audio_track = utterance.audio, utterance.channel, utterance.audio_track
    try:
        return load_audio(audio, channel=channel, audio_track=audio_track), False
    except AudioError:
        if not config.allow_damaged:
            raise
        return load_audio(audio, channel=channel, audio_track=audio_track, allow_damaged=True), True


def _convert(utterances: Sequence[Utterance], folder: Path, config: PrepareConfig) -> list[_Ready | Rejected]:
    """Decode one channel of one track of one recording, check its utterances, and write FLAC where conversion is needed."""
    try:
        samples, is_damaged = _load(utterances[0], config)
    except (AudioError, ValueError) as error:
        reason = Reason.NOT_FINITE if _NOT_FINITE in str(error) else Reason.UNREADABLE
        return [reject(utterance, reason, str(error)) for utterance in utterances]
    results: list[_Ready | Rejected] = []
    for utterance in utterances:
        part = _segment_samples(samples, utterance)
        if isinstance(part, Rejected):
            results.append(part)
            continue
        fault = check_samples(utterance, len(part), config.limits) or check_silence(utterance, part)
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
    """Convert every recording once, `num_jobs` at a time, in the order of the utterances."""
    groups: dict[tuple[Path, int | None, int | None], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.audio, utterance.channel, utterance.audio_track].append(utterance)
    with ThreadPoolExecutor(config.num_jobs) as pool:
        results = pool.map(lambda group: _convert(group, folder, config), groups.values())
        is_hidden = not has_progress
        for result in track(results, "prepare", total=len(groups), unit="files", is_hidden=is_hidden, is_kept=True):
            yield from result


def _assign(utterances: Sequence[Utterance], kind: str, config: PrepareConfig) -> dict[str, str]:
    """The split of every utterance id: from the source if it holds anything out, else from `split_utterances`."""
    if kind == "prompts":
        return split_prompts(utterances)
    if any(utterance.split in ("dev", "test") for utterance in utterances):
        return {utterance.id: utterance.split or "train" for utterance in utterances}
    shares = {"test": config.test_share, "dev": config.dev_share}
    return split_utterances(utterances, shares, max_held_out=config.max_held_out, seed=config.seed)


def _cut(ready: _Ready) -> dict[str, Any]:
    """The Lhotse cut of an utterance, as JSON values."""
    from lhotse import AudioSource, Recording, SupervisionSegment

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
    row: dict[str, Any] = make_cut(recording, supervision).to_dict()
    return row


def _report(parts: dict[str, list[_Ready]], rejected: Sequence[Rejected]) -> PrepareReport:
    """Count utterances, words and rejects."""
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
    """Convert a source of speech to cuts, audio and a list of rejected entries in the folder `out`.

    A bad recording or entry is listed with its reason, and the others are prepared. An existing `out` is overwritten.

    Args:
        source: a folder, a manifest, Lhotse cuts, a Kaldi directory, or the word `prompts`; see `sources.open_source`. Or
            NAME:FOLDER for a published corpus with its official splits; see `corpora.PUBLISHED`.
        has_progress: whether to show progress on stderr.
    Raises:
        DataError: the kind of the source is unknown, nothing in it can be used, `out` is the source or cannot be written.
        ConfigError: `text_style` is as-written for prompts, or `subset` is set for a source without subsets.
    """
    config = config or PrepareConfig()
    require_lhotse("preparing data")
    out = Path(out)
    corpus = find_corpus(source)
    if corpus is not None:
        if config.allow_damaged:
            raise ConfigError(f"allow_damaged must be left out for {source}, whose audio is not converted, but is set")
        return prepare_published(corpus, out, config, has_progress=has_progress)
    if config.subset is not None:
        raise ConfigError(f"subset must be left out for {source}, which is not a published corpus, but is {config.subset!r}")
    if source != "prompts" and out.is_dir() and Path(source).resolve() == out.resolve():
        raise DataError(f"the output must be another folder than the source, but is {out} for both; choose a new one")
    kind, entries = open_source(source, config.lang, skip=out)
    if kind == "prompts" and config.text_style == "as-written":
        raise ConfigError("text_style must be words for prompts, but is 'as-written' instead")
    text_style = "as-written" if kind == "prompts" else config.text_style or "as-written"
    utterances, rejected = _separated(_checked(entries, text_style))
    try:
        (out / "audio").mkdir(parents=True, exist_ok=True)
        ready, unusable = _separated(_convert_all(utterances, out / "audio", config, has_progress))
        rejected += unusable
        ready.sort(key=lambda item: item.utterance.id)
        rejected.sort(key=lambda entry: (entry.id, entry.audio, entry.detail))
        write_rows(out / "rejected.jsonl", (entry.to_dict() for entry in rejected))
        if not ready:
            raise DataError(_no_utterances(source, rejected, out))
        return _write(ready, rejected, kind, config, out)
    except OSError as error:
        raise DataError(f"{out} must be writable, but: {error}; choose another folder") from error


def _no_utterances(source: str | Path, rejected: Sequence[Rejected], out: Path) -> str:
    """The message for a source without usable utterances."""
    if not rejected:
        return f"{source} must contain utterances, but has none"
    example = f"for example {rejected[0].id}: {rejected[0].reason}, {rejected[0].detail}"
    listed = out / "rejected.jsonl"
    return f"{source} must contain usable utterances, but all {len(rejected)} are rejected; {example}. See {listed}"


def _write(
    ready: Sequence[_Ready], rejected: Sequence[Rejected], kind: str, config: PrepareConfig, out: Path
) -> PrepareReport:
    """Split the utterances; write the cuts of each split and the summary."""
    splits = _assign([item.utterance for item in ready], kind, config)
    parts = {split: [item for item in ready if splits[item.utterance.id] == split] for split in SPLITS}
    for split, part in parts.items():
        path = out / f"{split}_cuts.jsonl.gz"
        if part:
            write_rows(path, map(_cut, part))
        else:
            path.unlink(missing_ok=True)
    report = _report(parts, rejected)
    write_rows(out / "prepare.json", [{"kind": kind, "config": asdict(config), "report": report.to_dict()}])
    return report
