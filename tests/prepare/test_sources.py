"""Contract: what each kind of source gives, and the error for a folder or file that is not a source.

The readers do not open audio, so most recordings here are empty files.
"""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.utils import fastcopy

from tests.prepare.entries import put, sorted_out
from zipasr.errors import DataError
from zipasr.prepare import prepare
from zipasr.prepare.folders import read_folder
from zipasr.prepare.kaldi import read_kaldi
from zipasr.prepare.lhotse_cuts import read_cuts
from zipasr.prepare.sources import open_source
from zipasr.prepare.utterance import Reason, Rejected, Utterance

SUBTITLES = """\
1
00:00:01,000 --> 00:00:02,500
please hold

2
00:01:00,000 --> 00:01:02,000
the line

3
00:01:10,000 --> 00:01:09,000
it ends before it starts

4
00:01:20,000 --> 00:01:22,000
please [inaudible] now
"""


# Folders


def test_folder_pairs_recordings_with_texts(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "a.txt", "hello\n world \n")
    put(tmp_path / "deep" / "er" / "b.MP3")
    put(tmp_path / "deep" / "er" / "b.txt", "\ufeffbom")
    put(tmp_path / "lonely.flac")
    put(tmp_path / "README.txt", "nothing")
    put(tmp_path / "bytes.ogg")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfa")
    put(tmp_path / "notes.md")
    put(tmp_path / ".trash" / "c.wav")
    kind, entries, _ = open_source(tmp_path, "en")
    good, bad = sorted_out(entries)
    assert kind == "folder"
    assert {name: utterance.text for name, utterance in good.items()} == {"a": "hello world", "deep/er/b": "bom"}
    assert good["deep/er/b"].audio == tmp_path / "deep" / "er" / "b.MP3"
    assert good["a"].language == "en"
    assert good["a"].split is None
    assert bad == {"lonely": Reason.NO_TEXT, "README": Reason.NO_AUDIO, "bytes": Reason.BAD_ENTRY}


@pytest.mark.parametrize("suffix", ["mov", "AVI", "3gp", "gsm", "wv", "m4b"])
def test_folder_of_other_kinds_of_recordings(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / f"a.{suffix}")
    put(tmp_path / "a.txt", "one")
    put(tmp_path / f"b.{suffix}")
    put(tmp_path / f"b.{suffix}.txt", "two")
    good, bad = sorted_out(read_folder(tmp_path, "en"))
    assert {id: utterance.text for id, utterance in good.items()} == {"a": "one", "b": "two"} and not bad


def test_folder_names_its_splits_and_leaves_out_what_is_written(tmp_path: Path) -> None:
    for name in ("train/a", "validation/b", "test/c", "other/d", "out/audio/e"):
        put(tmp_path / f"{name}.wav")
        put(tmp_path / f"{name}.txt", "x")
    good, _ = sorted_out(read_folder(tmp_path, "en", skip=tmp_path / "out"))
    splits = {name: utterance.split for name, utterance in good.items()}
    assert splits == {"train/a": "train", "validation/b": "dev", "test/c": "test", "other/d": None}


def test_texts_beside_recordings_under_every_name(tmp_path: Path) -> None:
    for name in ("a.wav", "b.WAV", "c.mp3", "d.mp4", "e.wav", "f.wav"):
        put(tmp_path / name)
    put(tmp_path / "a.wav.txt", "one")
    put(tmp_path / "b.TXT", "two")
    put(tmp_path / "c.lab", "three")
    put(tmp_path / "d.en-US.srt", SUBTITLES)
    put(tmp_path / "e.txt", "five")
    put(tmp_path / "e.srt", SUBTITLES)  # of two texts, the one without times is preferred
    (tmp_path / "f.txt").write_text("se\u00efs", encoding="utf-16")
    put(tmp_path / "notes.de.vtt", SUBTITLES)
    good, bad = sorted_out(read_folder(tmp_path, "en"))
    assert {name: utterance.text for name, utterance in good.items()} == {
        **{"a": "one", "b": "two", "c": "three", "e": "five", "f": "se\u00efs"},
        **{"d-0001000": "please hold", "d-0060000": "the line"},
    }
    times = [(good[name].start_s, good[name].duration_s) for name in ("d-0001000", "d-0060000")]
    assert times == [(1.0, 1.5), (60.0, 2.0)]
    assert bad == {"d-0070000": Reason.BAD_ENTRY, "d-0080000": Reason.TEXT_MISMATCH, "notes.de": Reason.NO_AUDIO}


