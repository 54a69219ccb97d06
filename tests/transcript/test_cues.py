"""Law: cues hold every word once, in order, within their limits. Contract: they are split where a reader expects it."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.instructions import num_instructions
from zipasr.errors import ConfigError
from zipasr.transcript import Cue, CueConfig, Transcript, Word, merge_channels, to_cues
from zipasr.transcript import cues as cues_module


def said(text: str, *, word_s: float = 0.3, pauses_s: dict[int, float] | None = None) -> Transcript:
    """A transcript of words in a row, each followed by 0.05 s or the pause that is given for its number."""
    words, now_s = [], 0.0
    for i, word in enumerate(text.split()):
        words.append(Word(word, now_s, now_s + word_s, 1.0))
        now_s += word_s + (pauses_s or {}).get(i, 0.05)
    return Transcript(text, words=tuple(words), duration_s=now_s)


def texts(transcript: Transcript, **config: float) -> list[str]:
    return [cue.text for cue in to_cues(transcript, CueConfig(**config))]  # type: ignore[arg-type]


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    words = draw(st.lists(st.from_regex(r"[a-z日本]{1,12}[.,]?", fullmatch=True), max_size=40))
    durations = draw(st.lists(st.floats(0.01, 2.0), min_size=len(words), max_size=len(words)))
    pauses = draw(st.lists(st.floats(0.0, 2.0), min_size=len(words), max_size=len(words)))
    timed, now_s = [], 0.0
    for word, duration_s, pause_s in zip(words, durations, pauses, strict=True):
        timed.append(Word(word, now_s, now_s + duration_s, 1.0))
        now_s += duration_s + pause_s
    return Transcript(" ".join(words), words=tuple(timed), duration_s=now_s)


@given(transcripts(), st.integers(10, 50), st.integers(1, 3), st.floats(0.0, 2.0), st.floats(2.0, 10.0))
def test_cues_keep_words_and_limits(
    transcript: Transcript, max_line_chars: int, max_lines: int, min_cue_s: float, max_cue_s: float
) -> None:
    config = CueConfig(max_line_chars=max_line_chars, max_lines=max_lines, min_cue_s=min_cue_s, max_cue_s=max_cue_s)
    cues = to_cues(transcript, config)
    assert " ".join(cue.text for cue in cues).split() == transcript.text.split()
    times = [time for cue in cues for time in (cue.start_s, cue.end_s)]
    assert times == sorted(times)
    for cue in cues:
        assert cue.end_s - cue.start_s <= max_cue_s + 1e-9
        if len(cue.text.split()) > 1:
            assert len(cue.text.split("\n")) <= max_lines
            assert all(len(line) + sum(c in "日本" for c in line) <= max_line_chars for line in cue.text.split("\n"))


def test_two_balanced_lines() -> None:
    assert texts(said("thank you for calling please listen as our menu has changed")) == [
        "thank you for calling please\nlisten as our menu has changed"
    ]


def test_no_word_is_left_alone() -> None:
    """Fourteen words: twelve would fill the first subtitle, and the last word would have one of its own."""
    found = texts(said("alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november"))
    assert len(found) == 2
    assert all(len(text.split()) > 2 for text in found)


def test_no_character_is_left_alone_in_a_language_without_spaces() -> None:
    words = tuple(Word(c, i * 0.2, i * 0.2 + 0.2, 1.0) for i, c in enumerate("今天天气很好我们一起去公园散步" * 3))
    transcript = Transcript("".join(word.text for word in words), words=words, duration_s=9.0)
    cues = to_cues(transcript)
    assert len(cues) > 1
    assert all(len(cue.text.replace("\n", "")) > 10 for cue in cues)


def test_ends_with_the_sentence() -> None:
    found = texts(said("This is the first sentence of them all. And here the second one goes on for quite a while longer."))
    assert found[0].replace("\n", " ") == "This is the first sentence of them all."


def test_a_pause_splits_and_a_word_between_pauses_stays_alone() -> None:
    assert texts(said("yes please hold", pauses_s={0: 1.0, 2: 1.0})) == ["yes", "please hold"]


def test_a_short_cue_stays_until_the_next() -> None:
    cues = to_cues(said("yes no please", pauses_s={0: 1.5, 1: 1.4, 2: 1.0}), CueConfig(min_cue_s=1.3))
    assert [cue[:2] for cue in cues] == [(0.0, 1.3), (pytest.approx(1.8), pytest.approx(3.1)), (pytest.approx(3.5), 4.8)]


def test_words_that_the_next_leaves_too_little_time_share_a_cue() -> None:
    """The pause of 0.9 s would split them, but then the second word would be shown for 1.2 s only."""
    cues = to_cues(said("yes no please", pauses_s={0: 1.5, 1: 0.9}), CueConfig(min_cue_s=1.3))
    assert [cue.text for cue in cues] == ["yes", "no please"]


def test_a_word_of_many_seconds_is_shown_for_the_longest_time() -> None:
    """The end of music, say, that was recognized as one word."""
    cues = to_cues(Transcript("oh", words=(Word("oh", 1.0, 30.0, 0.1),), duration_s=40.0), CueConfig(max_cue_s=5.0))
    assert cues == [Cue(1.0, 6.0, "oh")]


def test_work_of_huge_limits_grows_with_the_square() -> None:
    """All words are in one cue; the work must not grow with the cube of their number."""

    def work(num_words: int) -> int:
        transcript = said(" ".join(["word"] * num_words), word_s=0.01)
        config = CueConfig(max_line_chars=10**9, max_lines=10**9, max_cue_s=1e9)
        assert [cue.text for cue in to_cues(transcript, config)] == [transcript.text]
        return num_instructions(cues_module, lambda: to_cues(transcript, config))

    assert work(100) < 5 * work(50)


def test_times_that_fall_back_end_no_cue_before_its_start() -> None:
    words = (Word("a", 5.0, 6.0, 1.0), Word("b", 2.0, 3.0, 1.0), Word("c", 9.0, 9.5, 1.0))
    assert all(cue.start_s <= cue.end_s for cue in to_cues(Transcript("a b c", words=words, duration_s=9.5)))


def test_full_width_characters_take_two_columns() -> None:
    words = tuple(Word(c, i * 0.2, i * 0.2 + 0.2, 1.0) for i, c in enumerate("日本語を話します"))
    transcript = Transcript("日本語を話します", words=words, duration_s=1.6)
    assert to_cues(transcript, CueConfig(max_line_chars=8)) == [Cue(0.0, 1.6, "日本語を\n話します")]


def test_text_without_words_is_one_cue() -> None:
    assert to_cues(Transcript("hello", duration_s=2.0)) == [Cue(0.0, 2.0, "hello")]
    assert to_cues(Transcript("", duration_s=2.0)) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_line_chars": 0}, "`max_line_chars` must be 1 or more, but is 0"),
        ({"max_lines": -1}, "`max_lines` must be 1 or more, but is -1"),
        ({"min_cue_s": 8.0}, "but they are 8.0 and 7.0"),
        ({"max_cue_s": 0.0, "min_cue_s": 0.0}, "but they are 0.0 and 0.0"),
        ({"max_cue_s": float("nan")}, "but they are 1.0 and nan"),
    ],
)
def test_refuses_limits_that_nothing_satisfies(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CueConfig(), **wrong)  # type: ignore[arg-type]


def test_speakers_have_their_own_cues() -> None:
    first = dataclasses.replace(said("how can i help you today with your account please"), channel=0)
    second = dataclasses.replace(said("hello", pauses_s={0: 3.0}), channel=1)
    second = dataclasses.replace(second, words=(Word("hello", 1.0, 1.4, 0.5),))
    merged = merge_channels([first, second])
    cues = to_cues(merged, CueConfig(max_line_chars=30), is_labeled=True)
    assert [(cue.channel, cue.text) for cue in cues] == [
        (0, "[channel 0] how can i help you\ntoday with your account please"),
        (1, "[channel 1] hello"),
    ]
    assert all(len(line) <= 30 for cue in cues for line in cue.text.split("\n"))


@given(transcripts(), st.integers(13, 40), st.integers(1, 3))
def test_labels_fit_into_the_lines(transcript: Transcript, max_line_chars: int, max_lines: int) -> None:
    merged = merge_channels([dataclasses.replace(transcript, channel=7)])
    for cue in to_cues(merged, CueConfig(max_line_chars=max_line_chars, max_lines=max_lines), is_labeled=True):
        lines = cue.text.split("\n")
        words = cue.text.removeprefix("[channel 7] ").split()
        if len(words) > 1:
            assert len(lines) <= max_lines
            is_first_alone = len(lines[0].split()) == 3  # the label and a word that is too long for it
            assert all(len(line) + sum(c in "日本" for c in line) <= max_line_chars for line in lines[is_first_alone:])
