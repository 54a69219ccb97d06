"""Contract: what `prepare` cannot use is listed with its reason, and stops nothing; settings without meaning are refused."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.audio.muxing import mux
from tests.prepare.prepared import RATE_HZ, cuts_of, put, rejected_of, tone
from tests.tiny_model import noise, tiny_asr_model, tiny_tokenizer
from zipasr.errors import ConfigError, DataError
from zipasr.prepare import Limits, PrepareConfig, prepare


def test_every_bad_file_is_listed_with_its_reason_and_stops_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    put(source, "good.wav")
    put(source, "empty.wav", np.zeros(0, np.float32))
    put(source, "ten_ms.wav", tone(0.01))
    nans = tone(1.0)
    nans[100:200] = np.nan
    put(source, "nan.wav", nans, subtype="FLOAT")
    put(source, "int16.wav", tone(1.0) * 32768, subtype="FLOAT")
    put(source, "zeros.wav", np.zeros(RATE_HZ, np.float32))
    put(source, "dither.wav", np.random.default_rng(0).normal(0, 1e-4, RATE_HZ), subtype="FLOAT")
    put(source, "quiet.wav", tone(1.0) / 100)
    put(source, "long.wav", tone(31.0))
    put(source, "silent_text.wav", text=" \n")
    put(source, "punctuation.wav", text="...")
    put(source, "too_fast.wav", tone(0.5), text="word " * 30)
    put(source, "year.wav", text="in 1995")
    put(source, "lonely.wav", text=None)
    put(source, "twice.wav")
    put(source, "twice.flac")
    truncated = put(source, "truncated.flac", np.random.default_rng(0).normal(0, 0.1, RATE_HZ * 2))
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    (source / "text.wav").write_text("this is no sound at all\n" * 50)
    (source / "text.txt").write_text("NO SOUND")
    (source / "nothing.mp3").write_bytes(b"")
    (source / "nothing.txt").write_text("NOTHING")
    (source / "link.wav").symlink_to(source / "gone.wav")
    (source / "noise.txt").write_text("no recording")
    (source / "latin.txt").write_bytes("gr\xfcn".encode("latin-1"))
    put(source, "latin.wav", text=None)
    report = prepare(source, out, PrepareConfig(text_style="words"))
    assert rejected_of(out) == {
        "empty": "empty",
        "ten_ms": "too short",
        "nan": "not finite",
        "int16": "unreadable",
        "zeros": "silence",
        "dither": "silence",
        "long": "too long",
        "silent_text": "no text",
        "punctuation": "no text",
        "too_fast": "more tokens than encoder frames",
        "year": "digits in the text",
        "lonely": "no text",
        "twice": "duplicate id",
        "truncated": "unreadable",
        "text": "unreadable",
        "nothing": "unreadable",
        "noise": "no audio",
        "latin": "bad entry",
    }
    assert set(cuts_of(out)) == {"good", "twice", "quiet"}
    assert report.num_rejected["unreadable"] == 4
    assert sum(report.num_rejected.values()) == 18
    for row in map(json.loads, (out / "rejected.jsonl").read_text().splitlines()):
        assert row.keys() == {"id", "audio", "reason", "detail"}
        assert re.search("[Ee]xpected | must ", row["detail"])


def test_a_missing_file_of_a_manifest_is_listed(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", text=None)
    rows = [{"audio": name, "text": "x"} for name in ("a.wav", "gone.wav", "unknown.xyz")]
    (tmp_path / "unknown.xyz").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    assert rejected_of(tmp_path / "out") == {"gone": "unreadable", "unknown": "unreadable"}


def test_audio_tracks_of_a_film(tmp_path: Path) -> None:
    tracks = [np.rint(tone(1.5, freq_hz=freq_hz) * 32767) / 32767 for freq_hz in (300, 900)]
    (tmp_path / "film.mkv").write_bytes(mux("matroska", "pcm_s16le", RATE_HZ, *tracks))
    rows = [{"id": name, "audio": "film.mkv", "text": "x", "audio_track": track} for name, track in (("a", 0), ("b", 1))]
    rows += [{"id": "c", "audio": "film.mkv", "text": "x"}, {"id": "d", "audio": "film.mkv", "text": "x", "audio_track": 2}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    cuts = cuts_of(tmp_path / "out")
    for name, track in (("a", 0), ("b", 1), ("c", 0)):
        np.testing.assert_allclose(cuts[name].load_audio()[0], tracks[track], atol=1e-4)
    assert rejected_of(tmp_path / "out") == {"d": "unreadable"}
    assert "has only these: 0 (pcm_s16le, mono" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_times_are_those_of_the_clock(tmp_path: Path) -> None:
    """A part of a film is cut out at the times that a player shows: this film's audio starts after 2 s."""
    samples = np.rint(tone(3.0, freq_hz=300) * np.linspace(0, 1, 3 * RATE_HZ) * 32767) / 32767
    film = mux("matroska", "pcm_s16le", RATE_HZ, samples, video_s=6.0, retime=lambda start_s: start_s + 2)
    (tmp_path / "film.mkv").write_bytes(film)
    row = {"audio": "film.mkv", "text": "x", "start": 3.0, "duration": 1.0}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    prepare(tmp_path / "m.jsonl", tmp_path / "out")
    (cut,) = cuts_of(tmp_path / "out").values()
    np.testing.assert_allclose(cut.load_audio()[0], samples[RATE_HZ : 2 * RATE_HZ], atol=1e-4)