def test_folder_of_audio_without_texts_says_what_to_write(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "b.wav")
    with pytest.raises(DataError, match=r"must have a\.txt .* beside it, but none of the 2 recordings .* has a text; write"):
        sorted_out(open_source(tmp_path, "en").entries)


def test_folder_of_something_else(tmp_path: Path) -> None:
    put(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"must be a folder of NAME.wav .* holds no recording"):
        sorted_out(open_source(tmp_path, "en").entries)


# Manifests


def test_jsonl_with_every_field(tmp_path: Path) -> None:
    rows = [
        {"id": "x", "audio": "train/x.ogg", "text": "HI", "duration": 3.98, "speaker": "s1", "lang": "de",
         "split": "validation", "slots": {"size": "big"}, "verify": "exact"},
        {"audio": "/abs/y.wav", "text": "you", "start": "1.5", "duration": 2, "channel": "1", "audio_track": 2},
        {"audio_filepath": "z.wav", "text": "nemo", "offset": 0.5, "duration": 1.0},
        {"key": "w", "wav": "w.wav", "txt": "wenet", "speaker": 7},
    ]  # fmt: skip
    path = put(tmp_path / "m.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    kind, entries, _ = open_source(path, "en")
    good, bad = sorted_out(entries)
    assert kind == "manifest"
    assert not bad
    assert list(good) == ["x", "abs/y-track2-ch1-0001500", "z-0000500", "w"]
    assert good["x"] == Utterance(
        id="x",
        audio=tmp_path / "train/x.ogg",
        text="HI",
        duration_s=3.98,
        speaker="s1",
        language="de",
        split="dev",
        custom={"slots": {"size": "big"}, "verify": "exact"},
    )
    second = good["abs/y-track2-ch1-0001500"]
    assert (second.audio, second.start_s, second.duration_s, second.channel) == (Path("/abs/y.wav"), 1.5, 2.0, 1)
    assert second.audio_track == 2
    assert second.language == "en"
    assert good["w"].speaker == "7"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "one JSON object per line"),
        ("[1, 2]", "expected a JSON object, got list"),
        ('{"text": "no audio"}', "audio must be a path, but is None"),
        ('{"audio": 3, "text": "x"}', "audio must be a path, but is 3"),
        ('{"audio": "a.wav", "text": "x", "duration": -1}', "duration must be seconds from 0 up, but is -1 instead"),
        ('{"audio": "a.wav", "text": "x", "start": "soon"}', "start must be seconds from 0 up, but is 'soon' instead"),
        ('{"audio": "a.wav", "text": "x", "start": NaN}', "start must be seconds"),
        ('{"audio": "a.wav", "text": "x", "channel": "left"}', "channel must be a whole number"),
        ('{"audio": "a.mkv", "text": "x", "audio_track": -1}', "audio_track must be a whole number from 0 up, but is -1"),
        ('{"audio": "a.mkv", "text": "x", "audio_track": true}', "audio_track must be a whole number"),
        ('{"audio": "a.wav", "text": "x", "split": "dvelopment"}', "split must be train, dev or test"),
    ],
)
def test_a_bad_line_does_not_stop_the_others(tmp_path: Path, line: str, said: str) -> None:
    good_line = '{"audio": "a.wav", "text": "fine"}'
    path = put(tmp_path / "m.jsonl", f"{good_line}\n{line}\n" + good_line.replace("a.wav", "b.wav"))
    entries = list(open_source(path, "en").entries)
    assert [entry.id for entry in entries] == ["a", "m.jsonl:2", "b"]
    assert entries[1].reason is Reason.BAD_ENTRY
    assert said in entries[1].detail


