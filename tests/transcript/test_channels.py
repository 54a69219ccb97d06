"""Law: merging loses no word and keeps the order within a channel. Contract: turns; every format of a call."""

import dataclasses
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from zipasr.transcript import (
    FORMATS,
    Token,
    Transcript,
    Word,
    merge_channels,
    split_channels,
    to_ctm,
    to_json,
    to_srt,
    to_text,
    to_textgrid,
    to_tsv,
    to_turns,
    to_vtt,
)


def speaker(channel: int | None, *words: tuple[str, float, float], duration_s: float = 10.0) -> Transcript:
    timed = tuple(Word(text, start_s, end_s, 0.5) for text, start_s, end_s in words)
    tokens = tuple(Token(f"▁{text}", start_s, end_s, -0.5) for text, start_s, end_s in words)
    text = " ".join(word.text for word in timed)
    return Transcript(text, tokens=tokens, words=timed, duration_s=duration_s, score=-1.0, channel=channel)


AGENT = speaker(0, ("hello", 0.0, 0.5), ("who", 0.6, 0.9), ("is", 1.0, 1.1), ("this", 1.2, 1.5), ("fine", 5.0, 5.5))
CALLER = speaker(1, ("hi", 0.7, 0.9), ("it's", 2.0, 2.3), ("me", 2.4, 2.6), duration_s=9.0)


def test_turns_of_a_call() -> None:
    """ "hi" comes while the agent speaks, so it follows what the agent says without a pause."""
    merged = merge_channels([AGENT, CALLER])
    assert merged.text == "hello who is this hi it's me fine"
    assert (merged.duration_s, merged.score, merged.channel) == (10.0, -2.0, None)
    assert to_text(merged, "") == "[channel 0] hello who is this\n[channel 1] hi it's me\n[channel 0] fine\n"
    assert [word.text for word in merged.words] == ["hello", "who", "hi", "is", "this", "it's", "me", "fine"]
    assert [(turn.channel, turn.start_s, turn.end_s) for turn in to_turns(merged)] == [
        (0, 0.0, 1.5),
        (1, 0.7, 2.6),
        (0, 5.0, 5.5),
    ]


def test_every_format_has_the_channel() -> None:
    merged = merge_channels([AGENT, CALLER])
    row = json.loads(to_json(merged, "call.wav"))
    assert [(word["text"], word["channel"]) for word in row["words"]][:3] == [("hello", 0), ("who", 0), ("hi", 1)]
    assert all("channel" in token for token in row["tokens"])
    assert row["turns"][1] == {"channel": 1, "start_s": 0.7, "end_s": 2.6, "text": "hi it's me"}
    assert "channel" not in row
    assert "[channel 1] it's me\n" in to_srt(merged, "")
    assert "<v channel 1>it's me\n" in to_vtt(merged, "")
    assert "2000\t3000\t1\tit's me\n" in to_tsv(merged, "")
    assert to_tsv(merged, "").startswith("start\tend\tchannel\ttext\n")
    assert [line.split()[1] for line in to_ctm(merged, "call").splitlines()] == ["1"] * 5 + ["2"] * 3
    tiers = [line.strip() for line in to_textgrid(merged, "").splitlines() if "name =" in line]
    assert tiers == [f'name = "channel {channel} {kind}"' for channel in (0, 1) for kind in ("words", "tokens")]


@pytest.mark.parametrize("format", FORMATS)
def test_one_channel_alone_is_written_as_before(format: str) -> None:
    """The transcript of a single channel, not merged, has no labels."""
    written = FORMATS[format](AGENT, "a")
    assert "[channel" not in written
    assert "<v" not in written
    assert "turns" not in written


times = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 2)), max_size=12).map(sorted)


@given(times, times)
def test_merging_keeps_every_word(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
    parts = [
        speaker(channel, *((f"w{channel}{i}", start_s, start_s + length_s) for i, (start_s, length_s) in enumerate(spans)))
        for channel, spans in enumerate((first, second))
    ]
    merged = merge_channels(parts)
    spoken = [part for part in parts if part.words]
    assert sorted(merged.text.split()) == sorted(word.text for part in parts for word in part.words)
    assert sorted(" ".join(turn.text for turn in to_turns(merged)).split()) == sorted(merged.text.split())
    if spoken:
        assert [[word.text for word in part.words] for part in split_channels(merged)] == [
            [word.text for word in part.words] for part in spoken
        ]


def test_a_silent_channel_and_a_silent_call() -> None:
    assert merge_channels([AGENT, speaker(1)]).text == AGENT.text
    silent = merge_channels([speaker(0), speaker(1)])
    assert (silent.text, silent.duration_s) == ("", 10.0)
    assert all(FORMATS[format](silent, "a") is not None for format in FORMATS)


@pytest.mark.parametrize("second", [dataclasses.replace(CALLER, channel=None), dataclasses.replace(CALLER, channel=0)])
def test_refuses_transcripts_without_their_own_channel(second: Transcript) -> None:
    with pytest.raises(ValueError, match="must have a channel each"):
        merge_channels([AGENT, second])
