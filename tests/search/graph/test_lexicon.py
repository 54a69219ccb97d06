"""Reference: the spellings of the words of a sentence, one after another, are the tokens of the sentence by the tokenizer.
Contract: lexicon files are read, and bad ones refused."""

import itertools
from pathlib import Path

import pytest

from tests.search.graph.vocabularies import VOCABULARIES
from zipasr.errors import ConfigError, DataError
from zipasr.search.graph.lexicon import START, Lexicon, read_lexicon, require_spellings
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.vocabulary import PieceList

BPE = VOCABULARIES["bpe"].tokenizer


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_words_one_after_another_are_spelled_as_the_sentence(kind: str) -> None:
    tokenizer, words = VOCABULARIES[kind]
    lexicon = Lexicon(tokenizer)
    for said in itertools.product(words, repeat=3):
        context, tokens = START, []
        for word in said:
            (spelling,) = lexicon.spellings(word, context)
            tokens += spelling
            context = lexicon.context_after(word)
        assert tokens == tokenizer.encode(tokenizer.word_joiner.join(said)), said


def test_only_vocabularies_that_need_it_have_contexts() -> None:
    num = {kind: Lexicon(tokenizer).num_contexts for kind, (tokenizer, _) in VOCABULARIES.items()}
    assert num.pop("spaced characters") == 2
    assert num.pop("Chinese and English") == 2
    assert set(num.values()) == {1}


def test_words_that_cannot_be_written_have_no_spelling() -> None:
    lexicon = Lexicon(BPE)
    assert lexicon.spellings("42") == lexicon.spellings("ÖL") == lexicon.spellings("\u200b") == ()
    assert lexicon.unknown_words(["ON", "42", "off", "7"]) == ["42", "7"]
    require_spellings(lexicon, ["ON", "off"])
    with pytest.raises(ConfigError, match="cannot write '1', '2', '3', '4', '5' and 2 more; write them"):
        require_spellings(lexicon, ["ON", *"1234567"])


def test_words_in_another_case_are_spelled_in_that_of_the_vocabulary() -> None:
    lexicon = Lexicon(BPE)
    assert lexicon.spellings("light") == lexicon.spellings("Light") == (tuple(BPE.encode("LIGHT")),)
    both = Tokenizer.train(["a A b B"], kind="char", vocab_size=None)
    assert Lexicon(both).spellings("aB") == (tuple(both.encode("aB")),)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_words_are_spelled_as_the_tokenizer_chooses_their_case(kind: str) -> None:
    tokenizer, words = VOCABULARIES[kind]
    lexicon = Lexicon(tokenizer)
    versions = [[word, word.lower(), word.title(), f"{word}é", f"{word}9"] for word in words]
    for word in itertools.chain(*versions):
        text = tokenizer.spelling(word)
        expected = () if tokenizer.unknown_characters(text) else (tuple(tokenizer.encode(text)),)
        assert lexicon.spellings(word) == expected, word


def test_bytes_stand_for_letters_that_have_no_piece() -> None:
    pieces = ["<blk>", "<sos/eos>", "<unk>", "▁", "A", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer.from_bytes(PieceList(pieces=pieces, cut="unigram", scores=[0.0] * 3 + [-2.0] * 259).to_bytes())
    for word in ("a", "A", "B", "b", "ab", "é", "É", "aé"):
        assert Lexicon(tokenizer).spellings(word) == (tuple(tokenizer.encode(tokenizer.spelling(word))),), word
    assert Lexicon(tokenizer).spellings("a") == ((3, 4),)


def write(folder: Path, text: str) -> Path:
    (folder / "lexicon.txt").write_text(text, encoding="utf-8")
    return folder / "lexicon.txt"


def test_a_file_has_several_spellings_of_a_word(tmp_path: Path) -> None:
    pieces = [piece for piece in BPE.pieces if piece not in ("<blk>", "<sos/eos>", "<unk>")]
    a, b, c = pieces[:3]
    lexicon = read_lexicon(write(tmp_path, f"one {a} {b}\ntwo\t{c}\n\none {b}\none {b}\n<UNK> {a} <unk>\n"), BPE)
    ids = {piece: i for i, piece in enumerate(BPE.pieces)}
    assert lexicon.spellings("one") == ((ids[a], ids[b]), (ids[b],))
    assert lexicon.spellings("two") == ((ids[c],),)
    assert lexicon.given_words == ("one", "two")
    assert lexicon.spellings("ON") == (tuple(BPE.encode("ON")),)  # other words are the tokenizer's


def test_words_of_a_file_are_found_in_either_case() -> None:
    lexicon = Lexicon(BPE, {"LIGHT": [(5, 6)], "Off": [(7,)], "off": [(8,)], "ON": [(9,)]})
    assert lexicon.spellings("light") == lexicon.spellings("Light") == lexicon.spellings("LIGHT") == ((5, 6),)
    assert [lexicon.spellings(word) for word in ("Off", "OFF", "oFF")] == [((7,),), ((8,),), ((8,),)]
    assert lexicon.spellings("on") == ((9,),) != lexicon.spellings("light")


def test_vocabularies_that_only_decode_need_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("<blk> 0\nHH 1\nAH 2\nL 3\nOW 4\n")
    phones = Tokenizer.from_tokens(path)
    assert Lexicon(phones).spellings("hello") == ()
    lexicon = read_lexicon(write(tmp_path, "hello HH AH L OW\n"), phones)
    assert lexicon.spellings("hello") == ((1, 2, 3, 4),)
    assert lexicon.spellings("HH") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have words and their tokens, but is empty"),
        ("\n \n", "but is empty"),
        ("one\n", "but line 1 has only one"),
        ("\none QQ ZZ\n", "but line 2 has QQ, ZZ"),
        ("one <blk>\n", "but line 1 has <blk>"),
        ("one 0.5 A\n", "but line 1 has 0.5"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_lexicon(write(tmp_path, text), BPE)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_lexicon(tmp_path / "missing.txt", BPE)
    (tmp_path / "a.txt").write_bytes(b"gr\xfcn A\n")
    with pytest.raises(DataError, match="must be UTF-8 text, but line 1 is not"):
        read_lexicon(tmp_path / "a.txt", BPE)
