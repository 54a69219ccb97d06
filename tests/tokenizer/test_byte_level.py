"""Byte-level vocabularies. Law: texts of all scripts survive, any ids are valid text, ids one by one give the text of all.
Contract: words and their spaces, unknown bytes, files of the published recipes, one spelling."""

import io
import itertools
import pickle
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.byte_level_models import icefall_model
from zipasr.errors import CheckpointError, ConfigError
from zipasr.text import MIXED_JOINER, normalize, spaced, unspaced, words_apart
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.byte_text import to_characters

TEXTS = [
    "今天天气很好 HELLO WORLD",
    "我们今天去北京 café",
    "Привет мир",
    "한국 사람 안녕",
    "😀 smile",
    "日本語のテスト、です。",
    "नमस्ते दुनिया",
    "สวัสดี",
    "مرحبا بالعالم",
]
# Every byte of UTF-8 occurs, so that every text can be written.
EVERY_BYTE = [
    " ".join(chr(c) for c in range(0x21, 0x7F)),
    "".join(map(chr, (*range(0x80, 0x800, 31), *range(0x400, 0x440)))),
]
EVERY_BYTE += [
    "".join(map(chr, (*range(0x800, 0xD800, 0x3FF), *range(0xE000, 0x10000, 0xFFF), *range(0x10000, 0x110000, 0x3FFFF))))
]
EVERY_BYTE += ["".join(map(chr, (*range(0x4E00, 0x4E80), 0x7F, 0x40000, 0x80000, 0xC0000, 0x100000)))]
CHINESE = Tokenizer.train(TEXTS[:2] * 3, kind="bbpe", vocab_size=60)
WORLD = Tokenizer.train((TEXTS + EVERY_BYTE) * 2, kind="bbpe", vocab_size=400)


def canonical(text: str) -> str:
    return unspaced(spaced(normalize(text).replace("▁", " ")))


# Law


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30))
def test_texts_of_all_scripts_survive(text: str) -> None:
    ids = WORLD.encode(text)
    unknown = WORLD.unknown_characters(text)
    assert not unknown, (unknown, [hex(b) for c in unknown for b in c.encode()])
    assert WORLD.decode(ids) == canonical(text)


@pytest.mark.parametrize("text", TEXTS)
def test_real_texts_survive(text: str) -> None:
    assert WORLD.decode(WORLD.encode(text)) == text
    assert sum(map(WORLD.starts_word, WORLD.encode(text))) == len(spaced(text).split())


IDS = st.lists(st.integers(0, WORLD.vocab_size - 1), max_size=30)


@settings(max_examples=300, deadline=None)
@given(ids=IDS)
def test_any_ids_are_valid_text_that_only_grows(ids: list[int]) -> None:
    whole = WORLD.decode(ids)
    whole.encode()
    assert "\ufffd" not in whole or "\ufffd".encode() in b"".join(WORLD._written[i] for i in ids)
    for length in range(len(ids)):
        assert whole.startswith(WORLD.decode(ids[:length]))


@settings(max_examples=300, deadline=None)
@given(ids=IDS)
def test_what_each_id_adds_is_the_text(ids: list[int]) -> None:
    added = WORLD.spell(ids)
    assert len(added) == len(ids)
    assert unspaced(" ".join("".join(added).replace("▁", " ").split())) == WORLD.decode(ids)
    for length in range(len(ids)):
        assert WORLD.spell(ids[:length]) == added[:length]


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=()), max_size=20))
def test_a_text_has_unknown_ids_where_it_has_unknown_characters(text: str) -> None:
    ids = CHINESE.encode(text)
    assert not CHINESE.special_ids & set(ids)
    assert (CHINESE.unk_id in ids) == bool(CHINESE.unknown_characters(text))
    CHINESE.decode(ids)


# Contract


def test_a_character_appears_with_its_last_byte() -> None:
    tokenizer = Tokenizer.train(["今 好 天 气 A B"], kind="bbpe", vocab_size=20)
    ids = tokenizer.encode("今天A好")
    assert all(len(tokenizer.pieces[i].lstrip("▁")) <= 3 for i in ids)
    texts = [tokenizer.decode(ids[:length]) for length in range(len(ids) + 1)]
    assert list(dict.fromkeys(texts)) == ["", "今", "今天", "今天 A", "今天 A 好"]


def test_chinese_characters_are_words_and_others_have_spaces() -> None:
    ids = WORLD.encode("今天，天气很好HELLO 한국 사람")
    assert WORLD.decode(ids) == "今天，天气很好 HELLO 한국 사람"
    assert [word for word in "".join(WORLD.spell(ids)).split("▁") if word] == [*"今天，天气很好", "HELLO", "한국", "사람"]
    assert WORLD.word_joiner.join([*"很好", "HELLO", "WORLD", "好"]) == "很好 HELLO WORLD 好"
    assert isinstance(pickle.loads(pickle.dumps(WORLD.word_joiner)), type(MIXED_JOINER))
    assert words_apart("很好HELLO", WORLD.word_joiner) == "很 好 HELLO"
    assert not WORLD.is_spaceless


