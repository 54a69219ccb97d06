"""The index of a manifest. Law: it gives what lhotse reads, in any process, and opens only the requested cuts."""

import gzip
import json
import multiprocessing
import os
import pickle
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import CutSet, MonoCut
from lhotse import serialization as lhotse_serialization
from lhotse.serialization import deserialize_item

from tests.data.tone_batches import TEXTS, tone_cuts
from tests.watchdog import WATCHDOG_S
from zipasr.data import manifest_index
from zipasr.data.audio_paths import located, missing_recording
from zipasr.data.manifest_index import IndexedCuts, open_cuts
from zipasr.errors import DataError


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return tone_cuts(tmp_path_factory.mktemp("sound"))


def line_of(i: int, text: str, *, duration_s: float = 2.0, rate_hz: int = 16_000) -> dict[str, Any]:
    """A cut as lhotse writes it, whose audio does not exist."""
    source = {"type": "file", "channels": [0], "source": f"no/{i}.wav"}
    shape = {"sampling_rate": rate_hz, "num_samples": round(duration_s * rate_hz), "duration": duration_s}
    recording = {"id": f"r{i}", "sources": [source], **shape, "channel_ids": [0]}
    supervision = {"id": f"s{i}", "recording_id": f"r{i}", "start": 0.0, "duration": duration_s, "channel": 0, "text": text}
    cut = {"id": f"c{i}", "start": 0.0, "duration": duration_s, "channel": 0}
    return {**cut, "supervisions": [supervision], "recording": recording, "type": "MonoCut"}


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def assert_holds(indexed: IndexedCuts, cuts: list[Any]) -> None:
    assert len(indexed) == len(cuts)
    assert list(indexed) == cuts
    assert indexed.durations_s.tolist() == [cut.duration for cut in cuts]
    assert indexed.num_characters.tolist() == [len(cut.supervisions[0].text) for cut in cuts]  # no text repeats a character
    assert list(indexed.texts()) == [cut.supervisions[0].text for cut in cuts]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_gives_what_lhotse_reads(cuts: list[Any], tmp_path: Path, name: str) -> None:
    CutSet.from_cuts(cuts).to_file(tmp_path / name)
    for _ in range(2):  # made, then found
        indexed = open_cuts(tmp_path / name)
        assert_holds(indexed, cuts)
    assert indexed[-1] == cuts[-1]
    assert_holds(indexed[1:5:2], cuts[1:5:2])
    some = indexed.take(np.array([5, 0, 3]))
    assert_holds(some, [cuts[5], cuts[0], cuts[3]])
    assert_holds(some.take(np.array([2, 1])), [cuts[3], cuts[0]])
    assert some.identities.tolist() == indexed.identities[[5, 0, 3]].tolist()
    for wrong in (7, -8):
        with pytest.raises(IndexError, match=f"cut {wrong}, but there are 7"):
            indexed[wrong]


def test_other_kinds_of_cuts_are_left_to_lhotse(cuts: list[Any], tmp_path: Path) -> None:
    padded = cuts[1].pad(duration=3.0)
    perturbed = cuts[2].perturb_speed(1.1)
    CutSet.from_cuts([cuts[0], padded, perturbed]).to_file(tmp_path / "cuts.jsonl")
    indexed = open_cuts(tmp_path / "cuts.jsonl")
    assert [cut.id for cut in indexed] == ["0", padded.id, perturbed.id]
    assert indexed.durations_s.tolist() == [cuts[0].duration, 3.0, perturbed.duration]
    assert np.array_equal(indexed[2].load_audio(), perturbed.load_audio())


def test_cuts_without_exactly_one_text_are_not_in_it(cuts: list[Any], tmp_path: Path) -> None:
    silent = cuts[1].drop_supervisions().with_id("silent")
    blank = cuts[2].map_supervisions(lambda supervision: supervision.transform_text(lambda text: "  ")).with_id("blank")
    twice = cuts[3].with_id("twice")
    twice.supervisions = [*twice.supervisions, *twice.supervisions]
    CutSet.from_cuts([silent, cuts[0], blank, twice, cuts[6]]).to_file(tmp_path / "cuts.jsonl.gz")
    indexed = open_cuts(tmp_path / "cuts.jsonl.gz")
    assert_holds(indexed, [cuts[0], cuts[6]])
    assert indexed.num_cuts == 5


