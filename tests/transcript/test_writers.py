"""Writers of transcripts. Law: TextGrid tiers cover the recording. Contract: every format."""

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zipasr.transcript import (
    CUE_FORMATS,
    FORMATS,
    Cue,
    CueConfig,
    Token,
    Transcript,
    Word,
    to_ctm,
    to_cues,
    to_json,
    to_srt,
    to_textgrid,
    to_tsv,
    to_vtt,
    writer,
)


def spoken(*words: tuple[str, float, float], duration_s: float = 10.0, joiner: str = " ") -> Transcript:
    made = tuple(Word(text, start, end, 0.5) for text, start, end in words)
    tokens = tuple(Token(f"▁{text}", start, end, -0.5) for text, start, end in words)
    return Transcript(joiner.join(w.text for w in made), tokens=tokens, words=made, duration_s=duration_s)


def test_subtitles_break_at_pauses_and_before_they_are_too_long() -> None:
    transcript = spoken(("good", 0.0, 0.3), ("morning", 0.4, 0.9), ("everyone", 2.0, 2.5))
    assert to_cues(transcript) == [Cue(0.0, 1.0, "good morning"), Cue(2.0, 3.0, "everyone")]
    steady = spoken(*(("word", 0.4 * i, 0.4 * i + 0.3) for i in range(60)), duration_s=24.0)
    cues = to_cues(steady)
    assert " ".join(" ".join(cue.text.split()) for cue in cues) == steady.text
    assert all(cue.end_s - cue.start_s <= 7.0 and len(cue.text) <= 84 for cue in cues)
    assert all(len(line) <= 42 for cue in cues for line in cue.text.splitlines())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_a_transcript_without_words(name: str) -> None:
    written = FORMATS[name](Transcript("", duration_s=1.0), "a.wav")
    assert written.endswith("\n") or written == ""
    assert "a.wav" not in written or name == "json"


def test_text_without_times_is_one_subtitle() -> None:
    assert to_srt(Transcript("hello", duration_s=1.5), "a") == "1\n00:00:00,000 --> 00:00:01,500\nhello\n\n"


def test_srt_and_vtt() -> None:
    transcript = spoken(("a<b", 3599.9996, 3600.5), duration_s=3601.0)
    assert to_srt(transcript, "x") == "1\n01:00:00,000 --> 01:00:01,000\na<b\n\n"
    assert to_vtt(transcript, "x") == "WEBVTT\n\n01:00:00.000 --> 01:00:01.000\na&lt;b\n"


def test_tsv_and_ctm() -> None:
    transcript = dataclasses.replace(spoken(("hi", 0.12, 0.5), ("you", 0.5, 0.8)), channel=1)
    assert to_tsv(transcript, "x") == "start\tend\ttext\n120\t1120\thi you\n"
    assert to_ctm(transcript, "my call.wav") == (
        "my_call.wav 2 0.120 0.380 hi 0.5000\nmy_call.wav 2 0.500 0.300 you 0.5000\n"
    )


def test_a_language_without_spaces_keeps_none() -> None:
    transcript = spoken(("日", 0.0, 0.1), ("本", 0.1, 0.2), joiner="")
    assert transcript.text == "日本"
    assert to_cues(transcript) == [Cue(0.0, 1.0, "日本")]


def test_json_of_alternatives_and_channel() -> None:
    best = dataclasses.replace(spoken(("hi", 0.0, 0.2)), alternatives=(spoken(("high", 0.0, 0.2)),), channel=0)
    read = json.loads(to_json(best, "a.wav"))
    assert read["audio"] == "a.wav"
    assert read["channel"] == 0
    assert [reading["text"] for reading in read["alternatives"]] == ["high"]
    assert "alternatives" not in spoken(("hi", 0.0, 0.2)).to_dict()


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.0, 2)), max_size=8))
def test_textgrid_tiers_cover_the_recording_whatever_the_times(times: list[tuple[float, float]]) -> None:
    transcript = spoken(*(('say "x"', start, start + length) for start, length in sorted(times)), duration_s=5.0)
    written = to_textgrid(transcript, "a")
    tiers = written.split("item [")[2:]
    assert len(tiers) == 2
    for tier in tiers:
        starts = [float(v) for v in re.findall(r"^            xmin = (.*)$", tier, re.MULTILINE)]
        ends = [float(v) for v in re.findall(r"^            xmax = (.*)$", tier, re.MULTILINE)]
        assert starts[0] == 0
        assert ends[-1] == float(re.findall(r"^        xmax = (.*)$", tier, re.MULTILINE)[0])
        assert starts[1:] == ends[:-1]
        assert len(starts) == int(re.findall(r"size = (\d+)", tier)[0])
    assert written.count('say ""x""') == sum("say" in line for line in written.splitlines())


def test_limits_of_subtitles_reach_every_format_of_them() -> None:
    transcript = spoken(("good", 0.0, 0.3), ("morning", 0.4, 0.9))
    for format in CUE_FORMATS:
        write = writer(format, CueConfig(max_line_chars=8, max_lines=1))
        assert "good\n" in write(transcript, "a")
        assert "good\n" not in writer(format)(transcript, "a")
    with pytest.raises(ValueError, match="cues must be given for srt, vtt, tsv only"):
        writer("ctm", CueConfig())
    with pytest.raises(ValueError, match="format must be one of"):
        writer("doc")
