"""Recordings with one speaker per channel: the transcripts of the channels -> one merged `Transcript`, and back."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from zipasr.transcript.result import Transcript, cut_at_gaps

PAUSE_S = 0.8
"""A longer silence between two words starts a new subtitle, so that none stays on screen while nothing is said, and lets
another speaker have the next turn."""


class Turn(NamedTuple):
    """What one speaker says until another one speaks."""

    channel: int | None
    start_s: float
    end_s: float
    text: str


def channel_label(channel: int | None) -> str:
    """What precedes the text of a channel wherever several are shown; empty for None."""
    return "" if channel is None else f"[channel {channel}] "


def merge_channels(transcripts: Sequence[Transcript]) -> Transcript:
    """One transcript of a recording from those of its channels: every word and token has its channel, in order of time.

    Args:
        transcripts: each with its `channel`.
    Returns:
        The merged transcript. Its text is that of the turns in order, its score the sum of the channels'; it has no
        alternatives, since those of the channels do not combine.
    Raises:
        ValueError: a transcript has no channel, or two have the same.
    """
    channels = [transcript.channel for transcript in transcripts]
    if None in channels or len(set(channels)) < len(channels):
        raise ValueError(f"transcripts must have a channel each, but have {channels}; use Recognizer.transcribe_channels")
    words = [replace(word, channel=part.channel) for part in transcripts for word in part.words]
    tokens = [replace(token, channel=part.channel) for part in transcripts for token in part.tokens]
    joiner = next((part.joiner for part in transcripts if part.joiner is not None), None)
    if joiner is None:
        joiner = "" if any(part.word_joiner == "" for part in transcripts) else " "
    merged = Transcript(
        "",
        tokens=tuple(sorted(tokens, key=lambda token: token.start_s)),
        words=tuple(sorted(words, key=lambda word: word.start_s)),
        duration_s=max((part.duration_s for part in transcripts), default=0.0),
        score=sum(part.score for part in transcripts),
        joiner=joiner,
    )
    return replace(merged, text=joiner.join(turn.text for turn in to_turns(merged)))


def split_channels(transcript: Transcript) -> list[Transcript]:
    """The transcript of each channel of a merged one, in order of channels; of another one, itself."""
    if not is_merged(transcript):
        return [transcript]
    parts = []
    for channel in sorted({word.channel for word in transcript.words if word.channel is not None}):
        words = tuple(word for word in transcript.words if word.channel == channel)
        tokens = tuple(token for token in transcript.tokens if token.channel == channel)
        text = transcript.word_joiner.join(word.text for word in words)
        parts.append(replace(transcript, text=text, words=words, tokens=tokens, channel=channel))
    return parts


def is_merged(transcript: Transcript) -> bool:
    """Whether a transcript is that of several channels, each word with its own."""
    return any(word.channel is not None for word in transcript.words)


def to_turns(transcript: Transcript) -> list[Turn]:
    """The turns of a conversation, in order of their starts; a transcript that is not merged is one turn.

    A speaker who says something while another one speaks gets a turn after the phrase, up to the next pause, of the other.
    """
    if not is_merged(transcript):
        return [Turn(transcript.channel, 0.0, transcript.duration_s, transcript.text)]
    phrases = [phrase for part in split_channels(transcript) for phrase in cut_at_gaps(part.words, PAUSE_S)]
    phrases.sort(key=lambda phrase: phrase[0].start_s)
    turns = []
    for channel, group in itertools.groupby(phrases, key=lambda phrase: phrase[0].channel):
        words = list(itertools.chain.from_iterable(group))
        text = transcript.word_joiner.join(word.text for word in words)
        turns.append(Turn(channel, words[0].start_s, words[-1].end_s, text))
    return turns