def test_a_line_of_other_bytes_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"audio": "a.wav", "text": "x"}\n{"audio": "b.wav", "text": "\xff"}\n')
    good, bad = sorted_out(open_source(path, "en").entries)
    assert list(good) == ["a"]
    assert bad == {"m.jsonl:2": Reason.BAD_ENTRY}


def test_empty_text_stays_empty_for_the_rule_to_find(tmp_path: Path) -> None:
    path = put(tmp_path / "m.jsonl", '{"audio": "a.wav", "text": ""}\n{"audio": "b.wav", "text": null}')
    assert [entry.text for entry in open_source(path, "en").entries] == ["", ""]


def test_tsv_gzipped_or_not(tmp_path: Path) -> None:
    table = 'audio\ttext\tspeaker\tstart\nclips/a.mp3\tsaid "so"\ts1\t\nb.mp3\tshort row\n'
    plain = put(tmp_path / "m.tsv", table)
    packed = tmp_path / "p.tsv.gz"
    packed.write_bytes(gzip.compress(table.encode()))
    for path in (plain, packed):
        kind, entries, _ = open_source(path, "fr")
        good, bad = sorted_out(entries)
        assert kind == "manifest"
        assert good["clips/a"].text == 'said "so"'
        assert (good["clips/a"].speaker, good["clips/a"].start_s, good["clips/a"].language) == ("s1", 0.0, "fr")
        assert bad == {f"{path.name}:3": Reason.BAD_ENTRY}


def test_tsv_without_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the first line .* must be a Lhotse cut or have 'audio' and 'text', but is neither"
    ):
        open_source(put(tmp_path / "m.tsv", "a.wav\thello\n"), "en")


def test_folder_of_manifests_gives_the_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        put(tmp_path / f"{name}.jsonl", json.dumps({"audio": f"{name}/a.wav", "text": name}))
    put(tmp_path / "rejected.jsonl", json.dumps({"audio": "x", "reason": "y"}))
    kind, entries, _ = open_source(tmp_path, "en")
    good, bad = sorted_out(entries)
    assert kind == "manifest"
    assert {utterance.split for utterance in good.values()} == {"train", "dev", "test"}
    assert all(utterance.split == utterance.text for utterance in good.values())
    assert not bad


@pytest.mark.parametrize("names", [("train", "dev", "test-clean"), ("TRAIN", "Development", "testing_1")])
def test_folders_of_manifests_and_kaldi_directories_give_the_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put(tmp_path / "tables" / name / "metadata.csv", f"file_name,text\n{name}.wav,{name}\n")
        put(tmp_path / "kaldi" / name / "wav.scp", f"{name} /x/{name}.wav\n")
        put(tmp_path / "kaldi" / name / "text", f"{name} {name}\n")
        put(tmp_path / "tables" / "out-test" / "test.jsonl", '{"audio": "a.wav", "text": "of an earlier run"}')
    for source in ("tables", "kaldi"):
        good, bad = sorted_out(open_source(tmp_path / source, "en", skip=tmp_path / "tables" / "out-test").entries)
        assert {entry.text: entry.split for entry in good.values()} == dict(
            zip(names, ("train", "dev", "test"), strict=True)
        )
        assert not bad