def test_an_unknown_byte_is_a_space() -> None:
    ids = CHINESE.encode("今Ж好")
    assert CHINESE.unk_id in ids
    assert CHINESE.decode(ids) == "今好"
    assert CHINESE.unknown_characters("今Ж好") == {"Ж"}


def test_a_text_is_spelled_in_the_case_of_the_vocabulary() -> None:
    tokenizer = Tokenizer.train(["今天 HELO"], kind="bbpe", vocab_size=30)
    assert tokenizer.spelling("今天Hello") == "今天HELLO"
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("café")  # one spelling


def test_it_survives_bytes_pickle_and_files(tmp_path: Path) -> None:
    CHINESE.save(tmp_path)
    copies = (Tokenizer.load(tmp_path), Tokenizer.from_bytes(CHINESE.to_bytes()), pickle.loads(pickle.dumps(CHINESE)))
    for copy in (*copies, Tokenizer.from_file(tmp_path / "tokenizer.model")):
        assert copy.is_byte_level and copy.pieces == CHINESE.pieces and copy.to_bytes() == CHINESE.to_bytes()
        assert copy.decode(copy.encode(TEXTS[0])) == TEXTS[0]
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ") for line in lines] == [[piece, str(i)] for i, piece in enumerate(CHINESE.pieces)]


@pytest.mark.parametrize("name", ["bbpe.model", "bbpe_500.model", "renamed.model"])
def test_models_of_the_recipes_open(tmp_path: Path, name: str) -> None:
    model = icefall_model(TEXTS[:2] * 3)
    (tmp_path / name).write_bytes(model)
    tokenizer = Tokenizer.from_file(tmp_path / name)
    assert tokenizer.is_byte_level
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode(TEXTS[1]) == processor.encode(to_characters(spaced(TEXTS[1])))
    assert not {0, 1} & set(tokenizer.encode("<blk> 今"))
    assert Tokenizer.from_bytes(tokenizer.to_bytes()).is_byte_level


def test_learned_pieces_are_those_of_the_recipe() -> None:
    """The same texts give the same pieces, except that special symbols cannot be spelled."""
    texts = [*TEXTS[:2], "天气 GOOD WORLD", "北京 天 HELLO"] * 5
    theirs = sentencepiece.SentencePieceProcessor(model_proto=icefall_model(texts, vocab_size=70))
    ours = Tokenizer.train(texts, kind="bbpe", vocab_size=70)
    assert sorted(ours.pieces) == sorted(theirs.id_to_piece(i) for i in range(theirs.vocab_size()))


def test_a_model_of_letters_is_not_taken_for_bytes(tmp_path: Path) -> None:
    for name, texts in {
        "english": ["HELLO WORLD"],
        "latvian": ["ĀBOLS ČETRI ĢIMENE ŠĶĒRES ŽURKA"],
        "chinese": ["今天"],
    }.items():
        Tokenizer.train(texts, kind="char", vocab_size=None).save(tmp_path / name)
        assert not Tokenizer.from_file(tmp_path / name / "tokenizer.model").is_byte_level


def test_a_named_model_without_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bbpe.model").write_bytes(Tokenizer.train(["今天"], kind="char", vocab_size=None).to_bytes())
    with pytest.raises(CheckpointError, match=r"must have byte-level pieces, as its name says, but has '.'"):
        Tokenizer.from_file(tmp_path / "bbpe.model")


def test_the_vocabulary_needs_room_for_the_bytes() -> None:
    with pytest.raises(ConfigError, match=r"at least 11 \(7 bytes, the space and 3 special ids\), but is 9"):
        Tokenizer.train(["今天A"], kind="bbpe", vocab_size=9)
    with pytest.raises(ConfigError, match="must be a number for kind bbpe, but is None"):
        Tokenizer.train(["今天"], kind="bbpe", vocab_size=None)


def test_a_bound_on_the_tokens_of_a_character() -> None:
    tokenizer = Tokenizer.train([chr(0x1F7DF)], kind="bbpe", vocab_size=8)
    ids = tokenizer.encode(chr(0x1F7DF))
    repeated = sum(a == b for a, b in itertools.pairwise(ids))
    assert len(ids) + repeated <= tokenizer.most_tokens_per_character
    assert Tokenizer.train(["ab"], kind="char", vocab_size=None).most_tokens_per_character == 1


def test_byte_fallback_is_decoded_as_far_as_it_is_complete() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ba", "a b"] * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=270,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    tokenizer = Tokenizer.from_bytes(model.getvalue())
    ids = tokenizer.encode("ab 好 a")
    assert tokenizer.decode(ids) == "ab 好 a"
    first = next(i for i, id in enumerate(ids) if tokenizer.pieces[id] == "<0xE5>")
    assert tokenizer.decode(ids[: first + 2]) == "ab"
    assert tokenizer.spell(ids[first : first + 3]) == ["", "", "好"]
    assert tokenizer.unknown_characters("好") == set() and tokenizer.letters == {"a", "b"}
