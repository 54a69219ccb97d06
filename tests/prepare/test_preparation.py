"""Run: every kind of source becomes a folder that Lhotse reads. Law: the same bytes twice; no bad file stops the others."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording

from tests.prepare.prepared import RATE_HZ, contents, cuts_of, put, rejected_of, tone
from tests.tiny_model import noise
from zipasr.audio import load_audio
from zipasr.data.audio_paths import read_located
from zipasr.data.manifest_index import open_cuts
from zipasr.data.noise import NoiseConfig, NoiseMixer
from zipasr.errors import ConfigError, DataError
from zipasr.evaluate.rates import read_cuts
from zipasr.features import Fbank
from zipasr.prepare import PrepareConfig, PrepareReport, prepare
from zipasr.prepare.utterance import Reason
from zipasr.train.data import read_split

# Prepared data


def test_plain_audio_stays_where_it_is_and_the_rest_becomes_flac(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    plain = [put(source, "plain.wav"), put(source, "plain2.flac")]
    put(source, "fast.wav", tone(1.0, rate_hz=44_100), rate_hz=44_100)
    put(source, "stereo.wav", np.stack([tone(1.0), tone(1.0)], axis=1))
    put(source, "deep/er/lossy.ogg")
    put(source, "name with spaces; and ümlaut.mp3")
    report = prepare(source, out)
    cuts = cuts_of(out)
    assert sum(report.num_utterances.values()) == len(cuts) == 6
    sources = {name: Path(cut.recording.sources[0].source) for name, cut in cuts.items()}
    assert [sources["plain"], sources["plain2"]] == plain
    assert sources["fast"] == out / "audio" / "fast.flac"
    assert sources["deep/er/lossy"] == out / "audio" / "deep" / "er" / "lossy.flac"
    for name, cut in cuts.items():
        assert cut.sampling_rate == RATE_HZ, name
        samples = cut.load_audio()
        assert samples.shape == (1, cut.num_samples), name
        np.testing.assert_allclose(samples[0], load_audio(sources[name]), atol=1e-4)
        assert abs(cut.duration - 1.0) < 0.1, name
        info = soundfile.info(sources[name])
        assert (info.samplerate, info.channels) == (RATE_HZ, 1), name


def test_cuts_carry_text_speaker_language_and_everything_else(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    row = {"id": "x/1", "audio": "a.wav", "text": " turn it  ON ", "speaker": "s", "lang": "de", "slots": {"k": [1]}}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    (cut,) = cuts_of(tmp_path / "out").values()
    (supervision,) = cut.supervisions
    assert cut.id == supervision.id == cut.recording.id == "x/1"
    assert (supervision.text, supervision.speaker, supervision.language) == ("turn it ON", "s", "de")
    assert supervision.custom == {"slots": {"k": [1]}}
    assert supervision.duration == cut.duration == 1.0


def test_parts_and_channels_of_a_recording_are_cut_out(tmp_path: Path) -> None:
    left, right = tone(4.0, freq_hz=300), tone(4.0, freq_hz=900)
    put(tmp_path, "talk.wav", np.stack([left, right], axis=1), text=None)
    rows = [
        {"id": "left", "audio": "talk.wav", "text": "A", "channel": 0},
        {"id": "part", "audio": "talk.wav", "text": "B", "channel": 1, "start": 1.0, "duration": 1.5},
        {"id": "end", "audio": "talk.wav", "text": "C", "channel": 0, "start": 3.0, "duration": 1.3},
        {"id": "first", "audio": "talk.wav", "text": "D", "channel": 0, "duration": 2.0},
        {"id": "rounded", "audio": "talk.wav", "text": "E", "channel": 0, "duration": 3.95},
        {"id": "beyond", "audio": "talk.wav", "text": "F", "channel": 0, "start": 5.0, "duration": 0.2},
        {"id": "truncated", "audio": "talk.wav", "text": "G", "channel": 0, "duration": 9.0},
        {"id": "third", "audio": "talk.wav", "text": "H", "channel": 2},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    cuts = {name: cut.load_audio()[0] for name, cut in cuts_of(tmp_path / "out").items()}
    expected = {
        "left": left,
        "part": right[16_000:40_000],
        "end": left[48_000:],
        "first": left[:32_000],
        "rounded": left,
    }
    assert cuts.keys() == expected.keys()
    for name, samples in expected.items():
        np.testing.assert_allclose(cuts[name], samples, atol=1e-4, err_msg=name)
    assert rejected_of(tmp_path / "out") == dict.fromkeys(["beyond", "truncated", "third"], "unreadable")


def test_kaldi_segments(tmp_path: Path) -> None:
    put(tmp_path, "rec.wav", tone(3.0), text=None)
    (tmp_path / "wav.scp").write_text(f"rec {tmp_path / 'rec.wav'}\nbad {tmp_path / 'none.wav'}\npipe cat x.wav |\n")
    (tmp_path / "segments").write_text("u1 rec 0.0 1.0\nu2 rec 1.0 2.5\nu3 bad 0 1\nu4 pipe 0 1\n")
    (tmp_path / "text").write_text("u1 one\nu2 two\nu3 three\nu4 four\n")
    (tmp_path / "utt2spk").write_text("u1 s1\nu2 s2\n")
    prepare(tmp_path, tmp_path / "out")
    cuts = cuts_of(tmp_path / "out")
    assert {name: (cut.duration, cut.supervisions[0].speaker) for name, cut in cuts.items()} == {
        "u1": (1.0, "s1"),
        "u2": (1.5, "s2"),
    }
    assert rejected_of(tmp_path / "out") == {"u3": "unreadable", "u4": "bad entry"}


def test_what_was_prepared_can_be_prepared_again(tmp_path: Path) -> None:
    for i in range(5):
        put(tmp_path / "in", f"{i}.ogg", text=f"number {i}")
    first = prepare(tmp_path / "in", tmp_path / "one")
    second = prepare(tmp_path / "one", tmp_path / "two", PrepareConfig(text_style="words"))
    assert second.num_utterances == first.num_utterances
    one, two = cuts_of(tmp_path / "one"), cuts_of(tmp_path / "two")
    assert [cut.recording.sources[0].source for cut in one.values()] == [
        cut.recording.sources[0].source for cut in two.values()
    ]
    assert {cut.supervisions[0].text for cut in two.values()} == {
        f"NUMBER {word}" for word in ("ZERO", "ONE", "TWO", "THREE", "FOUR")
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_lines_that_differ_only_in_channel_are_cut_apart(tmp_path: Path, order: tuple[int, int]) -> None:
    sides = [tone(1.0, freq_hz=300), tone(1.0, freq_hz=900)]
    put(tmp_path, "call.wav", np.stack(sides, axis=1), text=None)
    rows = [{"audio": "call.wav", "text": f"side {channel}", "channel": channel} for channel in order]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    cuts = cuts_of(tmp_path / "out").values()
    assert {cut.supervisions[0].text for cut in cuts} == {"side 0", "side 1"}
    for cut in cuts:
        np.testing.assert_allclose(cut.load_audio()[0], sides[int(cut.supervisions[0].text[-1])], atol=1e-4)


# Where the audio is


def test_a_prepared_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        put(tmp_path / "in", f"{i}.ogg", tone(1.0, freq_hz=300 + 200 * i), text=f"number {i}")
    put(tmp_path / "in", "plain.wav", text="outside")
    monkeypatch.chdir(tmp_path)
    prepare("in", "out")
    before = {name: cut.load_audio() for name, cut in cuts_of(Path("out")).items()}
    (tmp_path / "out").rename(tmp_path / "moved")
    for folder in (Path("moved"), tmp_path / "moved", Path("in/../moved")):
        after = {name: cut.load_audio() for name, cut in cuts_of(folder).items()}
        assert after.keys() == before.keys()
        assert all(np.array_equal(after[name], before[name]) for name in before)
    manifests = [tmp_path / "moved" / f"{part}_cuts.jsonl.gz" for part in ("train", "dev", "test")]
    indexed = [cut for path in manifests for cut in open_cuts(path)]
    assert all(np.array_equal(cut.load_audio(), before[cut.id]) for cut in indexed)
    utterances = [utterance for path in manifests for utterance in read_cuts(path)]
    assert {utterance.id for utterance in utterances if utterance.samples is not None} == before.keys()
    monkeypatch.chdir(tmp_path / "moved")  # lhotse alone opens them there, or with the prefix from anywhere
    for path in manifests:
        assert all(np.array_equal(cut.load_audio(), before[cut.id]) for cut in CutSet.from_file(path.name))
    monkeypatch.chdir(tmp_path)
    for path in manifests:
        cuts = CutSet.from_file(path).with_recording_path_prefix(path.parent)
        assert all(np.array_equal(cut.load_audio(), before[cut.id]) for cut in cuts)


# Tags


TAGGED = ["yes [laughter] yes", "[laughter]", "no <noise>", "[laughter-well] then", "[inaudible] no", "no {cough} [sigh]"]


def test_tags_are_noted_and_kept(tmp_path: Path) -> None:
    for i, text in enumerate(TAGGED):
        put(tmp_path / "in", f"{i}.wav", text=text)
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert sorted(cut.supervisions[0].text for cut in cuts_of(tmp_path / "out").values()) == sorted(TAGGED)
    (note,) = report.notes
    assert note.startswith("6 texts have tags, such as [laughter], ")
    assert "--set tags=drop" in note


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        (PrepareConfig(tags="drop"), {"yes yes", "no", "well then"}),
        (PrepareConfig(text_style="words"), {"YES YES", "NO", "WELL THEN"}),
    ],
)
def test_tags_are_dropped(tmp_path: Path, config: PrepareConfig, texts: set[str]) -> None:
    for i, text in enumerate(TAGGED):
        put(tmp_path / "in", f"{i}.wav", text=text)
    report = prepare(tmp_path / "in", tmp_path / "out", config)
    assert {cut.supervisions[0].text for cut in cuts_of(tmp_path / "out").values()} == texts
    assert rejected_of(tmp_path / "out") == {"1": "no text", "4": "text does not match the recording"}
    assert not report.notes


# Splits


def test_a_source_without_a_dev_part_gets_one(tmp_path: Path) -> None:
    for part, number in (("train", 10), ("test", 3)):
        for i in range(number):
            put(tmp_path / "in" / part, f"{i}.wav", text=f"{part} {i}")
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert report.num_utterances == {"train": 9, "dev": 1, "test": 3}
    assert {cut.id for cut in cuts_of(tmp_path / "out").values() if cut.id.startswith("test")} == {
        cut.id for cut in read_located(tmp_path / "out" / "test_cuts.jsonl.gz")
    }
    assert [note for note in report.notes if "held out for it (1)" in note]


@pytest.mark.parametrize("config", [PrepareConfig(), PrepareConfig(dev_share=0.0)])
def test_too_little_for_a_dev_part_is_noted_and_train_says_the_cure(tmp_path: Path, config: PrepareConfig) -> None:
    for i in range(2 if config.dev_share else 5):
        put(tmp_path / "in", f"{i}.wav", text=f"number {i}")
    report = prepare(tmp_path / "in", tmp_path / "out", config)
    assert report.num_utterances["dev"] == 0
    assert [note for note in report.notes if "no dev part, which training needs; prepare 3 utterances or more" in note]
    with pytest.raises(DataError, match=r"prepare a source of 3 utterances or more \(dev_share above 0\), or add others"):
        read_split(tmp_path / "out", "dev")


def test_splits_that_the_source_names_are_kept(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        rows = []
        for i in range(4):
            put(tmp_path / "in", f"{split}{i}.wav", text=None)
            rows.append(json.dumps({"audio": f"{split}{i}.wav", "text": f"{split} {i}"}))
        (tmp_path / "in" / f"{split}.jsonl").write_text("\n".join(rows))
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert report.num_utterances == {"train": 4, "dev": 4, "test": 0}
    assert not (tmp_path / "out" / "test_cuts.jsonl.gz").exists()
    assert report.num_unseen_words == {"dev": 1}
    only_train = prepare(tmp_path / "in" / "train.jsonl", tmp_path / "out")
    assert only_train.num_utterances == {"train": 2, "dev": 1, "test": 1}
    assert (tmp_path / "out" / "test_cuts.jsonl.gz").exists()


def test_a_second_source_leaves_no_split_of_the_first(tmp_path: Path) -> None:
    for i in range(4):
        put(tmp_path / "many", f"{i}.wav")
    put(tmp_path / "few", "0.wav")
    prepare(tmp_path / "many", tmp_path / "out")
    assert (tmp_path / "out" / "test_cuts.jsonl.gz").exists()
    report = prepare(tmp_path / "few", tmp_path / "out")
    assert report.num_utterances == {"train": 1, "dev": 0, "test": 0}
    assert [path.name for path in (tmp_path / "out").glob("*_cuts*")] == ["train_cuts.jsonl.gz"]


def test_a_link_to_cuts_is_replaced_and_the_cuts_elsewhere_stay(tmp_path: Path) -> None:
    for text in ("old", "new"):
        put(tmp_path / text, f"{text}.wav", text=text)
    cuts, elsewhere = tmp_path / "out" / "train_cuts.jsonl.gz", tmp_path / "elsewhere.jsonl.gz"
    prepare(tmp_path / "old", tmp_path / "out")
    cuts.rename(elsewhere)
    cuts.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    prepare(tmp_path / "new", tmp_path / "out")
    assert not cuts.is_symlink() and list(cuts_of(tmp_path / "out")) == ["new"]
    assert elsewhere.read_bytes() == before


# Laws


def test_the_same_source_gives_the_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for i in range(12):
        samples = rng.normal(0, 0.1, (8_000 + 100 * i, 1 + i % 2))
        put(tmp_path / "in", f"{i % 3}/{i}.wav", samples, text=f"words {i}", rate_hz=8_000 if i % 4 else 16_000)
    put(tmp_path / "in", "bad.wav", tone(0.01))
    out = tmp_path / "out"
    prepare(tmp_path / "in", out, PrepareConfig(num_jobs=1))
    first = contents(out)
    prepare(tmp_path / "in", out, PrepareConfig(num_jobs=1))
    assert contents(out) == first
    prepare(tmp_path / "in", out, PrepareConfig(num_jobs=4))
    again = contents(out)
    again.pop("prepare.json"), first.pop("prepare.json")
    assert again == first
    assert len(first) > 12


def test_out_may_lie_inside_the_source(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path, f"{i}.ogg")
    first = prepare(tmp_path, tmp_path / "out")
    second = prepare(tmp_path, tmp_path / "out")
    assert first == second
    assert not second.num_rejected


def test_out_may_not_be_the_source(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    with pytest.raises(DataError, match="the output must be another folder than the source, but is"):
        prepare(tmp_path, tmp_path)


def test_the_source_may_lie_inside_out_but_not_in_its_audio(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "raw", f"{i}.ogg")
    first = prepare(tmp_path / "raw", tmp_path)
    assert sum(first.num_utterances.values()) == 3
    assert prepare(tmp_path / "raw", tmp_path) == first
    put(tmp_path / "audio" / "deep", "a.ogg")
    with pytest.raises(DataError, match=r"the source must be outside of .*audio, where audio is written, but is .*deep; "):
        prepare(tmp_path / "audio" / "deep", tmp_path)


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "..", "a/../../b", ".hidden", "x" * 300, "日本" * 60])
def test_no_id_writes_outside_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path / "in", "a.ogg", text=None)
    (tmp_path / "in" / "m.jsonl").write_text(json.dumps({"id": name, "audio": "a.ogg", "text": "x"}))
    prepare(tmp_path / "in" / "m.jsonl", tmp_path / "out")
    (cut,) = cuts_of(tmp_path / "out").values()
    assert cut.id == name
    assert Path(cut.recording.sources[0].source).resolve().is_relative_to(tmp_path / "out" / "audio")


def test_ids_that_look_alike_as_files_stay_apart(tmp_path: Path) -> None:
    rows = []
    for i, name in enumerate(["a b", "a_b", "a:b"]):
        put(tmp_path, f"{i}.ogg", tone(1.0 + i), text=None)
        rows.append({"id": name, "audio": f"{i}.ogg", "text": "x"})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    durations = [round(cut.load_audio().shape[1] / RATE_HZ) for _, cut in sorted(cuts_of(tmp_path / "out").items())]
    assert durations == [1, 3, 2]


@pytest.mark.parametrize(
    ("peak", "rate_hz", "is_warned"),
    [(2.0, 48_000, True), (1.02, 48_000, False), (1.0, 48_000, False), (2.0, RATE_HZ, False)],
)
def test_clipping_of_loud_recordings_is_told(
    tmp_path: Path, peak: float, rate_hz: int, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loud = (peak / 0.3 * tone(1.0, rate_hz=rate_hz)).astype(np.float32)
    path = put(tmp_path / "in", "loud.wav", loud, rate_hz=rate_hz, subtype="FLOAT")
    put(tmp_path / "in", "less.wav", loud / 1.05, rate_hz=rate_hz, subtype="FLOAT")
    put(tmp_path / "in", "usual.ogg")
    with caplog.at_level("WARNING", "zipasr.prepare"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert [record.getMessage().split(";")[0] for record in caplog.records if "clipped" in record.getMessage()] == (
        [f"recordings louder than full scale: 2, such as {path}, up to 2.00"] if is_warned else []
    )
    samples = cuts_of(tmp_path / "out")["loud"].load_audio()[0]
    np.testing.assert_allclose(
        samples, load_audio(path) if rate_hz == RATE_HZ else np.clip(load_audio(path), -1, 1), atol=1e-4
    )


@pytest.mark.parametrize(
    "value",
    [
        {"id": 1, "sources": 1, "sampling_rate": 3},
        {"width": 3, "é": [{"x": None}]},
        {"array": {"a": 1}},
        {"shape": [3], "storage_type": "a", "storage_path": "b", "storage_key": "c"},
    ],
)
def test_fields_that_lhotse_would_take_for_its_own_are_kept_as_json(tmp_path: Path, value: dict[str, Any]) -> None:
    put(tmp_path, "a.wav")
    row = {"audio": "a.wav", "text": "x", "meta": value, "deeper": {"meta": value}, "more": [value]}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    cut = open_cuts(tmp_path / "out" / "train_cuts.jsonl.gz")[0]
    custom = cut.supervisions[0].custom
    assert json.loads(custom["meta"]) == value
    assert (custom["deeper"], custom["more"]) == ({"meta": value}, [value])


# The report


def test_the_report_counts_and_is_saved(tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path / "in", f"{i}.wav", tone(0.5 + 0.1 * i), text=f"THE SAME {i % 5}")
    put(tmp_path / "in", "bad.wav", tone(0.01))
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert report.num_utterances == {"train": 8, "dev": 1, "test": 1}
    assert sum(report.durations_s.values()) == pytest.approx(9.5)
    assert report.num_words == {"train": 24, "dev": 3, "test": 3}
    assert report.num_rejected == {"too short": 1}
    saved = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert saved["kind"] == "folder"
    assert PrepareReport(**saved["report"]) == report
    assert saved["config"]["limits"] == {"min_duration_s": 0.1, "max_duration_s": 30.0}
    with gzip.open(tmp_path / "out" / "train_cuts.jsonl.gz") as file:
        assert len(file.readlines()) == 8


def test_the_table() -> None:
    report = PrepareReport(
        num_utterances={"train": 1234, "dev": 10, "test": 0},
        durations_s={"train": 7200.0, "dev": 60.0, "test": 0.0},
        num_words={"train": 9999, "dev": 50, "test": 0},
        num_rejected={Reason.EMPTY.value: 2, Reason.TOO_LONG.value: 1},
        num_unseen_words={"dev": 3},
        num_repeated_sentences={"dev": 0},
    )
    assert report.format_table().splitlines() == [
        "split     utterances   minutes     words",
        "train          1,234     120.0     9,999",
        "dev               10       1.0        50",
        "test               0       0.0         0",
        "",
        "rejected           3",
        "  empty                                      2",
        "  too long                                   1",
        "note: 3 distinct words of dev do not occur in train",
    ]


def test_a_source_is_kept_whole_as_one_part(tmp_path: Path) -> None:
    """Parts that are prepared one after the other lie side by side, even if their ids are the same."""
    for number, split in enumerate(("train", "dev", "test"), start=1):
        for i in range(3):
            put(tmp_path / split, f"test/{i}.flac", tone(1.0, freq_hz=200.0 * number, rate_hz=8000), rate_hz=8000)
        report = prepare(tmp_path / split, tmp_path / "out", PrepareConfig(split=split))
        assert report.num_utterances == {**dict.fromkeys(("train", "dev", "test"), 0), split: 3}
        assert not report.num_unseen_words
    for number, split in enumerate(("train", "dev", "test"), start=1):
        cuts = list(read_located(tmp_path / "out" / f"{split}_cuts.jsonl.gz"))
        assert [cut.id for cut in cuts] == ["test/0", "test/1", "test/2"]
        spectrum = np.abs(np.fft.rfft(cuts[0].load_audio()[0]))
        assert np.argmax(spectrum) == pytest.approx(200 * number, abs=2)
    with pytest.raises(ConfigError, match="split must be train, dev, test, noise, or none, but is 'eval'"):
        PrepareConfig(split="eval")


@pytest.mark.parametrize("split", ["noise", "train", "dev", "test"])
def test_a_part_does_not_overwrite_audio_of_a_subfolder_of_its_name(tmp_path: Path, split: str) -> None:
    for i in range(4):
        put(tmp_path / "speech", f"{split}/{i}.wav", rate_hz=8000)
        put(tmp_path / "more", f"{i}.wav", tone(2.0), rate_hz=8000)
    prepare(tmp_path / "speech", tmp_path / "out")
    before = contents(tmp_path / "out")
    prepare(tmp_path / "more", tmp_path / "out", PrepareConfig(split=split))
    after = contents(tmp_path / "out")
    assert sum(name.endswith(".flac") for name in before) == 4
    assert {name: after[name] for name in before if name.endswith(".flac")} == {
        name: content for name, content in before.items() if name.endswith(".flac")
    }


def test_recordings_of_linked_folders_are_prepared(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.wav")
    put(tmp_path / "elsewhere", "b.wav")
    (tmp_path / "in" / "part").symlink_to(tmp_path / "elsewhere")
    prepare(tmp_path / "in", tmp_path / "out")
    assert cuts_of(tmp_path / "out").keys() == {"a", "part/b"}


def test_texts_get_one_spelling(tmp_path: Path) -> None:
    texts = {"a": "\ufeffIt’s a cafe\u0301", "b": "it's\u200b a café", "c": "\u200b\u00ad", "d": "It's so"}
    for name, text in texts.items():
        put(tmp_path / "in", f"{name}.wav", text=None)
        (tmp_path / "in" / f"{name}.txt").write_text(text, encoding="utf-8")
    for style, expected in (
        ("as-written", {"a": "It's a café", "b": "it's a café", "d": "It's so"}),
        ("words", {"a": "IT'S A CAFÉ", "b": "IT'S A CAFÉ", "d": "IT'S SO"}),
    ):
        prepare(tmp_path / "in", tmp_path / style, PrepareConfig(text_style=style))
        assert {id: cut.supervisions[0].text for id, cut in cuts_of(tmp_path / style).items()} == expected
        assert rejected_of(tmp_path / style) == {"c": "no text"}


def test_noise_needs_no_texts_and_may_be_long(tmp_path: Path) -> None:
    """`--as noise`: recordings to mix in, beside the parts that are there; what texts there are is ignored."""
    put(tmp_path / "speech", "a.wav")
    prepare(tmp_path / "speech", tmp_path / "out", PrepareConfig(split="train"))
    put(tmp_path / "noise", "street/long.wav", noise(40.0), None)
    put(tmp_path / "noise", "door.flac", noise(0.5), "DOOR")
    put(tmp_path / "noise", "quiet.wav", np.zeros(RATE_HZ, np.float32), None)
    report = prepare(tmp_path / "noise", tmp_path / "out", PrepareConfig(split="noise"))
    assert report.num_utterances == {"train": 0, "dev": 0, "test": 0, "noise": 2}
    assert rejected_of(tmp_path / "out") == {"quiet": "silence"}
    cuts = cuts_of(tmp_path / "out")
    assert {id: cut.supervisions[0].text for id, cut in cuts.items()} == {"a": "HELLO WORLD", "street/long": "", "door": ""}
    assert cuts["street/long"].duration == 40.0 and cuts["door"].load_audio().shape == (1, RATE_HZ // 2)
    assert len(list(read_located(tmp_path / "out" / "noise_cuts.jsonl.gz"))) == 2
    mixer = NoiseMixer(NoiseConfig(cuts=str(tmp_path / "out" / "noise_cuts.jsonl.gz"), prob=1.0), Fbank())
    (mixed,) = mixer.mix([Fbank()(tone(1.0))], [RATE_HZ], mixer.draw(1, np.random.default_rng(0)))
    assert mixed.isfinite().all()


@pytest.mark.parametrize("kind", ["cuts", "kaldi", "manifest", "cells"])
def test_noise_of_any_source_needs_no_texts(kind: str, tmp_path: Path) -> None:
    paths = [put(tmp_path / "in", f"{i}.wav", noise(3.0, i), None) for i in range(3)]
    source = tmp_path / "noise.jsonl"
    if kind == "cuts":
        whole = [Recording.from_file(path).to_cut() for path in paths]
        CutSet.from_cuts([whole[0], whole[1].truncate(offset=1.0, duration=1.5), whole[2]]).to_file(source)
    elif kind == "kaldi":
        source = tmp_path / "kaldi"
        source.mkdir()
        (source / "wav.scp").write_text("".join(f"n{path.stem} {path}\n" for path in paths))
    elif kind == "manifest":
        source.write_text("".join(json.dumps({"audio": str(path)}) + "\n" for path in paths))
    else:
        source = tmp_path / "noise.tsv"
        source.write_text("path\tkind\n" + "".join(f"{path}\tstreet\n" for path in paths))
    report = prepare(source, tmp_path / "out", PrepareConfig(split="noise"))
    assert report.num_utterances["noise"] == 3 and not report.num_rejected
    durations_s = sorted(cut.duration for cut in cuts_of(tmp_path / "out").values())
    assert durations_s == [1.5 if kind == "cuts" else 3.0, 3.0, 3.0]
    with pytest.raises(DataError):
        prepare(source, tmp_path / "speech", PrepareConfig(split="train"))


def test_noise_is_not_aligned(tmp_path: Path) -> None:
    put(tmp_path / "noise", "a.wav", None, None)
    with pytest.raises(ConfigError, match="align_with must be left out for noise, which has no texts, but is m"):
        prepare(tmp_path / "noise", tmp_path / "out", PrepareConfig(split="noise", align_with="m"))