def test_names_of_splits_in_columns_and_paths(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "a", "split": "test.Clean"}, {"audio": "b.wav", "text": "b", "split": "TESTING"}]
    put(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    put(tmp_path / "metadata.csv", "file_name,text\nTest-Other/a.wav,a\nvalidation/b.wav,b\n")
    splits = [entry.split for name in ("rows.jsonl", "metadata.csv") for entry in open_source(tmp_path / name, "en").entries]
    assert splits == ["test", "test", "test", "dev"]


def test_names_of_common_voice_1_are_their_splits(tmp_path: Path) -> None:
    """All of its recordings that were validated are called valid."""
    for name in ("train", "dev", "test"):
        put(tmp_path / f"cv-valid-{name}.csv", f"filename,text\ncv-valid-{name}/sample-000000.mp3,{name}\n")
    good, _ = sorted_out(open_source(tmp_path, "en").entries)
    assert sorted((utterance.split, utterance.text) for utterance in good.values()) == [
        *[("dev", "dev"), ("test", "test"), ("train", "train")]
    ]


def test_folder_of_several_nameless_manifests_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", '{"audio": "a.wav", "text": "x"}')
    put(tmp_path / "b.jsonl", '{"audio": "b.wav", "text": "x"}')
    with pytest.raises(DataError, match=r"names with train, dev and test, but has a\.jsonl, b\.jsonl"):
        open_source(tmp_path, "en")


# Kaldi


def test_kaldi_directory(tmp_path: Path) -> None:
    put(tmp_path / "clip.wav")
    scp = "r1 /data/one two.wav\nr2 clip.wav\nr3 sph2pipe -f wav x.sph |\nr4 raw.ark:42\nr2 again.wav\n"
    put(tmp_path / "wav.scp", scp)
    put(tmp_path / "text", "u1 hello world\nu2\nu3 piped\nu4 archived\nu6 of nothing\nu7 backwards\nu9 nowhere\n")
    put(tmp_path / "segments", "u1 r1 0.5 2.0\nu2 r2 0 -1\nu3 r3 0 1\nu4 r4 0 1\nu5 r2 1 2\nu6 r9 0 1\nu7 r1 3 2\n")
    put(tmp_path / "utt2spk", "u1 alice\nu2 bob\n")
    kind, entries, _ = open_source(tmp_path, "en")
    entries = list(entries)
    good, bad = sorted_out(entries)
    assert kind == "kaldi"
    assert good["u1"] == Utterance(
        id="u1", audio=Path("/data/one two.wav"), text="hello world", start_s=0.5, duration_s=1.5, speaker="alice",
        language="en",
    )  # fmt: skip
    assert good["u2"].audio == tmp_path / "clip.wav"
    assert (good["u2"].text, good["u2"].duration_s) == ("", None)
    assert good["u5"].text == ""
    assert bad == {
        "r2": Reason.DUPLICATE_ID,
        "u3": Reason.BAD_ENTRY,
        "u4": Reason.BAD_ENTRY,
        "u6": Reason.BAD_ENTRY,
        "u7": Reason.BAD_ENTRY,
        "u9": Reason.NO_AUDIO,
    }
    details = {entry.id: entry.detail for entry in entries if isinstance(entry, Rejected)}
    assert "got the command 'sph2pipe -f wav x.sph |': run it once, write files" in details["u3"]


def test_kaldi_channels(tmp_path: Path) -> None:
    for name, channels in (("call.wav", 2), ("side.wav", 1)):
        soundfile.write(tmp_path / name, np.zeros((1600, channels)), 16_000)
    put(tmp_path / "wav.scp", "call-A call.wav\ncall-B call.wav\nside-B side.wav\nother call.wav\n")
    put(tmp_path / "reco2file_and_channel", "call-A call A\ncall-B call B\nside-B side B\nother call 1\n")
    put(tmp_path / "text", "u1 x\nu2 x\nu3 x\nu4 x\nu5 x\nu6 x\n")
    segments = "u1 call-A 0 1\nu2 call-B 0 1\nu3 side-B 0 1\nu4 call-A 0 1 1\nu5 other 0 1\nu6 call-A 0 1 left\n"
    put(tmp_path / "segments", segments)
    good, bad = sorted_out(read_kaldi(tmp_path, "en"))
    channels = {name: utterance.channel for name, utterance in good.items()}
    assert channels == {"u1": 0, "u2": 1, "u3": None, "u4": 1}
    assert bad == dict.fromkeys(["u5", "u6"], Reason.BAD_ENTRY)


def test_kaldi_without_segments_and_in_parts(tmp_path: Path) -> None:
    for part in ("train", "test"):
        put(tmp_path / part / "wav.scp", f"{part}-a\t/x/a.wav\n")
        put(tmp_path / part / "text", f"{part}-a some words\n")
    good, bad = sorted_out(open_source(tmp_path, "en").entries)
    assert {name: utterance.split for name, utterance in good.items()} == {"train-a": "train", "test-a": "test"}
    assert not bad


def test_kaldi_paths_that_cannot_be_are_rejected_one_by_one(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "wav.scp", f"u1 a.wav\nu2 {'x' * 5000}\nu3 {'y' * 300}.ark:42\n")
    put(tmp_path / "text", "u1 one\nu2 two\nu3 three\n")
    good, bad = sorted_out(read_kaldi(tmp_path, "en"))
    assert good["u1"].audio == tmp_path / "a.wav" and len(good["u2"].audio.name) == 5000
    assert bad == {"u3": Reason.BAD_ENTRY}


def test_kaldi_without_text_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "wav.scp", "a a.wav\n")
    with pytest.raises(DataError, match=r"must contain wav\.scp and text, but has no file 'text'"):
        list(read_kaldi(tmp_path, "en"))


