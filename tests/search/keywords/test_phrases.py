"""Keywords in plain words and in tokens, and the lines of their files. Contract: errors name file and line."""

import logging
from pathlib import Path

import pytest

from tests.tiny_model import TEXTS, tiny_tokenizer
from tests.tokenizer.published import write_scores, write_tokens
from zipasr.errors import ConfigError
from zipasr.search.keywords import Keyword, encode_keywords, keyword_line, parse_keyword, read_keywords
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import table_model

LETTERS = Tokenizer.train(TEXTS, kind="char", vocab_size=None)
CHINESE = Tokenizer.train(["今天天气很好", "小爱同学"], kind="char", vocab_size=None)
PHONES = ("<blk>", "<unk>", "HH", "AH0", "L", "OW1")
MIXED = ["<blk>", "<sos/eos>", "<unk>", "▁THE", "▁A", "ING", "▁", *"你好军哥"]


@pytest.mark.parametrize(
    ("line", "keyword"),
    [
        ("QUICK FOX", Keyword("QUICK FOX")),
        ("QUICK FOX :1.5 #0.35 @FOX", Keyword("QUICK FOX", 1.5, 0.35, "FOX")),
        ("@FOX #0.35 QUICK :2 FOX", Keyword("QUICK FOX", 2.0, 0.35, "FOX")),
        ("QUICK :0 #0", Keyword("QUICK")),
        ("▁QU I CK :1e-1", Keyword("▁QU I CK", 0.1)),
        ("A : B", Keyword("A : B")),
    ],
)
def test_lines(line: str, keyword: Keyword) -> None:
    assert parse_keyword(line) == keyword
    assert parse_keyword(keyword_line(keyword)) == keyword


