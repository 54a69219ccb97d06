"""Readers of published corpora as downloaded: LibriSpeech, AISHELL-1, WenetSpeech, GigaSpeech and MUSAN.

`PUBLISHED` lists the official parts of each; `read_folders`, `read_json` and `read_musan` yield Lhotse cuts in a fixed
order, and a `Rejected` for what cannot be used. Lhotse's recipes parse the entries. Audio is at 16 kHz and is not copied.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.errors import DataError
from zipasr.lfs import HEAD_BYTES, refuse_pointer
from zipasr.lines import read_lines
from zipasr.prepare import corpus_texts
from zipasr.prepare.utterance import OVERSHOOT_S, Reason, Rejected, bad_line

Entry = Any
"""A lhotse MonoCut with one supervision, or a `Rejected`."""

# Differs: lhotse's own prepare functions stop at the first recording that cannot be opened, and keep a whole corpus in
# memory; that of GigaSpeech needs another package to read one JSON file. So we walk the folders and the JSON ourselves, and
# lhotse interprets the entries (its parse_utterance and text_normalize).


@dataclass(frozen=True, kw_only=True)
class PublishedCorpus:
    """The official parts of a corpus and its text rule."""

    train: tuple[str, ...]
    """Official names of the training parts, all of which are used unless a subset is chosen."""
    subsets: tuple[str, ...]
    """Parts that can be chosen for training instead."""
    dev: tuple[str, ...]
    test: dict[str, str]
    """Name of our split for each official part."""
    normalize: Callable[[str], str | None]
    """Maps a published text to the training text, or to None to drop the utterance."""
    json_name: str | None = None
    """Name of the JSON file that lists all parts; None if every part has a folder."""


PUBLISHED: dict[str, PublishedCorpus] = {
    "librispeech": PublishedCorpus(
        train=("train-clean-100", "train-clean-360", "train-other-500"),
        subsets=("train-clean-100", "train-clean-360", "train-other-500"),
        dev=("dev-clean", "dev-other"),
        test={"test-clean": "test-clean", "test-other": "test-other"},
        normalize=corpus_texts.librispeech,
    ),
    "aishell": PublishedCorpus(
        train=("train",),
        subsets=("train",),
        dev=("dev",),
        test={"test": "test"},
        normalize=corpus_texts.aishell,
    ),
    "wenetspeech": PublishedCorpus(
        train=("L",),
        subsets=("S", "M", "L"),
        dev=("DEV",),
        test={"TEST_NET": "test-net", "TEST_MEETING": "test-meeting"},
        normalize=corpus_texts.wenetspeech,
        json_name="WenetSpeech.json",
    ),
    "gigaspeech": PublishedCorpus(
        train=("XL",),
        subsets=("XS", "S", "M", "L", "XL"),
        dev=("DEV",),
        test={"TEST": "test"},
        normalize=corpus_texts.gigaspeech,
        json_name="GigaSpeech.json",
    ),
}
"""The corpora of `zipasr prepare NAME:FOLDER`, by name."""

_CHUNK_CHARACTERS = 1 << 20


def find_json(name: str, folder: Path) -> Path:
    """The JSON file of WenetSpeech or GigaSpeech.

    Raises:
        DataError: the file does not exist.
    """
    path = folder / str(PUBLISHED[name].json_name)
    if not path.is_file():
        raise DataError(f"{folder} must be the folder of the corpus, but has no {path.name}; name the one that has it")
    return path


def part_folder(name: str, folder: Path, part: str) -> Path:
    """The folder of a part of LibriSpeech or AISHELL-1; `folder` is that of the corpus or its parent."""
    if name == "librispeech":
        return _inside(folder, "LibriSpeech") / part
    return _inside(folder, "data_aishell") / "wav" / part


def read_folders(name: str, folder: Path, parts: Iterable[str], num_jobs: int) -> Iterator[tuple[str, Entry]]:
    """Yield part and entry of each utterance of LibriSpeech or AISHELL-1, part by part.

    Args:
        name: librispeech or aishell.
        folder: `LibriSpeech` or `data_aishell` as downloaded, or its parent.
        parts: official names.
        num_jobs: number of chapters or speakers that are read at once.
    Raises:
        DataError: a file of transcripts cannot be read.
    """
    texts = _aishell_texts(_inside(folder, "data_aishell")) if name == "aishell" else {}
    for part in parts:
        root = part_folder(name, folder, part)
        if name == "librispeech":
            groups = sorted(root.rglob("*.trans.txt"))
            read = partial(_read_librispeech, root)
        else:
            groups = sorted(path for path in root.iterdir() if path.is_dir())
            read = partial(_read_aishell, texts)
        with ThreadPoolExecutor(num_jobs) as pool:
            for entries in pool.map(read, groups):
                yield from ((part, entry) for entry in entries)


def _inside(folder: Path, name: str) -> Path:
    """The subfolder `name` of `folder` if it exists, otherwise `folder` itself."""
    return folder / name if (folder / name).is_dir() else folder


def _read_librispeech(root: Path, transcripts: Path) -> list[Entry]:
    """The entries of one chapter."""
    lines = [(number, line) for number, line in read_lines(transcripts) if line is None or line.strip()]
    return [bad_line(transcripts, number) if line is None else _librispeech_entry(root, line) for number, line in lines]


def _librispeech_entry(root: Path, line: str) -> Entry:
    from lhotse.recipes.librispeech import parse_utterance

    id, _, text = line.strip().partition(" ")
    audio = root / Path(id.replace("-", "/")).parent / f"{id}.flac"
    if not text.strip():
        return Rejected(id=id, audio=str(audio), reason=Reason.NO_TEXT, detail=f"expected words, got {line!r}")
    if not os.path.isfile(audio):  # Path.is_file raises for names that are too long
        return _no_audio(id, audio)
    try:
        recording, supervision = parse_utterance(root, line, {})
    except Exception as error:  # lhotse's readers raise many types
        return _unreadable(id, audio, error)
    return _entry(recording, supervision)


def _aishell_texts(folder: Path) -> dict[str, str]:
    """The transcript of every utterance id; lines that are not UTF-8 are skipped."""
    path = folder / "transcript" / "aishell_transcript_v0.8.txt"
    pairs = (line.strip().partition(" ") for _, line in read_lines(path) if line is not None)
    return {id: text for id, _, text in pairs if id}


def _read_aishell(texts: dict[str, str], speaker: Path) -> list[Entry]:
    """The entries of one speaker."""
    return [_aishell_entry(audio, texts.get(audio.stem, ""), speaker.name) for audio in sorted(speaker.glob("*.wav"))]


def _aishell_entry(audio: Path, text: str, speaker: str) -> Entry:
    from lhotse import Recording, SupervisionSegment

    id = audio.stem
    if not text.strip():
        detail = "expected a line in aishell_transcript_v0.8.txt, got none"
        return Rejected(id=id, audio=str(audio), reason=Reason.NO_TEXT, detail=detail)
    try:
        recording = Recording.from_file(audio)
    except Exception as error:  # lhotse's readers raise many types
        return _unreadable(id, audio, error)
    duration_s = recording.duration
    return _entry(recording, SupervisionSegment(id, id, 0.0, duration_s, language="Chinese", speaker=speaker, text=text))


def read_json(name: str, folder: Path, parts: Iterable[str]) -> Iterator[tuple[str, Entry]]:
    """Yield the entries of WenetSpeech or GigaSpeech, with one recording in memory at a time.

    Args:
        name: wenetspeech or gigaspeech.
        folder: as downloaded, with the JSON file.
        parts: official names; a segment of several parts is yielded once for each.
    Yields:
        Part and entry; an unusable recording gives one `Rejected` for each part that contains it.
    Raises:
        DataError: the JSON file does not exist or is damaged.
    """
    wanted = list(parts)
    parse = {"wenetspeech": _wenetspeech_entry, "gigaspeech": _gigaspeech_entry}[name]
    for number, audio in enumerate(iterate_array(find_json(name, folder), "audios")):
        try:
            # A segment without subsets has those of its recording.
            named = {segment["sid"]: segment.get("subsets", audio.get("subsets", [])) for segment in audio["segments"]}
            subsets = {sid: [name.strip("{}") for name in names] for sid, names in named.items()}
            mine = {part for names in subsets.values() for part in names}.intersection(wanted)
            if not mine:
                continue
            recording, supervisions = parse(audio, folder, wanted)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            detail = f"expected an entry as the corpus describes it, got {type(error).__name__}: {error}"
            id = str(audio.get("aid", f"entry {number}")) if isinstance(audio, dict) else f"entry {number}"
            yield "", Rejected(id=id, audio="", reason=Reason.BAD_ENTRY, detail=detail)
            continue
        path = Path(recording.sources[0].source)
        fault = _check_header(recording.id, path)
        if fault is not None:
            yield from ((part, fault) for part in wanted if part in mine)
            continue
        for supervision in supervisions:
            entry = _segment(recording, supervision, path)
            yield from ((part, entry) for part in wanted if part in subsets[supervision.id])


def _wenetspeech_entry(audio: dict[str, Any], folder: Path, parts: list[str]) -> tuple[Any, list[Any]]:
    from lhotse.recipes.wenet_speech import parse_utterance

    recording, by_part = parse_utterance(audio, folder.absolute(), parts)
    once = {supervision.id: supervision for supervisions in by_part.values() for supervision in supervisions}
    return recording, sorted(once.values(), key=lambda s: (s.start, s.id))


def _gigaspeech_entry(audio: dict[str, Any], folder: Path, parts: list[str]) -> tuple[Any, list[Any]]:
    from lhotse.recipes.gigaspeech import parse_utterance

    # Differs: lhotse requires a speaker, which some releases lack.
    segments = [{"speaker": "N/A", **segment} for segment in audio["segments"]]
    recording, supervisions = parse_utterance({**audio, "segments": segments}, folder.absolute())
    return recording, supervisions


def _segment(recording: Any, supervision: Any, path: Path) -> Entry:
    """The cut of a segment, trimmed to its recording."""
    end_s = supervision.start + supervision.duration
    if supervision.duration <= 0 or supervision.start < 0 or end_s > recording.duration + OVERSHOOT_S:
        detail = f"expected audio from {supervision.start:g} to {end_s:g} s, got a recording of {recording.duration:g} s"
        return Rejected(id=supervision.id, audio=str(path), reason=Reason.BAD_ENTRY, detail=detail)
    return _entry(recording, supervision.trim(recording.duration))


def _check_header(id: str, path: Path) -> Rejected | None:
    """Reject a recording that does not exist or is not at 16 kHz; only the header is read."""
    import soundfile

    if not os.path.isfile(path):
        return _no_audio(id, path)
    try:
        rate_hz = soundfile.info(path).samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        return _unreadable(id, path, error)
    return None if rate_hz == SAMPLE_RATE_HZ else _wrong_rate(id, path, rate_hz)


def _entry(recording: Any, supervision: Any) -> Entry:
    """The cut of one supervision, with an absolute path."""
    from lhotse.utils import fastcopy

    source = recording.sources[0]
    path = Path(source.source)
    if recording.sampling_rate != SAMPLE_RATE_HZ:
        return _wrong_rate(supervision.id, path, recording.sampling_rate)
    recording = fastcopy(recording, sources=[fastcopy(source, source=str(path.absolute()))])
    return make_cut(recording, fastcopy(supervision, recording_id=recording.id))


def make_cut(recording: Any, supervision: Any) -> Any:
    """The Lhotse cut of the part of a recording that a supervision describes."""
    from lhotse import MonoCut
    from lhotse.utils import fastcopy

    return MonoCut(
        id=supervision.id,
        start=supervision.start,
        duration=supervision.duration,
        channel=0,
        supervisions=[fastcopy(supervision, start=0.0)],
        recording=recording,
    )


def _no_audio(id: str, path: Path) -> Rejected:
    return Rejected(id=id, audio=str(path), reason=Reason.NO_AUDIO, detail=f"expected {path.name}, got no such file")


def _unreadable(id: str, path: Path, error: Exception) -> Rejected:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return Rejected(id=id, audio=str(path), reason=Reason.UNREADABLE, detail=f"expected a recording, got: {reason}")


def _wrong_rate(id: str, path: Path, rate_hz: int) -> Rejected:
    detail = f"expected audio at {SAMPLE_RATE_HZ} Hz as published, got {rate_hz} Hz"
    return Rejected(id=id, audio=str(path), reason=Reason.BAD_ENTRY, detail=detail)


def iterate_array(path: Path, name: str) -> Iterator[Any]:
    """Yield the items of the array `name` of the JSON object in a file; only a few are in memory at a time.

    Raises:
        DataError: the array does not exist, or the file is damaged or truncated.
    """
    try:
        with path.open(encoding="utf-8") as file:
            refuse_pointer(file.read(HEAD_BYTES).encode(), path, DataError)
            file.seek(0)
            yield from _items(file, path, name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a JSON file with {name!r}, but cannot be read: {error}") from error


def _items(file: TextIO, path: Path, name: str) -> Iterator[Any]:
    """Yield the items of the array; an item that has been read in part is parsed again with more of the file."""
    decoder = json.JSONDecoder()
    text, position = _find_array(file, path, name), 0
    while True:
        while text[position : position + 1] in (" ", "\n", "\r", "\t", ","):
            position += 1
        if text[position : position + 1] == "]":
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            # Read twice as much each time, so that a long item is not parsed again and again.
            more = file.read(max(_CHUNK_CHARACTERS, len(text) - position))
            if not more:
                raise DataError(f"the array {name!r} of {path} must end, but: {error}; download the file again") from error
            text, position = text[position:] + more, 0
            continue
        yield item


def _find_array(file: TextIO, path: Path, name: str) -> str:
    """Read up to the array; return what has been read of its content."""
    start = re.compile(rf'"{name}"\s*:\s*\[')
    text = ""
    while more := file.read(_CHUNK_CHARACTERS):
        text += more
        found = start.search(text)
        if found:
            return text[found.end() :]
        text = text[-2 * len(name) - 100 :]
    raise DataError(f"{path} must contain an array {name!r}, but has none; download the file again")


def read_musan(folder: Path) -> Iterator[Any]:
    """Yield cuts of MUSAN's music, speech and noise: windows of 10 s; windows of 5 s or less are dropped.

    Raises:
        DataError: the folder does not contain MUSAN.
    """
    from lhotse import CutSet
    from lhotse.recipes.musan import prepare_musan

    folder = _inside(folder, "musan")
    parts = [part for part in ("music", "noise", "speech") if (folder / part).is_dir()]
    if not parts:
        raise DataError(f"{folder} must contain the folders music, noise and speech of MUSAN, but has none of them")
    try:
        manifests = prepare_musan(folder.absolute(), parts=parts)
    except Exception as error:  # lhotse's readers raise many types
        raise DataError(f"{folder} must contain MUSAN as published, but cannot be read: {error}") from error
    for part in parts:
        cuts = CutSet.from_manifests(recordings=manifests[part]["recordings"]).cut_into_windows(10.0)
        yield from sorted((cut for cut in cuts if cut.duration > 5.0), key=lambda cut: (cut.recording_id, cut.start))