# Lhotse cuts


def cut(name: str, *, source_type: str = "file", num_supervisions: int = 1) -> MonoCut:
    recording = Recording(name, [AudioSource(source_type, [0], f"/x/{name}.wav")], 16_000, 64_000, 4.0)
    supervisions = [
        SupervisionSegment(f"{name}-{i}", name, start=i * 1.0, duration=1.0, text=f"text {i}", speaker="s", language="en")
        for i in range(num_supervisions)
    ]
    return MonoCut(name, start=1.0, duration=3.0, channel=0, supervisions=supervisions, recording=recording)


def test_cuts_of_every_sort(tmp_path: Path) -> None:
    cuts = [
        cut("one"),
        cut("two", num_supervisions=2),
        cut("none", num_supervisions=0),
        cut("pipe", source_type="command"),
        cut("fast").perturb_speed(1.1),
        cut("a").append(cut("b")),
    ]
    lines = [json.dumps(item.to_dict()) for item in cuts]
    path = tmp_path / "train_cuts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join([*lines, '{"type": "MonoCut"}', "nonsense"]).encode()))
    kind, entries, _ = open_source(path, "de")
    good, bad = sorted_out(entries)
    assert kind == "cuts"
    assert list(good) == ["one", "two-0", "two-1"]
    assert (good["one"].start_s, good["one"].duration_s, good["one"].text) == (1.0, 1.0, "text 0")
    assert (good["two-1"].start_s, good["two-1"].duration_s, good["two-1"].language) == (2.0, 1.0, "en")
    assert bad["none"] is Reason.NO_TEXT
    assert len(bad) == 6
    assert {reason for name, reason in bad.items() if name != "none"} == {Reason.BAD_ENTRY}


def supervised(*supervisions: SupervisionSegment, channels: int = 1, **how: object) -> MonoCut | MultiCut:
    recording = Recording("r", [AudioSource("file", list(range(channels)), "r.wav")], 16_000, 160_000, 10.0)
    kind = MonoCut if channels == 1 else MultiCut
    fields = {"start": 2.0, "duration": 4.0, "channel": 0 if channels == 1 else list(range(channels)), **how}
    return kind(id="c", supervisions=list(supervisions), recording=recording, **fields)


def parts_of(tmp_path: Path, cut: object) -> list[tuple[float, float | None, int | None]]:
    path = put(tmp_path / "cuts.jsonl", json.dumps(cut.to_dict()))
    good, bad = sorted_out(read_cuts(path, "en"))
    assert not bad
    return [(utterance.start_s, utterance.duration_s, utterance.channel) for utterance in good.values()]


def test_the_part_of_a_supervision_is_cut(tmp_path: Path) -> None:
    inside = SupervisionSegment("s", "r", start=1.0, duration=2.0, text="x")
    before = SupervisionSegment("s", "r", start=-1.5, duration=2.0, text="x")
    after = SupervisionSegment("s", "r", start=3.0, duration=2.5, text="x")
    assert parts_of(tmp_path, supervised(inside)) == [(3.0, 2.0, None)]
    assert parts_of(tmp_path, supervised(before)) == [(0.5, 2.0, None)]
    assert parts_of(tmp_path, supervised(after)) == [(5.0, 2.5, None)]
    assert parts_of(tmp_path, supervised(inside, fastcopy(after, id="t"))) == [(3.0, 2.0, None), (5.0, 2.5, None)]
    whole = SupervisionSegment("s", "r", start=0.0, duration=10.0, text="x")
    assert parts_of(tmp_path, supervised(whole, start=0.0, duration=10.0)) == [(0.0, None, None)]