def test_characters_and_lengths(tmp_path: Path) -> None:
    # A ligature of 18 characters, two equal neighbors among them; a letter that folds to "ss"; "Oo" folds to "oo".
    texts = ["ba", "\ufdfa c", "straße", "Oo oO", "ab"]
    path = write_lines(tmp_path / "cuts.jsonl", (line_of(i, text) for i, text in enumerate(texts)))
    indexed = open_cuts(path)
    assert indexed.num_characters.tolist() == [2, 18 + 1 + 2, 7 + 1, 5 + 2, 2]
    assert indexed.characters.keys() == set().union(*texts)
    assert all(
        character in texts[i] and not any(character in t for t in texts[:i]) for character, i in indexed.characters.items()
    )


def test_identity_is_of_id_duration_and_text(tmp_path: Path) -> None:
    lines = [line_of(0, "a"), line_of(1, "a"), line_of(0, "b"), line_of(0, "a", duration_s=2.5), line_of(0, "a")]
    lines[4]["recording"]["sources"][0]["source"] = "elsewhere.wav"
    one, *others = open_cuts(write_lines(tmp_path / "cuts.jsonl", lines)).identities.tolist()
    assert len({one, *others}) == 4
    assert one == others[3]


def test_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "cuts.jsonl").write_bytes(b"")
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(b""))
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        indexed = open_cuts(tmp_path / name)
        assert (len(indexed), indexed.num_cuts, list(indexed)) == (0, 0, [])
        assert len(indexed.durations_s) == 0


# Kept, and made again


def test_is_made_once(cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    open_cuts(tmp_path / "cuts.jsonl.gz")
    monkeypatch.setattr(manifest_index, "_write", None)
    assert_holds(open_cuts(tmp_path / "cuts.jsonl.gz"), cuts)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_is_made_again_when_the_manifest_changes(cuts: list[Any], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    CutSet.from_cuts(cuts).to_file(path)
    before = open_cuts(path)
    same = open_cuts(path).identities
    CutSet.from_cuts(cuts[2:]).to_file(path)
    assert_holds(open_cuts(path), cuts[2:])
    with pytest.raises(DataError, match=r"must (not change|exist) while it is being read"):
        before[0]
    CutSet.from_cuts(cuts).to_file(path)
    assert np.array_equal(open_cuts(path).identities, same)
    assert len([p for p in (tmp_path / ".index").iterdir() if p.is_dir()]) == 1


def test_damaged_index_is_made_again(cuts: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(path)
    for name in ("index.json", "cuts.jsonl"):
        folder = open_cuts(path).folder
        (folder / name).write_bytes((folder / name).read_bytes()[:-5])
        assert_holds(open_cuts(path), cuts)
    (open_cuts(path).folder / "records.bin").write_bytes(bytes(33))
    assert_holds(open_cuts(path), cuts)


def test_interrupted_index_is_not_used(cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(path)

    def interrupt(entry: Any) -> int:
        if entry.id == "4":
            raise KeyboardInterrupt
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(manifest_index, "_identity", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_cuts(path)
    assert [p.name for p in (tmp_path / ".index").iterdir()] == [".lock"]
    assert_holds(open_cuts(path), cuts)


def test_manifest_that_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "cuts.jsonl", [line_of(0, "a")])

    def append(entry: Any) -> int:
        with path.open("ab") as file:
            file.write(b"\n")
        return 0

    monkeypatch.setattr(manifest_index, "_identity", append)
    with pytest.raises(DataError, match="must not change while it is being read"):
        open_cuts(path)


def test_folder_that_cannot_be_written(cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "cuts.jsonl.gz"
    CutSet.from_cuts(cuts).to_file(path)
    (tmp_path / "data" / ".index").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        indexed = open_cuts(path)
        assert_holds(indexed, cuts)
        assert indexed.folder.is_relative_to(tmp_path / "cache")
        monkeypatch.setattr(manifest_index, "_write", None)
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"must be written somewhere, but .*\.index.*file.*make one of them writable"):
        open_cuts(path)


def test_full_disk(cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"index of .*cuts\.jsonl\.gz must be written to .*No space left.*free some space"):
        open_cuts(tmp_path / "cuts.jsonl.gz")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-12], ""),
        (gzip.compress(b'{"id": "a"\n', mtime=0), "line 1"),
        (gzip.compress(b"[1]\n", mtime=0), r"it contains '\[1\]'"),
        (gzip.compress(b'{"id": "a", "type": "MonoCut", "recording": {}}\n', mtime=0), "line 1: KeyError"),
        (gzip.compress(b'{"id": "a", "recording_id": "r", "start": 0.0, "duration": 1.0}\n', mtime=0), "SupervisionSegment"),
    ],
)
def test_what_is_no_manifest_of_cuts(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "cuts.jsonl.gz").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"cuts\.jsonl\.gz must be a lhotse manifest of cuts, but cannot be read: .*{reason}"
    ):
        open_cuts(tmp_path / "cuts.jsonl.gz")