def test_damaged_recordings_are_taken_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "in"
    put(source, "good.wav")
    (source / "bad.mkv").write_bytes(mux("matroska", "aac", RATE_HZ, tone(3.0), damage=[1.5]))
    (source / "bad.txt").write_text("HELLO")
    flac = put(source, "flac.flac", np.random.default_rng(0).normal(0, 0.1, RATE_HZ * 3))
    data = bytearray(flac.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    flac.write_bytes(data)
    prepare(source, tmp_path / "out")
    assert rejected_of(tmp_path / "out") == {"bad": "unreadable", "flac": "unreadable"}
    prepare(source, tmp_path / "out", PrepareConfig(allow_damaged=True))
    assert rejected_of(tmp_path / "out") == {}
    cuts = cuts_of(tmp_path / "out")
    assert cuts["bad"].duration == pytest.approx(3.0, abs=0.1)
    assert cuts["good"].recording.sources[0].source == str(source / "good.wav")
    assert cuts["flac"].load_audio().shape == (1, 3 * RATE_HZ)  # a copy that Lhotse can read
    assert f"{source / 'bad.mkv'} is damaged; silence replaces what cannot be decoded: 1.4" in caplog.text
    with pytest.raises(ConfigError, match="allow_damaged must be left out"):
        prepare(f"librispeech:{source}", tmp_path / "out", PrepareConfig(allow_damaged=True))


def test_recordings_that_are_too_long_are_cut_by_their_texts(tmp_path: Path) -> None:
    """With random weights no piece is sure of its words: all are rejected, or all are taken."""
    model = tiny_asr_model().save(tmp_path / "model", tiny_tokenizer())
    text = " ".join(["THE QUICK BROWN FOX, 1999."] * 3)
    put(tmp_path / "in", "long.wav", noise(12.0), text)
    put(tmp_path / "in", "short.wav", text="HELLO")
    put(tmp_path / "in", "wrong.wav", noise(12.0), "1999 !")
    limits = Limits(max_duration_s=5.0)
    config = PrepareConfig(align_with=str(model), min_align_confidence=0.0, limits=limits, dev_share=0.0, test_share=0.0)
    prepare(tmp_path / "in", tmp_path / "all", config)
    cuts = cuts_of(tmp_path / "all")
    pieces = [cuts[id] for id in sorted(cuts) if id.startswith("long-")]
    assert len(pieces) >= 2
    assert " ".join(cut.supervisions[0].text for cut in pieces) == text
    assert all(cut.duration <= 5.0 for cut in pieces)
    assert rejected_of(tmp_path / "all") == {"wrong": "text does not match the recording"}
    prepare(tmp_path / "in", tmp_path / "none", dataclasses.replace(config, min_align_confidence=1.0))
    rejected = rejected_of(tmp_path / "none")
    assert list(cuts_of(tmp_path / "none")) == ["short"]
    assert set(rejected) == {cut.id for cut in pieces} | {"wrong"}
    assert set(rejected.values()) == {"text does not match the recording"}


def test_limits_can_be_set(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.wav", tone(1.0))
    put(tmp_path / "in", "b.wav", tone(2.0))
    put(tmp_path / "in", "c.wav", tone(3.0))
    config = PrepareConfig(limits=Limits(min_duration_s=1.5, max_duration_s=2.5))
    prepare(tmp_path / "in", tmp_path / "out", config)
    assert rejected_of(tmp_path / "out") == {"a": "too short", "c": "too long"}


def test_nothing_good_at_all_is_an_error_that_shows_an_example(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.wav", tone(0.01))
    with pytest.raises(DataError, match="but all 1 are rejected; for example a: too short, expected at least"):
        prepare(tmp_path / "in", tmp_path / "out")
    assert rejected_of(tmp_path / "out") == {"a": "too short"}


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.wav")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"out must be writable, but: "):
        prepare(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text_style": "shouting"}, "text_style must be as-written or words, but is 'shouting' instead"),
        ({"dev_share": 0.6, "test_share": 0.4}, "less than 1 together"),
        ({"dev_share": -0.1}, "must be from 0 up"),
        ({"num_jobs": 0}, "num_jobs and max_held_out must be 1 or more"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrepareConfig(**settings)


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("in", {"split": "noise", "text_style": "words"}, "text_style must be left out for noise, .* but is words"),
        ("in", {"split": "noise", "tags": "keep"}, "tags must be left out for noise, which has no texts, but is keep"),
        ("in", {"split": "noise", "limits": Limits(max_duration_s=9.0)}, "limits.max_duration_s must be left out .* is 9.0"),
        ("in", {"split": "dev", "dev_share": 0.3}, "dev_share must be left out for a source that is kept whole"),
        ("in", {"split": "train", "seed": 1}, "seed must be left out for a source that is kept whole as one part, but is 1"),
        ("in", {"min_align_confidence": 0.5}, "min_align_confidence must be left out for a run without align_with"),
        ("prompts", {"test_share": 0.0}, "test_share must be left out for prompts, whose parts are always the same"),
        (
            "librispeech:in",
            {"tags": "drop"},
            "tags must be left out for librispeech, whose texts are as published, but is drop",
        ),
        ("librispeech:in", {"lang": "de"}, "lang must be left out for librispeech, whose texts are as published, but is de"),
        ("librispeech:in", {"seed": 1}, "seed must be left out for librispeech, which has official parts, but is 1"),
        ("librispeech:in", {"max_held_out": 9}, "max_held_out must be left out for librispeech, .* but is 9"),
        ("librispeech:in", {"min_align_confidence": 0.5}, "min_align_confidence must be left out for librispeech"),
        (
            "musan:in",
            {"limits": Limits(min_duration_s=1.0)},
            "limits must be left out for musan, which may be of any length",
        ),
    ],
)
def test_settings_without_effect_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, settings: dict[str, Any], said: str
) -> None:
    put(tmp_path / "in", "a.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        prepare(source, "out", PrepareConfig(**settings))
    assert not (tmp_path / "out").exists()


def test_prompts_as_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text_style must be words for prompts"):
        prepare("prompts", tmp_path, PrepareConfig(text_style="as-written"))


def test_without_lhotse_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(DataError, match=r'pip install "zipasr\[train\]"'):
        prepare(tmp_path, tmp_path / "out")


def test_a_failed_run_keeps_what_was_there(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.wav")
    prepare(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "train_cuts.jsonl.gz").read_bytes()
    put(tmp_path / "bad", "a.wav", tone(0.01))
    with pytest.raises(DataError):
        prepare(tmp_path / "bad", tmp_path / "out")
    assert (tmp_path / "out" / "train_cuts.jsonl.gz").read_bytes() == before