def test_the_channel_of_a_supervision_is_cut(tmp_path: Path) -> None:
    sides = [
        SupervisionSegment(f"s{i}", "r", start=0.0, duration=4.0, text="x", channel=channel)
        for i, channel in enumerate((0, 1, [0, 1], [1]))
    ]
    assert [channel for _, _, channel in parts_of(tmp_path, supervised(*sides, channels=2))] == [0, 1, None, 1]
    files = [AudioSource("file", [channel], f"{channel}.wav") for channel in (0, 1)]
    apart = fastcopy(supervised(sides[1], channels=2), recording=Recording("r", files, 16_000, 160_000, 10.0))
    path = put(tmp_path / "apart.jsonl", json.dumps(apart.to_dict()))
    (utterance,) = read_cuts(path, "en")
    assert (utterance.audio, utterance.channel) == (tmp_path / "1.wav", None)


def test_ids_of_cuts_may_be_numbers(tmp_path: Path) -> None:
    rows = [{**cut("x").to_dict(), "id": number} for number in (0, 1)]
    put(tmp_path / "cuts.jsonl", "\n".join(map(json.dumps, rows)))
    assert [entry.id for entry in read_cuts(tmp_path / "cuts.jsonl", "en")] == ["0", "1"]


@pytest.mark.parametrize(
    "cut",
    [
        supervised(SupervisionSegment("s", "r", start=-3.0, duration=2.0, text="x")),  # before the recording
        supervised(SupervisionSegment("s", "r", start=0.0, duration=2.0, text=5)),
        supervised(SupervisionSegment("s", "r", start=0.0, duration=2.0, text=["x"])),
        supervised(SupervisionSegment("s", "r", start=0.0, duration=2.0, text="x", channel=[0, 1]), channels=3),
        supervised(SupervisionSegment("s", "r", start=0.0, duration=2.0, text="x", channel=5), channels=2),
    ],
)
def test_supervisions_that_cannot_be_cut_are_refused(tmp_path: Path, cut: MonoCut) -> None:
    (entry,) = read_cuts(put(tmp_path / "cuts.jsonl", json.dumps(cut.to_dict())), "en")
    assert isinstance(entry, Rejected)
    assert entry.reason is Reason.BAD_ENTRY


def test_folder_of_cuts_gives_the_splits(tmp_path: Path) -> None:
    for part in ("train", "dev-clean"):
        line = json.dumps(cut(part).to_dict())
        (tmp_path / f"librispeech_cuts_{part}.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (tmp_path / "recordings.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "sources": []}'))
    good, _ = sorted_out(open_source(tmp_path, "en").entries)
    assert {name: utterance.split for name, utterance in good.items()} == {"train": "train", "dev-clean": "dev"}


def test_a_gzip_cut_in_half_is_an_error_with_a_name(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(cut(f"c{i}").to_dict()) for i in range(200))
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-40])
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz cannot be read"):
        list(read_cuts(path, "en"))


# None of these kinds


@pytest.mark.parametrize("name", ["missing", "speech.zip", "x.jsonl"])
def test_other_sources_are_refused_with_what_was_expected(tmp_path: Path, name: str) -> None:
    if name != "missing":
        put(tmp_path / name, '{"a": 1}\n')
    with pytest.raises(DataError, match=" must be "):
        open_source(tmp_path / name, "en")


@pytest.mark.parametrize("source", ["~nobody-of-this-name/x.jsonl", "librispeech:~nobody-of-this-name/x"])
def test_a_home_directory_of_nobody(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"~nobody-of-this-name/x.* (does not exist|is not a folder)"):
        prepare(source, tmp_path / "out")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It cannot be read twice; a named one that nobody writes to would never end."""
    os.mkfifo(tmp_path / "rows.jsonl")
    reader, writer = os.pipe()
    os.write(writer, b'{"audio": "a.wav", "text": "x"}\n')
    os.close(writer)
    for path in (tmp_path / "rows.jsonl", Path(f"/dev/fd/{reader}")):
        with pytest.raises(DataError, match=r"must be a file that can be read twice, but .* is a pipe or a device; save it"):
            open_source(path, "en")
    os.close(reader)
