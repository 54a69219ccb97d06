"""Run: miniatures of published corpora, in their own layout, become folders that train, with the official splits. Reference:
what lhotse's own prepare functions find. Law: the same bytes twice; only one entry of a list is in memory at a time."""

import json
from pathlib import Path
from typing import Any

import lhotse.recipes
import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from tests.prepare.published_corpora import (
    write_aishell,
    write_gigaspeech,
    write_json,
    write_librispeech,
    write_musan,
    write_wenetspeech,
)
from zipasr.errors import ConfigError, DataError
from zipasr.prepare import Limits, PrepareConfig, PrepareReport, corpora, prepare
from zipasr.prepare.corpora import iterate_array

WRITERS = {
    "librispeech": write_librispeech,
    "aishell": write_aishell,
    "wenetspeech": write_wenetspeech,
    "gigaspeech": write_gigaspeech,
    "musan": write_musan,
}
FILES = {
    "librispeech": {"train", "dev", "test-clean", "test-other"},
    "aishell": {"train", "dev", "test"},
    "wenetspeech": {"train", "dev", "test-net", "test-meeting"},
    "gigaspeech": {"train", "dev", "test"},
    "musan": {"noise"},
}


def made(tmp_path: Path, name: str, **settings: Any) -> tuple[Path, PrepareReport]:
    """A prepared miniature corpus."""
    folder = WRITERS[name](tmp_path / name)
    return tmp_path / "out", prepare(f"{name}:{folder}", tmp_path / "out", PrepareConfig(**settings))


def cuts_of(out: Path, split: str) -> dict[str, Any]:
    return {cut.id: cut for cut in CutSet.from_file(out / f"{split}_cuts.jsonl.gz")}


