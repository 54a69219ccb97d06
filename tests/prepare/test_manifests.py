"""Contract: manifests of every kind give the recordings, parts and texts that they name, and refuse what they cannot mean.

The readers do not open audio, so most recordings here are empty files.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from zipasr.errors import DataError
from zipasr.prepare.sources import open_source
from zipasr.prepare.utterance import Reason, Rejected, Utterance

TEXTS = ("one two", "three four", "five six")


def put(path: Path, text: str = "", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def put_rows(path: Path, *rows: dict[str, Any]) -> Path:
    return put(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(source: Path) -> tuple[list[Utterance], list[Rejected]]:
    entries = list(open_source(source).entries)
    good = [entry for entry in entries if isinstance(entry, Utterance)]
    return good, [entry for entry in entries if isinstance(entry, Rejected)]


def found(source: Path) -> dict[Path, str]:
    """Text by recording; nothing is rejected, and every recording is there."""
    good, bad = read(source)
    assert not bad
    assert all(utterance.audio.is_file() for utterance in good)
    return {utterance.audio: utterance.text for utterance in good}


# Manifests under their own names


def test_nemo(tmp_path: Path) -> None:
    wavs = [put(tmp_path / "wavs" / f"{i}.wav") for i in range(3)]
    rows = [
        {"audio_filepath": f"wavs/{i}.wav", "duration": 1.0, "text": text, "offset": 0.5} for i, text in enumerate(TEXTS)
    ]
    put_rows(tmp_path / "manifest.json", *rows)
    assert found(tmp_path) == found(tmp_path / "manifest.json") == dict(zip(wavs, TEXTS, strict=True))
    assert open_source(tmp_path).name == "NeMo manifest (JSON lines): manifest.json"
    assert {(u.start_s, u.duration_s) for u in read(tmp_path)[0]} == {(0.5, 1.0)}


def test_wenet_lists_of_each_split_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = put(tmp_path / "corpus" / "a.wav")
    for part in ("train", "dev"):
        row = {"key": f"utt-{part}", "wav": "corpus/a.wav", "txt": part, "start": 1.0, "end": 2.5}
        put_rows(tmp_path / "data" / part / "data.list", row)
    monkeypatch.chdir(tmp_path)
    good, bad = read(tmp_path / "data")
    assert not bad
    assert {(u.id, u.split, u.text) for u in good} == {("utt-train", "train", "train"), ("utt-dev", "dev", "dev")}
    assert all(u.audio.resolve() == wav and (u.start_s, u.duration_s) == (1.0, 1.5) for u in good)


def test_common_voice(tmp_path: Path) -> None:
    header = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\tsegment\n"
    for i, part in enumerate(("train", "dev", "test", "validated")):
        put(tmp_path / "clips" / f"cv_{i}.mp3")
        put(tmp_path / f"{part}.tsv", f'{header}s{i}\tcv_{i}.mp3\tx\t"Hi", {part}\t2\tde\t\n')
    good, bad = read(tmp_path)
    assert not bad
    assert sorted((u.split, u.text, u.speaker, u.language, u.audio) for u in good) == sorted(
        (part, f'"Hi", {part}', f"s{i}", "de", tmp_path / "clips" / f"cv_{i}.mp3")
        for i, part in enumerate(("train", "dev", "test"))
    )
    assert open_source(tmp_path).name == "Common Voice table (TSV): dev.tsv, test.tsv, train.tsv"


@pytest.mark.parametrize("separator", [",", ";"])
def test_cells_may_follow_a_space(separator: str, tmp_path: Path) -> None:
    table = put(
        tmp_path / "m.csv", f'audio{separator} text\na.wav{separator} "hello{separator} there"\nb.wav{separator} x\n'
    )
    good, bad = read(table)
    assert [entry.text for entry in good] == [f"hello{separator} there", "x"] and not bad


def test_a_cell_too_long_for_a_name_is_no_recording_of_ljspeech(tmp_path: Path) -> None:
    put(tmp_path / "wavs" / "b.wav")
    table = put(tmp_path / "metadata.csv", f"{'x' * 300}|words\nb|other words\n")
    good, _ = read(table)
    assert [entry.text for entry in good] == ["words", "other words"]


@pytest.mark.parametrize("column", ["text", "transcription"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_hugging_face(tmp_path: Path, ending: str, column: str) -> None:
    names = ["train/0.wav", "test/1.wav", "2.wav"]
    wavs = [put(tmp_path / name) for name in names]
    texts = ['a "b", c', "line\nbreak", "plain"]
    if ending == "jsonl":
        put_rows(tmp_path / "metadata.jsonl", *({"file_name": n, column: t} for n, t in zip(names, texts, strict=True)))
    else:
        cells = ['"a ""b"", c"', '"line\nbreak"', "plain"]
        put(tmp_path / "metadata.csv", f"file_name,{column}\n" + "".join(map("{},{}\n".format, names, cells)))
    assert found(tmp_path) == dict(zip(wavs, texts, strict=True))
    assert [u.split for u in read(tmp_path)[0]] == ["train", "test", None]


def test_ljspeech(tmp_path: Path) -> None:
    wavs = [put(tmp_path / "wavs" / f"LJ001-000{i}.wav") for i in range(3)]
    put(tmp_path / "metadata.csv", "".join(f'LJ001-000{i}|"In 19{i}, {t}|in nineteen, {t}\n' for i, t in enumerate(TEXTS)))
    assert found(tmp_path) == {wav: f"in nineteen, {text}" for wav, text in zip(wavs, TEXTS, strict=True)}
    assert [u.id for u in read(tmp_path)[0]] == ["LJ001-0000", "LJ001-0001", "LJ001-0002"]


def test_a_speaker_in_the_third_column_is_no_text(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "wavs" / f"{i}.wav")
    table = put(tmp_path / "metadata.csv", "".join(f"{i}|{text}|anna\n" for i, text in enumerate(TEXTS)))
    with pytest.raises(DataError, match=r"the first line of .* must be a Lhotse cut or have 'audio' and 'text'"):
        open_source(table)
    put(table, "audio_file|text|speaker_name\n" + "".join(f"wavs/{i}.wav|{text}|anna\n" for i, text in enumerate(TEXTS)))
    assert set(found(table).values()) == set(TEXTS)


def test_transcripts_of_librispeech_anywhere(tmp_path: Path) -> None:
    wav = put(tmp_path / "train-clean-5" / "84" / "121" / "84-121-0000.flac")
    other = put(tmp_path / "dev-clean" / "audio" / "x" / "b.wav")
    put(tmp_path / "train-clean-5" / "84" / "121" / "84-121.trans.txt", "84-121-0000 ONE TWO\n84-121-0001 NOWHERE\n\n")
    put(tmp_path / "dev-clean" / "transcripts.txt", "b\tTHREE\n")
    put(tmp_path / "transcript.txt", "of a recording")
    beside = put(tmp_path / "transcript.wav")
    good, bad = read(tmp_path)
    assert {(u.audio, u.text, u.split, u.speaker) for u in good} == {
        (wav, "ONE TWO", "train", "84"),
        (other, "THREE", "dev", None),
        (beside, "of a recording", None, None),
    }
    assert [(entry.id, entry.reason) for entry in bad] == [("84-121-0001", Reason.NO_AUDIO)]


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-16"), ("\t", "utf-16"), ("|", "utf-8")])
def test_tables_under_any_name(tmp_path: Path, separator: str, encoding: str) -> None:
    wav = put(tmp_path / "a.wav")
    table = put(tmp_path / "list.txt", f"Audio Path{separator}Text\na.wav{separator}schön\n", encoding)
    assert found(table) == {wav: "schön"}


def test_one_json_document(tmp_path: Path) -> None:
    wav = put(tmp_path / "a.wav")
    for document in ([{"audio": "a.wav", "text": "x"}], {"utt1": {"wav": "a.wav", "words": "x"}}):
        path = put(tmp_path / "train.json", json.dumps(document, indent=1))
        assert found(path) == {wav: "x"}
    assert read(path)[0][0].id == "utt1"


def test_a_quotation_mark_that_is_never_closed_is_listed_with_its_lines(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    table = put(tmp_path / "m.csv", 'audio,text\na.wav,fine\nb.wav,"open\nc.wav,lost\n')
    good, bad = read(table)
    assert [u.text for u in good] == ["fine"]
    assert [entry.id for entry in bad] == ["m.csv:3"]
    assert "in lines 3 to 4" in bad[0].detail


# Paths


def test_paths_are_looked_up_beside_the_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here, there = tmp_path / "home", tmp_path / "here", tmp_path / "there"
    expected = [put(here / "both.wav"), put(there / "only.wav"), put(home / "mine.wav")]
    put(there / "both.wav")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(there)
    names = ("both.wav", "only.wav", "~/mine.wav", "gone.wav")
    good, _ = read(put_rows(here / "m.jsonl", *({"audio": name, "text": "x"} for name in names)))
    assert [u.audio.resolve() for u in good] == [*expected, here / "gone.wav"]


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_file_names_are_stored_in_two_ways(tmp_path: Path, written: Any, stored: Any) -> None:
    names = ["café/é.wav", "Ångström.wav"]
    wavs = [put(tmp_path / unicodedata.normalize(stored, name)) for name in names]
    rows = ({"audio": unicodedata.normalize(written, name), "text": name} for name in names)
    manifest = put_rows(tmp_path / "m.jsonl", *rows)
    assert found(manifest) == dict(zip(wavs, names, strict=True))
    assert [u.id for u in read(manifest)[0]] == ["café/é", "Ångström"]


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_texts_beside_recordings(tmp_path: Path, written: Any, stored: Any) -> None:
    wav = put(tmp_path / unicodedata.normalize(stored, "é.wav"))
    put(tmp_path / unicodedata.normalize(written, "é.txt"), "hello")
    assert found(tmp_path) == {wav: "hello"}


# The part of the recording


@pytest.mark.parametrize(
    ("row", "start_s", "duration_s"),
    [
        ({"start": 1.0, "end": 2.5}, 1.0, 1.5),
        ({"start": "1.0", "stop": "2.5"}, 1.0, 1.5),
        ({"begin": 1, "end": 2.5}, 1.0, 1.5),
        ({"start_time": 1.0, "end_time": 2.5}, 1.0, 1.5),
        ({"startTime": 1.0, "endTime": 2.5}, 1.0, 1.5),
        ({"begin_time": 1.0, "stop_time": 2.5}, 1.0, 1.5),
        ({"start_ms": 1000, "end_ms": 2500}, 1.0, 1.5),
        ({"start_sec": 1.0, "duration_sec": 1.5}, 1.0, 1.5),
        ({"offset": 1.0, "duration": 1.5}, 1.0, 1.5),
        ({"start": 1.0, "end": 2.5, "duration": 1.5}, 1.0, 1.5),
        ({"end": 2.5}, 0.0, 2.5),
        ({"start": 1.0}, 1.0, None),
        ({"start": None, "end": ""}, 0.0, None),
        ({"from": 1.0, "to": "2.5"}, 1.0, 1.5),
        ({"from": "radio", "to": "everyone"}, 0.0, None),
        ({"num_samples": 1000, "word_start_times": [0.1, 0.2, 0.3], "segment": "benchmark"}, 0.0, None),
    ],
)
def test_times_under_every_name(tmp_path: Path, row: dict[str, Any], start_s: float, duration_s: float | None) -> None:
    good, bad = read(put_rows(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x", **row}))
    assert not bad
    assert [(u.start_s, u.duration_s) for u in good] == [(start_s, duration_s)]


@pytest.mark.parametrize(
    "row",
    [
        {"segment_start": 1.0, "segment_end": 2.0},
        {"t_start": "1.0"},
        {"timestamp": [1.0, 2.0]},
        {"segment": {"from": 1.0, "to": 2.0}},
        {"start": 1.0, "length": 2.0},
        {"start": 1.0, "num_samples": 16_000},
        {"start_frame": 100, "end_frame": 200},
        {"onset": 1.0, "offset": 2.0},
        {"start": 1.0, "begin": 2.0},
        {"start": 2.0, "end": 1.0},
        {"end": 0.0},
        {"start": 1.0, "end": 2.0, "duration": 30.0},
        {"start": 0, "end": "end"},
        {"channel": True},
        {"channel": [0, 2]},
        {"channel": 0, "ch": 1},
        {"audio_channel": 1},
    ],
)
def test_a_part_that_is_not_understood_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    good, bad = read(put_rows(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x", **row}))
    assert not good
    assert [entry.reason for entry in bad] == [Reason.BAD_ENTRY]


@pytest.mark.parametrize(
    ("row", "channel"),
    [
        *[({"channel": value}, 1) for value in (1, "1", 1.0, [1])],
        *[({name: 1}, 1) for name in ("channel_id", "ch", "Channel")],
        *[
            (row, None)
            for row in ({"channels": 2}, {"channels": [0, 1]}, {"num_channels": 2}, {"num_channel": 1}, {"channel": None})
        ],
    ],
)
def test_channels(tmp_path: Path, row: dict[str, Any], channel: int | None) -> None:
    good, bad = read(put_rows(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x", **row}))
    assert not bad
    assert [u.channel for u in good] == [channel]


def test_made_ids_tell_parts_apart(tmp_path: Path) -> None:
    parts = [
        *[{"channel": 0}, {"channel": 1}, {"audio_track": 1}, {"start": 1, "end": 2}, {"start": 1, "end": 3}, {"end": 3}],
        *[{}, {"audio": "a.mp3"}, {"audio": "b.1"}, {"audio": "b.2"}],
    ]
    put(tmp_path / "b.1.wav")
    put(tmp_path / "b.2.wav")
    rows = [{"audio": "a.wav", "text": "x", **part} for part in parts]
    good, bad = read(put_rows(tmp_path / "m.jsonl", *rows, rows[0]))
    assert not bad
    ids = [u.id for u in good]
    assert len(set(ids[:-1])) == len(parts)
    assert ids[-1] == ids[0]  # the same part again is a duplicate


@pytest.mark.parametrize(("id", "expected"), [(0, "0"), ("0", "0"), (7, "7"), ("", "a"), (None, "a")])
def test_ids_are_kept(tmp_path: Path, id: Any, expected: str) -> None:
    good, _ = read(put_rows(tmp_path / "m.jsonl", {"id": id, "audio": "a.wav", "text": "x"}))
    assert [u.id for u in good] == [expected]


@pytest.mark.parametrize("text", [["a", "b"], 5, 1.5, float("nan"), True, False, {"a": 1}])
def test_a_text_that_is_no_string_is_refused(tmp_path: Path, text: Any) -> None:
    manifest = put_rows(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x"}, {"audio": "b.wav", "text": text})
    good, bad = read(manifest)
    assert [u.text for u in good] == ["x"]
    assert [entry.reason for entry in bad] == [Reason.BAD_ENTRY]
    assert "text must be a string" in bad[0].detail


# Several files


def test_ids_that_restart_in_each_split_get_its_name(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        rows = [{"id": i, "audio": f"{part}{i}.wav", "text": part} for i in range(2)]
        put_rows(tmp_path / f"{part}.jsonl", *rows)
    assert sorted(u.id for u in read(tmp_path)[0]) == ["dev/0", "dev/1", "train/0", "train/1"]


def test_an_utterance_in_two_splits_stays_a_duplicate(tmp_path: Path) -> None:
    put_rows(tmp_path / "train.jsonl", *({"id": i, "audio": f"{i}.wav", "text": "x"} for i in range(2)))
    put_rows(tmp_path / "dev.jsonl", {"id": 1, "audio": "1.wav", "text": "x"})
    assert sorted(u.id for u in read(tmp_path)[0]) == ["0", "1", "1"]