def test_no_boost_cannot_be_written() -> None:
    """In a file, 0 means the default."""
    keywords = encode_keywords(["QUICK FOX"], LETTERS, default_boost=0.0)
    with pytest.raises(ConfigError, match="boost of keyword 'QUICK FOX' must be above 0 to be written"):
        keywords.lines(LETTERS)
    with pytest.raises(ConfigError, match="boost of keyword 'FOX' must be above 0 to be written"):
        keyword_line(Keyword("QUICK FOX", 0.0, name="FOX"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (":1.5 #0.3", "must be a phrase"),
        ("FOX :much", "boost after : must be a number, but is 'much'"),
        ("FOX #high", "threshold after # must be a number"),
        ("FOX :1 :2", "at most one : mark"),
        ("FOX :1e308", "boost of keyword 'FOX' in line 3 of words.txt must be from 0 to 1e\\+06"),
        ("FOX :-1", "boost of keyword 'FOX' in line 3 of words.txt must be from 0 to"),
        ("FOX :inf", "boost of keyword 'FOX'"),
        ("FOX #1.5", "threshold of keyword 'FOX' in line 3 of words.txt must be above 0 and at most 1, but is 1.5"),
        ("FOX #-0.1", "threshold of keyword 'FOX'"),
        ("FOX #nan", "threshold of keyword 'FOX'"),
    ],
)
def test_wrong_lines_name_their_place(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_keyword(line, place="line 3 of words.txt")
    assert "line 3 of words.txt" in str(caught.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "keywords.txt"
    path.write_text("\ufeffQUICK FOX :2\n\n  LAZY DOG  \n", encoding="utf-8")
    first, second = read_keywords(path)
    assert first[:2] == ("QUICK FOX", 2.0) and second.text == "LAZY DOG"
    assert second.place == f"line 3 of {path}"
    for content, message in ((b"", "is empty"), (b"\xff\xfe\xfa", "not UTF-8"), (b"FOX\n#0.4\n", "line 2 of")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_keywords(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keywords(tmp_path / "missing.txt")


def test_words_and_tokens_give_the_same_keyword() -> None:
    tokenizer = tiny_tokenizer()
    plain = encode_keywords(["QUICK FOX :2 #0.4"], tokenizer)
    (line,) = plain.lines(tokenizer)
    assert line.endswith(" :2 #0.4 @QUICK_FOX")
    again = encode_keywords([line], tokenizer)
    assert again.spellings == plain.spellings
    assert again.names == ("QUICK_FOX",)
    without_name = encode_keywords([line.removesuffix(" @QUICK_FOX")], tokenizer)
    assert without_name.names == plain.names == ("QUICK FOX",)


def test_defaults_and_case() -> None:
    keywords = encode_keywords(["quick fox"], LETTERS, default_boost=1.5, default_threshold=0.1)
    (own,) = keywords.spellings
    assert own.ids == tuple(LETTERS.encode("QUICK FOX")) and own[2:] == (1.5, 0.1)
    assert keywords.names == ("quick fox",)


def test_single_letters_are_words_unless_a_token_starts_a_word() -> None:
    words, tokens = encode_keywords(["F O X E S", "▁ F O X E S"], LETTERS).spellings
    assert words.ids == tuple(LETTERS.encode("F O X E S"))
    assert tokens.ids == tuple(LETTERS.encode("FOXES"))


def test_other_scripts_and_phones(tmp_path: Path) -> None:
    spaceless = Tokenizer.from_bytes(table_model(["<blk>", "<unk>", *"小爱同学"]))
    assert encode_keywords(["小 爱 同 学"], spaceless).spellings[0].ids == (2, 3, 4, 5)
    assert encode_keywords(["小爱同学"], spaceless).spellings[0].ids == (2, 3, 4, 5)
    assert encode_keywords(["小爱同学"], CHINESE).spellings[0].ids == tuple(CHINESE.encode("小爱同学"))
    (tmp_path / "tokens.txt").write_text("".join(f"{phone} {i}\n" for i, phone in enumerate(PHONES)))
    tokenizer = Tokenizer.from_tokens(tmp_path / "tokens.txt")
    phones = encode_keywords(["HH AH0 L OW1 @HELLO"], tokenizer)
    assert phones.spellings[0].ids == (2, 3, 4, 5) and phones.names == ("HELLO",)
    with pytest.raises(ConfigError, match=r"keyword 'HELLO' must be written in the model's tokens .* 'HELLO' is none"):
        encode_keywords(["HELLO"], tokenizer)


def mixed(folder: Path, *, can_encode: bool) -> Tokenizer:
    """Chinese and English pieces, as published with scores or without."""
    scored = [(piece, -float(i)) for i, piece in enumerate(MIXED)]
    file = write_scores(folder / "m.vocab", scored) if can_encode else write_tokens(folder / "tokens.txt", MIXED)
    return Tokenizer.from_file(file)


def written(keyword: str, tokenizer: Tokenizer) -> list[str]:
    keywords = encode_keywords([keyword], tokenizer)
    return [" ".join(tokenizer.pieces[i] for i in spelling.ids) for spelling in keywords.spellings]


@pytest.mark.parametrize("can_encode", [False, True])
def test_chinese_tokens_need_no_mark(tmp_path: Path, can_encode: bool) -> None:
    """As in published files of keywords."""
    tokenizer = mixed(tmp_path, can_encode=can_encode)
    keywords = encode_keywords(["你 好 军 哥"], tokenizer)
    assert written("你 好 军 哥", tokenizer) == ["你 好 军 哥"] and keywords.names == ("你好军哥",)
    assert encode_keywords(keywords.lines(tokenizer), tokenizer).spellings == keywords.spellings
    assert written("▁ 你 好", tokenizer) == ["▁ 你 好"]


def test_pieces_are_tokens_where_words_cannot_be_encoded(tmp_path: Path) -> None:
    tokenizer = mixed(tmp_path, can_encode=False)
    assert written("ING", tokenizer) == ["ING"]
    for keyword in ("ING <unk>", "<unk>"):
        with pytest.raises(ConfigError, match="'<unk>' is none of them"):
            encode_keywords([keyword], tokenizer)
    with pytest.raises(ConfigError, match="that lacks 'GIN'"):  # elsewhere it is a word
        encode_keywords(["ING"], mixed(tmp_path, can_encode=True))


def test_tokens_of_another_model_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"keyword '▁VIEW ▁GL ASS' .* since it has ▁.* '▁VIEW' is none of them; write the"):
        encode_keywords(["▁VIEW ▁GL ASS @VIEW_GLASS"], LETTERS)
    with pytest.raises(ConfigError, match="'GL' is none of them"):
        encode_keywords(["▁ F O X GL"], LETTERS)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ([], "there must be a keyword"),
        ([Keyword(" ")], "must be a word or a phrase, but is empty"),
        ([Keyword("DÉJÀ", place="line 2 of k.txt")], "keyword 'DÉJÀ' in line 2 of k.txt must be writable .* 'ÀÉ'"),
        (["LAZY", "lazy"], "keyword 'lazy' must differ from all others in its tokens, but has those of keyword 'LAZY'"),
        ([Keyword("LAZY", boost=-1.0)], "boost of keyword 'LAZY'"),
        ([Keyword("LAZY", threshold=0.0)], "threshold of keyword 'LAZY'"),
    ],
)
def test_bad_keywords_are_refused(keywords: list[str | Keyword], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encode_keywords(keywords, LETTERS)


@pytest.mark.parametrize(
    ("keyword", "tokenizer", "is_short"),
    [("FOX", LETTERS, True), ("FIVE", LETTERS, False), ("好", CHINESE, True), ("小爱同学", CHINESE, False)],
)
def test_short_keywords_are_told(
    keyword: str, tokenizer: Tokenizer, is_short: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encode_keywords([keyword], tokenizer)
    assert ("is short: expect false alarms" in caplog.text) == is_short


def test_pieces_are_not_counted_as_phones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pieces = Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", ["<blk>", "<unk>", "▁HE", "LLO", "▁A"]))
    phones = Tokenizer.from_file(write_tokens(tmp_path / "phones.txt", PHONES))
    with caplog.at_level(logging.WARNING):
        encode_keywords(["▁HE LLO"], pieces)
        encode_keywords(["HH AH0 L OW1"], phones)
    assert not caplog.text
    for keyword, tokenizer in (("▁A ▁HE", pieces), ("HH AH0 L", phones)):
        with caplog.at_level(logging.WARNING):
            encode_keywords([keyword], tokenizer)
        assert f"{keyword!r} is short" in caplog.text
