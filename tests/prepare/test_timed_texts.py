"""Contract: subtitles and TextGrids give what was said, and when."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from zipasr.prepare.timed_texts import TimedText, join_neighbors, read_timed_texts
from zipasr.transcript import Token, Transcript, Word, to_srt, to_textgrid, to_vtt

SRT = """\
1
00:00:01,000 --> 00:00:02,500
<i>Please hold</i> the line.

2
00:01:00,000 --> 00:01:02,000
- Who is this?
- {\\an8}Ann &amp; Bob.

3
00:01:05,000 --> 00:01:07,000
[door closes]

4
00:01:10,000 --> 00:01:12,000
\N{EIGHTH NOTE} la la la \N{EIGHTH NOTE}
5
00:02:00,000 --> 00:02:01,500 X1:10 X2:20
7
"""
VTT = """\
WEBVTT - a title

STYLE
::cue { color: red }

NOTE 00:00 is when it starts

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Please hold</v>

1:00:01.000 --> 1:00:02.500
[sighs] the line
"""
ROLLING = """\
WEBVTT
Kind: captions

00:00:00.160 --> 00:00:02.470 align:start position:0%
~
please<00:00:00.480><c> hold</c>

00:00:02.470 --> 00:00:02.480 align:start position:0%
please hold
~

00:00:02.480 --> 00:00:04.000 align:start position:0%
please hold
the<00:00:02.900><c> line</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
the line
~

00:00:09.000 --> 00:00:11.000 align:start position:0%
the line
""".replace("~", " ")
LONG_TEXTGRID = """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 9.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "Ann - words"
        xmin = 0
        xmax = 9.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 1.25
            text = ""
        intervals [2]:
            xmin = 1.25
            xmax = 1.5
            text = "say"
        intervals [3]:
            xmin = 1.5
            xmax = 2
            text = ""\"3 xmin = 4"" "
        intervals [4]:
            xmin = 8
            xmax = 9.5
            text = "hold"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 9.5
        points: size = 1
        points [1]:
            number = 1.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "Ann - phones"
        xmin = 0
        xmax = 9.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 9.5
            text = "h"
"""
SHORT_TEXTGRID = """\
File type = "ooTextFile"
"TextGrid"

