"""Contract: which text of a folder belongs to which recording, and what is said about those that cannot be used.

The reader opens no audio, so most recordings are empty files.
"""

from pathlib import Path

import pytest

from tests.prepare.entries import put, sorted_out
from tests.prepare.prepared import cuts_of, tone
from tests.prepare.prepared import put as recording
from zipasr.errors import DataError
from zipasr.prepare import PrepareConfig, prepare
from zipasr.prepare.folders import read_folder
from zipasr.prepare.utterance import Reason, Rejected, Utterance
from zipasr.prepare.validate import Limits


def cue(text: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n"


def texts_of(folder: Path, lang: str = "en") -> dict[str, str]:
    good, _ = sorted_out(read_folder(folder, lang))
    return {name: utterance.text for name, utterance in good.items()}


def details_of(folder: Path, lang: str = "en") -> dict[str, tuple[Reason, str]]:
    entries = read_folder(folder, lang)
    return {entry.id: (entry.reason, entry.detail) for entry in entries if isinstance(entry, Rejected)}


@pytest.mark.parametrize("middle", ["asr", "bak", "old", "raw", "en", "xyz"])
def test_a_text_of_the_name_of_its_recording_is_used(tmp_path: Path, middle: str) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / f"a.{middle}.txt", "machine text")
    put(tmp_path / "a.txt", "corrected text")
    put(tmp_path / "b.wav")
    put(tmp_path / f"b.{middle}.txt", "machine text")
    assert texts_of(tmp_path) == {"a": "corrected text"}
    detail = f"expected a recording a.{middle}.wav (or any other audio) beside a.{middle}.txt, got none"
    assert details_of(tmp_path) == {
        "b": (Reason.NO_TEXT, "expected b.txt beside it, got none"),
        f"a.{middle}": (Reason.NO_AUDIO, detail),
        f"b.{middle}": (Reason.NO_AUDIO, detail.replace("a.", "b.")),
    }


def test_subtitles_without_a_language_come_first(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    for middle in ("", ".de", ".en"):
        put(tmp_path / f"a{middle}.srt", cue(f"text {middle}"))
    assert texts_of(tmp_path, "de") == {"a-0001000": "text"}


@pytest.mark.parametrize(
    ("lang", "tags", "used"),
    [
        ("en", ("de", "en"), "en"),
        ("de", ("de", "en", "de-AT"), "de"),
        ("de_at", ("de", "en", "de-AT"), "de-AT"),
        ("en-GB", ("de", "en-US"), "en-US"),
        ("en", ("fr",), "fr"),
    ],
)
def test_subtitles_in_the_language_are_used(tmp_path: Path, lang: str, tags: tuple[str, ...], used: str) -> None:
    put(tmp_path / "a.wav")
    for tag in tags:
        put(tmp_path / f"a.{tag}.srt", cue(f"text {tag}"))
        put(tmp_path / f"a.{tag}.vtt", cue("the same in another format"))
    assert texts_of(tmp_path, lang) == {"a-0001000": f"text {used}"}


@pytest.mark.parametrize("tags", [("de", "fr"), ("en-GB", "en-US")])
def test_subtitles_in_several_other_languages_are_rejected(tmp_path: Path, tags: tuple[str, ...]) -> None:
    put(tmp_path / "a.wav")
    for tag in tags:
        put(tmp_path / f"a.{tag}.srt", cue(f"text {tag}"))
    names = ", ".join(f"a.{tag}.srt" for tag in tags)
    ((reason, detail),) = details_of(tmp_path).values()
    assert reason is Reason.BAD_ENTRY
    assert f"must have one text in en, but beside it are {names}; leave out the language in the name of the one" in detail


def test_texts_of_recordings_of_one_name_are_told_by_their_endings(tmp_path: Path) -> None:
    for ending in ("mp3", "wav"):
        put(tmp_path / f"a.{ending}")
        put(tmp_path / f"a.{ending}.txt", f"text of {ending}")
    entries = list(read_folder(tmp_path, "en"))
    assert [(entry.audio.name, entry.text) for entry in entries] == [("a.mp3", "text of mp3"), ("a.wav", "text of wav")]


TIER = '"IntervalTier" "{}" 0 2 1 0 2 "h"\n'
PHONES = '"ooTextFile" "TextGrid" 0 2 <exists> 2\n' + TIER.format("Ann - phones") + TIER.format("syllables")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.srt", cue("[Music]"), "in a.srt, got none"),
        ("a.vtt", "WEBVTT\n\n" + cue("\N{EIGHTH NOTE} la \N{EIGHTH NOTE}"), "in a.vtt, got none"),
        ("a.TextGrid", PHONES, "in a.TextGrid, got none in the tiers 'Ann - phones', 'syllables'"),
    ],
)
def test_a_recording_without_any_text_with_times_is_listed(tmp_path: Path, name: str, content: str, said: str) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / name, content)
    assert texts_of(tmp_path) == {}
    assert details_of(tmp_path) == {"a": (Reason.NO_TEXT, f"expected texts with times {said}")}