def rejected_of(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    return {row["id"]: row["reason"] for row in rows}


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_official_splits_read_where_they_lie_and_the_same_bytes_again(tmp_path: Path, name: str) -> None:
    out, report = made(tmp_path, name)
    first = contents(out)
    assert {path.name.removesuffix("_cuts.jsonl.gz") for path in out.glob("*_cuts.jsonl.gz")} == FILES[name]
    assert set(report.num_utterances) == FILES[name] and min(report.num_utterances.values()) > 0
    assert not list(out.rglob("*.flac")), "no audio is copied"
    for split in FILES[name]:
        for cut in cuts_of(out, split).values():
            path = Path(cut.recording.sources[0].source)
            assert path.is_absolute() and path.is_relative_to(tmp_path / name)
            samples = cut.load_audio()
            assert samples.shape == (1, cut.num_samples) and np.abs(samples).max() > 0.05
    prepare(f"{name}:{tmp_path / name / {'librispeech': 'LibriSpeech', 'musan': 'musan'}.get(name, '')}", out)
    assert contents(out) == first
    assert (out / ".index").is_dir() == ("train" in FILES[name]), "training can start at once"


def test_librispeech_is_what_lhotse_finds(tmp_path: Path) -> None:
    out, report = made(tmp_path, "librispeech")
    assert report.num_utterances == {"train": 12, "dev": 8, "test-clean": 4, "test-other": 4}
    assert report.missing_parts == [] and report.num_rejected == {}
    expected = lhotse.recipes.prepare_librispeech(tmp_path / "librispeech" / "LibriSpeech")
    parts = {"dev": ("dev-clean", "dev-other"), "test-clean": ("test-clean",), "test-other": ("test-other",)}
    parts["train"] = ("train-clean-100", "train-clean-360", "train-other-500")
    for split, names in parts.items():
        theirs = {s.id: s for part in names for s in expected[part]["supervisions"]}
        ours = {id: cut.supervisions[0] for id, cut in cuts_of(out, split).items()}
        assert ours == theirs


def test_aishell_is_what_lhotse_finds(tmp_path: Path) -> None:
    out, _ = made(tmp_path, "aishell")
    for part, manifests in lhotse.recipes.prepare_aishell(tmp_path / "aishell").items():
        theirs = {s.id: s for s in manifests["supervisions"]}
        assert {id: cut.supervisions[0] for id, cut in cuts_of(out, part).items()} == theirs
        assert all(" " not in s.text and s.text for s in theirs.values())
    again = prepare(f"aishell:{tmp_path / 'aishell' / 'data_aishell'}", tmp_path / "out2")
    assert again.num_utterances == {"train": 6, "dev": 6, "test": 6}
    (tmp_path / "aishell" / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt").unlink()
    with pytest.raises(DataError, match=r"aishell_transcript_v0\.8\.txt cannot be read"):
        prepare(f"aishell:{tmp_path / 'aishell'}", tmp_path / "out3")


def test_wenetspeech_is_what_lhotse_finds_but_for_its_garbage(tmp_path: Path) -> None:
    out, report = made(tmp_path, "wenetspeech")
    expected = lhotse.recipes.prepare_wenet_speech(tmp_path / "wenetspeech")
    parts = {"train": "L", "dev": "DEV", "test-net": "TEST_NET", "test-meeting": "TEST_MEETING"}
    for split, part in parts.items():
        theirs = {s.id: (s.start, s.duration, s.text) for s in expected[part]["supervisions"]}
        ours = {id: (cut.start, cut.duration, cut.supervisions[0].text) for id, cut in cuts_of(out, split).items()}
        garbage = {id for id, (_, _, text) in theirs.items() if text == "<SIL>"}
        assert len(garbage) == 1 and ours.keys() == theirs.keys() - garbage
        for id, (start_s, duration_s, text) in ours.items():
            assert (start_s, text) == (theirs[id][0], theirs[id][2].replace("<QUESTIONMARK>", ""))
            assert duration_s == pytest.approx(theirs[id][1], abs=1e-4)
    assert report.num_rejected == {"not speech": 4}


def test_gigaspeech_segments_are_those_of_its_list(tmp_path: Path) -> None:
    out, report = made(tmp_path, "gigaspeech")
    listed = json.loads((tmp_path / "gigaspeech" / "GigaSpeech.json").read_text())["audios"]
    for split, audio in zip(("train", "dev", "test"), listed, strict=True):
        cuts = cuts_of(out, split)
        wanted = {s["sid"]: s for s in audio["segments"] if s["text_tn"] != "<MUSIC>"}
        assert cuts.keys() == wanted.keys()
        for id, cut in cuts.items():
            assert cut.start == wanted[id]["begin_time"] and cut.end == pytest.approx(wanted[id]["end_time"])
            assert cut.supervisions[0].text == wanted[id]["text_tn"].replace(" <COMMA>", "").replace(" <PERIOD>", "")
    assert report.num_rejected == {"not speech": 3}


def test_a_segment_is_the_audio_at_its_position(tmp_path: Path) -> None:
    out, _ = made(tmp_path, "gigaspeech")
    for cut in cuts_of(out, "train").values():
        whole, _ = soundfile.read(cut.recording.sources[0].source, dtype="float32")
        first = round(cut.start * 16_000)
        np.testing.assert_array_equal(cut.load_audio()[0], whole[first : first + cut.num_samples])


def test_subsets(tmp_path: Path) -> None:
    out, report = made(tmp_path, "gigaspeech", subset="L")
    assert set(cuts_of(out, "train")) == {f"POD0000000000_S{i:07d}" for i in range(1, 5)}  # 0 is only in XL, 5 is garbage
    assert report.num_utterances["dev"] == 5
    out, report = made(tmp_path / "b", "librispeech", subset="train-other-500")
    assert all("train-other-500" in cut.recording.sources[0].source for cut in cuts_of(out, "train").values())
    assert report.missing_parts == []


def test_musan_windows(tmp_path: Path) -> None:
    out, report = made(tmp_path, "musan")
    cuts = cuts_of(out, "noise").values()
    assert sorted(cut.duration for cut in cuts) == [6.0] * 3 + [10.0] * 3
    assert report.durations_s == {"noise": 48.0}


def test_bad_recordings_and_entries_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = write_librispeech(tmp_path)
    chapter = folder / "train-clean-100" / "101" / "1001"
    (chapter / "101-1001-0000.flac").write_bytes(b"no flac")
    (chapter / "101-1001-0001.flac").unlink()
    soundfile.write(chapter / "101-1001-0002.flac", np.zeros(8_000), 8_000)
    with (chapter / "101-1001.trans.txt").open("a") as file:
        file.write("101-1001-0004\n")
    with (chapter / "101-1001.trans.txt").open("ab") as file:
        file.write(b"101-1001-0005 NA\xcfVE\n")
    report = prepare(f"librispeech:{tmp_path}", tmp_path / "out")
    assert rejected_of(tmp_path / "out") == {
        "101-1001-0000": "unreadable",
        "101-1001-0001": "no audio",
        "101-1001-0002": "bad entry",
        "101-1001-0004": "no text",
        "101-1001.trans.txt:6": "bad entry",
    }
    assert report.num_utterances["train"] == 9


def test_damaged_entries_of_a_list(tmp_path: Path) -> None:
    folder = write_gigaspeech(tmp_path)
    content = json.loads((folder / "GigaSpeech.json").read_text())
    del content["audios"][1]["segments"][2]["begin_time"]
    content["audios"][0]["segments"][1]["end_time"] = 99.0
    (folder / content["audios"][2]["path"]).unlink()
    write_json(folder / "GigaSpeech.json", content)
    report = prepare(f"gigaspeech:{folder}", tmp_path / "out")
    assert report.num_utterances == {"train": 4, "dev": 0, "test": 0}
    assert report.missing_parts == ["DEV", "TEST"] and "nothing found of DEV, TEST" in report.format_table()
    reasons = rejected_of(tmp_path / "out")
    assert reasons["POD0000000001"] == "bad entry" and reasons["POD0000000002"] == "no audio"
    assert reasons["POD0000000000_S0000001"] == "bad entry"
    assert not (tmp_path / "out" / "dev_cuts.jsonl.gz").exists()


def test_limits_concern_the_training_part_only(tmp_path: Path) -> None:
    with_limits = Limits(min_duration_s=1.05, max_duration_s=30.0)
    out, report = made(tmp_path, "aishell", limits=with_limits)
    assert all(cut.duration >= 1.05 for cut in cuts_of(out, "train").values())
    assert 0 < report.num_utterances["train"] < 6 and report.num_utterances["test"] == 6
    assert set(report.num_rejected) == {"too short"}


def test_missing_parts_are_reported(tmp_path: Path) -> None:
    folder = write_librispeech(tmp_path)
    for part in ("train-clean-360", "test-other"):
        (folder / part).rename(tmp_path / part)
    report = prepare(f"librispeech:{folder}", tmp_path / "out")
    assert report.missing_parts == ["train-clean-360", "test-other"]
    with pytest.raises(DataError, match=r"must contain the parts train-clean-100, .* of librispeech, but has none"):
        prepare(f"librispeech:{folder / 'dev-clean'}", tmp_path / "out2")


def test_misuse(tmp_path: Path) -> None:
    folder = write_aishell(tmp_path / "a")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="subset of aishell must be one of train, but is 'M'"):
        prepare(f"aishell:{folder}", out, PrepareConfig(subset="M"))
    with pytest.raises(ConfigError, match="text_style must be left out for aishell"):
        prepare(f"aishell:{folder}", out, PrepareConfig(text_style="words"))
    with pytest.raises(ConfigError, match="which is not a published corpus"):
        prepare(folder, out, PrepareConfig(subset="M"))
    with pytest.raises(DataError, match="aishell: must be followed by its folder, but"):
        prepare(f"aishell:{tmp_path / 'absent'}", out)
    with pytest.raises(DataError, match=r"must be the folder of the corpus, but has no GigaSpeech\.json"):
        prepare(f"gigaspeech:{folder}", out)
    with pytest.raises(DataError, match="must contain the folders music, noise and speech of MUSAN, but has none"):
        prepare(f"musan:{folder}", out)
    with pytest.raises(DataError, match="or NAME:FOLDER for librispeech"):
        prepare(f"libri:{folder}", out)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_long_lists_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    items = [{"name": f"ä{i}", "list": [1, {"deep": ']},"audios": ['}], "number": i} for i in range(20)]
    write_json(tmp_path / "a.json", {"about": "audios", "audios": items, "after": [1]})
    monkeypatch.setattr(corpora, "_CHUNK_CHARACTERS", chunk)
    assert list(iterate_array(tmp_path / "a.json", "audios")) == items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"audios": [{"a": 1}, {"b"', "must end, but"),
        ('{"audios": [{"a": 1} ', "must end, but"),
        ('{"other": []}', "must contain an array 'audios', but has none"),
        ("", "must contain an array 'audios', but has none"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(iterate_array(tmp_path / "a.json", "audios"))


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    import tracemalloc

    with (tmp_path / "a.json").open("w") as file:
        item = json.dumps({"text": "x" * 1000})
        file.write('{"audios": [' + ",".join([item] * 20_000) + "]}")
    tracemalloc.start()
    assert sum(1 for _ in iterate_array(tmp_path / "a.json", "audios")) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20  # the list itself takes 20 MB


def test_the_folder_may_be_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand ~ only at the start of a word."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_musan(tmp_path / "musan")
    assert prepare("musan:~/musan", tmp_path / "out").num_utterances["noise"] > 0


def test_texts_get_one_spelling_and_keep_the_rules_of_their_corpus(tmp_path: Path) -> None:
    folder = write_librispeech(tmp_path / "corpus", num_utterances=1)
    for path in folder.rglob("*.trans.txt"):
        path.write_text(path.read_text().replace("LO", "LO’S").replace("UP", "U\u0308P\u200b"), encoding="utf-8")
    prepare(f"librispeech:{folder}", tmp_path / "out")
    found = " ".join(cut.supervisions[0].text for cut in cuts_of(tmp_path / "out", "train").values())
    found += " ".join(cut.supervisions[0].text for cut in cuts_of(tmp_path / "out", "dev").values())
    assert "LO'S" in found and "ÜP" in found and not set(found) & set("’\u0308\u200b")
    with pytest.raises(ConfigError, match="split must be left out for librispeech"):
        prepare(f"librispeech:{folder}", tmp_path / "out", PrepareConfig(split="test"))
