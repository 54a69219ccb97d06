"""Contract: the fields of the transcription API that limit subtitles."""

import pytest

from tests.tiny_model import tiny_tokenizer
from zipasr.serve.openai_api import RequestError, ServedModel, parse_request, write_answer
from zipasr.transcript import Transcript, Word

WORDS = (Word("good", 0.0, 0.3, 0.5), Word("morning", 0.4, 0.9, 0.5))
TRANSCRIPT = Transcript("good morning", words=WORDS, duration_s=3.0)
MODEL = ServedModel(name="m", tokenizer=tiny_tokenizer())
NARROW = [("model", "m"), ("max_line_chars", "8"), ("max_lines", "1")]


@pytest.mark.parametrize("format", ["srt", "vtt", "verbose_json"])
def test_fields_limit_the_subtitles(format: str) -> None:
    asked = parse_request([*NARROW, ("response_format", format)], MODEL)
    plain = parse_request([("model", "m"), ("response_format", format)], MODEL)
    assert "good morning" in write_answer(plain, TRANSCRIPT)[1]
    _, body = write_answer(asked, TRANSCRIPT)
    assert body.replace('"text":"good morning"', "").count("good morning") <= (format == "verbose_json")
    assert body.count("morning") >= 1


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ([("max_lines", "two"), ("response_format", "srt")], "max_lines", "must be a number, but is 'two'"),
        ([("max_lines", "0"), ("response_format", "srt")], "max_lines", "must be 1 or more, but is 0"),
        ([("min_cue_s", "nan"), ("response_format", "vtt")], "min_cue_s", "`min_cue_s` must be from 0 to"),
        ([("max_cue_s", "3")], "max_cue_s", "has an effect only on srt, vtt and verbose_json"),
    ],
)
def test_wrong_fields_are_explained(fields: list[tuple[str, str]], param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        parse_request([("model", "m"), *fields], MODEL)
    assert raised.value.param == param