0
10
<exists>
2
"IntervalTier"
"Ann"
0
10
1
1e0
2.5
"hello there"
"IntervalTier"
"Bob"
0
10
1
2
4
"hello"
"""


def read(tmp_path: Path, name: str, content: str, encoding: str = "utf-8") -> list[TimedText]:
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    return join_neighbors(read_timed_texts(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_srt(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "a.SRT", SRT, encoding) == [
        TimedText(1.0, 2.5, "Please hold the line."),
        TimedText(60.0, 62.0, "Who is this? Ann & Bob."),
        TimedText(120.0, 121.5, "7"),
    ]


def test_srt_of_windows(tmp_path: Path) -> None:
    assert read(tmp_path, "a.srt", SRT.replace("\n", "\r\n")) == read(tmp_path, "b.srt", SRT)


def test_texts_of_srt_hold_empty_lines(tmp_path: Path) -> None:
    cues = "1\n{}Hello\n\nworld again\n\n2\n{}7\n\n3\n\n{}\n8\n\n4\n{}\n5\n{}the\n\nend\n"
    times = [f"00:00:{start:02d},000 --> 00:00:{start + 4:02d},000\n" for start in (1, 10, 20, 30, 40)]
    assert read(tmp_path, "a.srt", cues.format(*times)) == [
        TimedText(1, 5, "Hello world again"),
        TimedText(10, 14, "7"),
        TimedText(20, 24, "8"),
        TimedText(40, 44, "the end"),
    ]


def test_an_empty_line_ends_a_text_of_vtt(tmp_path: Path) -> None:
    cues = "WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n\nNOTE of the editor\n\n00:05.000 --> 00:06.000\nworld\n"
    expected = [TimedText(1, 2, "Hello"), TimedText(5, 6, "world")]
    assert read(tmp_path, "a.vtt", cues) == read(tmp_path, "a.srt", cues) == expected


def test_times_without_decimals(tmp_path: Path) -> None:
    cues = "1\n00:00:01,000 --> 00:00:02,500\nHello\n2\n00:00:05 --> 1:00:06\nworld\n"
    assert read(tmp_path, "a.srt", cues) == [TimedText(1, 2.5, "Hello"), TimedText(5, 3606, "world")]


@pytest.mark.parametrize(
    ("between", "is_first_kept"),
    [
        ("\n2\n00:00:05:000 --> 00:00:06:000\nlost\n", True),
        ("2\n00:00:05:000 --> 00:00:06:000\nlost\n", True),
        ("\n00:00:05:000 --> 00:00:06:000\nlost\n", True),
        ("from A --> B\n", False),
    ],
)
def test_a_cue_whose_times_cannot_be_read_is_told(tmp_path: Path, between: str, is_first_kept: bool) -> None:
    """An arrow in a text leaves open where that text ends, so that its cue is not used either."""
    path = tmp_path / "a.srt"
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\nHello\n{between}\n3\n00:00:08,000 --> 00:00:09,000\nworld\n")
    first, *_ = [line for line in between.splitlines() if "-->" in line]
    entries = [entry.text if math.isnan(entry.start_s) else entry for entry in read_timed_texts(path)]
    expected = [TimedText(1, 2, "Hello"), first, TimedText(8, 9, "world")]
    assert entries == (expected if is_first_kept else expected[1:])


def test_vtt(tmp_path: Path) -> None:
    assert read(tmp_path, "a.vtt", VTT) == [TimedText(1.0, 2.5, "Please hold", "Ann"), TimedText(3601.0, 3602.5, "the line")]


def test_rolling_captions_are_read_once(tmp_path: Path) -> None:
    """The last line is said again five seconds later: nothing is on the screen then that it could repeat."""
    assert read(tmp_path, "a.vtt", ROLLING) == [
        TimedText(0.16, 4.0, "please hold the line"),
        TimedText(9.0, 11.0, "the line"),
    ]


def test_touching_cues_are_joined_up_to_the_limit(tmp_path: Path) -> None:
    cues = "".join(f"{i}\n00:00:{2 * i:02d},000 --> 00:00:{2 * i + 2:02d},000\nw{i}\n\n" for i in range(10))
    joined = read(tmp_path, "a.srt", cues)
    assert joined == [TimedText(0, 14, "w0 w1 w2 w3 w4 w5 w6"), TimedText(14, 20, "w7 w8 w9")]


def test_long_textgrid(tmp_path: Path) -> None:
    """Words that touch are joined; numbers and names inside a label are no values; parts of words are left out."""
    assert read(tmp_path, "a.TextGrid", LONG_TEXTGRID) == [
        TimedText(1.25, 2.0, 'say "3 xmin = 4"'),
        TimedText(8, 9.5, "hold"),
    ]


def test_short_textgrid_with_a_tier_for_each_speaker(tmp_path: Path) -> None:
    expected = [TimedText(1.0, 2.5, "hello there", "Ann"), TimedText(2.0, 4.0, "hello", "Bob")]
    assert read(tmp_path, "a.textgrid", SHORT_TEXTGRID, "utf-16") == expected


@pytest.mark.parametrize(("ending", "write"), [("srt", to_srt), ("vtt", to_vtt), ("TextGrid", to_textgrid)])
def test_our_own_files(tmp_path: Path, ending: str, write: Callable[[Transcript, str], str]) -> None:
    words = (Word("SAY", 1.0, 1.4, 1.0), Word('"A&B"', 1.5, 2.0, 1.0), Word("AGAIN", 5.0, 6.0, 1.0))
    tokens = tuple(Token("\u2581" + word.text, word.start_s, word.end_s, 0.0) for word in words)
    transcript = Transcript('SAY "A&B" AGAIN', tokens=tokens, words=words, duration_s=7.0)
    found = read(tmp_path, f"a.{ending}", write(transcript, "a"))
    assert " ".join(entry.text for entry in found) == transcript.text
    assert found[0].start_s == 1.0
    assert found[-1].start_s == 5.0


@pytest.mark.parametrize(
    ("name", "content", "encoding", "message"),
    [
        ("a.srt", "Please hold.\n", "utf-8", "there are none"),
        ("a.TextGrid", "Please hold.\n", "utf-8", "must be one that Praat saved as text"),
        ("a.TextGrid", LONG_TEXTGRID[:600], "utf-8", "must be one that Praat saved as text"),
        ("a.srt", SRT.replace("Ann", "Ánn").replace("\N{EIGHTH NOTE}", ""), "latin-1", "save it in UTF-8"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str, encoding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, content, encoding)