def test_line_that_lhotse_refuses(tmp_path: Path) -> None:
    line = line_of(1, "a")
    del line["start"]
    indexed = open_cuts(write_lines(tmp_path / "cuts.jsonl", [line_of(0, "a"), line]))
    assert indexed[0].id == "c0"
    with pytest.raises(DataError, match=r"contains a cut that lhotse cannot read \(TypeError"):
        indexed[1]


def test_audio_at_another_rate(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "cuts.jsonl", [line_of(0, "a"), line_of(1, "a", rate_hz=8000)])
    with pytest.raises(DataError, match=r"16000 Hz, but c1 in .*cuts\.jsonl is at 8000 Hz; .* zipasr prepare"):
        open_cuts(path)


# Processes


def ids_of(indexed: IndexedCuts, places: list[int]) -> list[str]:
    return [indexed[i].id for i in places]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_for_themselves(tmp_path: Path, method: str) -> None:
    """Each process reads with a file position of its own; with a shared one, both would sometimes read garbage."""
    path = write_lines(tmp_path / "cuts.jsonl.gz", (line_of(i, "a" * (i % 50 + 1)) for i in range(2000)))
    indexed = open_cuts(path).take(np.arange(1999, -1, -1))
    assert indexed[0].id == "c1999"  # the file is now open
    places = [i * 7 % 2000 for i in range(2000)]
    num_processes = 2 if method == "fork" else 1  # a spawned one imports everything, and shares no position
    with multiprocessing.get_context(method).Pool(num_processes) as pool:
        results = [pool.apply_async(ids_of, (indexed, places)) for _ in range(num_processes)]
        expected = [f"c{1999 - i}" for i in places]
        assert ids_of(indexed, places) == expected
        assert all(result.get(timeout=WATCHDOG_S) == expected for result in results)


def test_pickled_is_small_and_notices_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "cuts.jsonl", (line_of(i, "a" * 100) for i in range(1000)))
    pickled = pickle.dumps(open_cuts(path))
    assert len(pickled) < 2000
    assert pickle.loads(pickled)[5].id == "c5"
    write_lines(path, [line_of(0, "b")])
    with pytest.raises(DataError, match="must not change while it is being read"):
        pickle.loads(pickled)


# Size


def test_memory_does_not_grow_with_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an index, opening it and reading some cuts takes as much memory for 16,000 cuts as for 8000.

    Fewer do not fill the buffer of a MB that `gzip` reads into since Python 3.12.
    """
    opened: list[str] = []
    deserialize = lhotse_serialization.deserialize_item

    def count(data: dict[str, Any]) -> MonoCut:
        opened.append(data["id"])
        return deserialize(data)

    monkeypatch.setattr(lhotse_serialization, "deserialize_item", count)
    peaks = []
    for size in (1000, 8000, 16_000):  # the first run warms up
        path = write_lines(tmp_path / f"{size}.jsonl.gz", (line_of(i, TEXTS[i % len(TEXTS)]) for i in range(size)))
        tracemalloc.start()
        open_cuts(path)
        indexed = open_cuts(path)
        for i in range(0, size, size // 10):
            assert indexed[i].id == f"c{i}"
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert indexed._records.nbytes == 32 * size
    assert len(opened) == 30
    assert peaks[2] < peaks[1] + 50_000


@pytest.mark.parametrize("text", [5, 1.5, True, ["A"]])
def test_a_text_that_is_no_string_is_an_error_with_its_line(tmp_path: Path, text: Any) -> None:
    manifest = write_lines(tmp_path / "cuts.jsonl", [line_of(0, text)])
    with pytest.raises(DataError, match=r"line 1: its text must be a string"):
        open_cuts(manifest)


def test_paths_are_relative_to_the_manifest_or_else_to_the_working_directory(
    cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    audio = Path(cuts[0].recording.sources[0].source).read_bytes()
    for name in ("data/beside.wav", "here.wav"):
        (tmp_path / name).write_bytes(audio)
    lines = []
    for name in ("beside.wav", "here.wav", "gone.wav"):
        row = cuts[0].to_dict()
        row["recording"]["sources"][0]["source"] = name
        lines.append(row)
    monkeypatch.chdir(tmp_path)
    found = list(open_cuts(write_lines(tmp_path / "data" / "cuts.jsonl", lines)))
    assert [Path(cut.recording.sources[0].source).exists() for cut in found] == [True, True, False]
    assert [missing_recording(cut) for cut in found] == [None, None, str(tmp_path / "data" / "gone.wav")]
    mixed = located(cuts[0].append(deserialize_item(lines[0])), tmp_path / "data")
    assert missing_recording(mixed) is None
    assert np.array_equal(mixed.load_audio()[:, -100:], cuts[0].load_audio()[:, -100:])