def test_a_cue_without_times_is_listed(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "a.srt", f"{cue('hello')}\n2\n00:00:05:000 --> 00:00:06:000\nworld\n")
    assert texts_of(tmp_path) == {"a-0001000": "hello"}
    detail = "expected times such as 00:00:01,000 --> 00:00:04,000 in a.srt, got '00:00:05:000 --> 00:00:06:000'"
    assert details_of(tmp_path) == {"a": (Reason.BAD_ENTRY, detail)}


def test_texts_beside_noise_are_not_read(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    put(tmp_path / "a.srt", cue("[Music]"))
    put(tmp_path / "b.wav")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfa")
    put(tmp_path / "README.txt", "of whom the recordings are")
    put(tmp_path / "all.trans.txt", "c a recording that is not there\n")
    entries = list(read_folder(tmp_path, "en", needs_texts=False))
    assert [(entry.id, entry.text, entry.duration_s) for entry in entries] == [("a", "", None), ("b", "", None)]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("TRAIN", "train"),
        ("Training", "train"),
        ("train-clean-100", "train"),
        ("Development", "dev"),
        ("mini_dev2", "dev"),
        ("testing", "test"),
        ("EVALUATION_2", "test"),
        ("contest", None),
        ("speaker1", None),
    ],
)
def test_names_of_folders_are_splits(tmp_path: Path, folder: str, split: str | None) -> None:
    put(tmp_path / folder / "a.wav")
    put(tmp_path / folder / "a.txt", "x")
    (utterance,) = read_folder(tmp_path, "en")
    assert isinstance(utterance, Utterance)
    assert utterance.split == split


@pytest.mark.parametrize(
    ("others", "splits"),
    [
        (("anna",), {"Val": None, "hearing_test": None, "test-clean": "test", "anna": None}),
        (
            ("anna", "Training"),
            {"Val": "dev", "hearing_test": "test", "test-clean": "test", "anna": None, "Training": "train"},
        ),
        ((), {"Val": "dev", "hearing_test": "test", "test-clean": "test"}),
    ],
)
def test_names_that_may_mean_something_else(tmp_path: Path, others: tuple[str, ...], splits: dict[str, str | None]) -> None:
    """Without a part for training, a folder may be a speaker or a task; only plain names of splits count."""
    for name in ("Val", "hearing_test", "test-clean", *others):
        put(tmp_path / name / "a.wav")
        put(tmp_path / name / "a.txt", "x")
    entries = [entry for entry in read_folder(tmp_path, "en") if isinstance(entry, Utterance)]
    assert {entry.audio.parent.name: entry.split for entry in entries} == splits


def test_a_text_without_times_is_named_if_the_recording_is_too_long(tmp_path: Path) -> None:
    recording(tmp_path / "in", "call.wav", tone(4.0), text="hello")
    put(tmp_path / "in" / "call.vtt", "WEBVTT\n\n" + cue("hello"))
    config = PrepareConfig(limits=Limits(max_duration_s=3.0))
    with pytest.raises(
        DataError, match=r"call\.vtt has times but is not used, because call\.txt is there: remove call\.txt, or"
    ):
        prepare(tmp_path / "in", tmp_path / "out", config)
    (tmp_path / "in" / "call.txt").unlink()
    prepare(tmp_path / "in", tmp_path / "out", config)
    assert cuts_of(tmp_path / "out").keys() == {"call-0001000"}
    recording(tmp_path / "in", "call.wav", tone(4.0), text="hello")
    prepare(tmp_path / "in", tmp_path / "out")
    assert cuts_of(tmp_path / "out").keys() == {"call"}
