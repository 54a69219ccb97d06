"""Vocabularies of published models. Contract: what each kind of file gives (ids, text, whether it encodes), fits, survives
storing; files that are something else. Law: any ids of a list of tokens are text that only grows."""

import itertools
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.byte_level_models import icefall_model
from tests.tokenizer.published import BYTES, trained, write_scores, write_scores_of, write_tokens
from zipasr.errors import CheckpointError, ConfigError
from zipasr.text import MIXED_JOINER
from zipasr.tokenizer import Tokenizer

SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
ENGLISH = ["HELLO WORLD", "THE CAT SAT ON THE MAT", "IT'S A DAY"] * 3
CHINESE = ["今天 天气 很好", "我们 去 北京 HELLO"] * 3


def copies(tokenizer: Tokenizer, folder: Path) -> list[Tokenizer]:
    """The same vocabulary after bytes, pickle and files."""
    tokenizer.save(folder / "saved")
    stored = Tokenizer.from_bytes(tokenizer.to_bytes()), pickle.loads(pickle.dumps(tokenizer))
    return [tokenizer, *stored, Tokenizer.load(folder / "saved"), Tokenizer.from_file(folder / "saved/tokenizer.model")]


# The authors' package


def test_the_authors_package(tmp_path: Path) -> None:
    special = ["<blk>", "<sos>", "<eos>", "<pad>", "<unk>", *BYTES]
    own = [("▁", -3.0), ("▁the", -4.0), ("a", -5.0), ("b", -5.5), ("你", -8.0), ("好", -8.5), ("A", -9.0)]
    own += [("t", -4.5), ("h", -5.0), ("e", -4.6)]
    pieces = [(piece, 0) for piece in special] + own
    file = write_scores(tmp_path / "zh-en-271.vocab", pieces)
    for tokenizer in copies(Tokenizer.from_file(file, num_outputs=271), tmp_path):
        assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_eos_id, tokenizer.vocab_size) == (0, 4, 2, 271)
        assert tokenizer.special_ids == {0, 1, 2, 3} and tokenizer.can_encode
        ids = tokenizer.encode("你好 the 龘 ab")
        assert ids == [261, 265, 266, 262, 261, *(5 + byte for byte in "龘".encode()), 261, 263, 264]
        assert tokenizer.decode([0, 1, *ids, 2, 3]) == "你好 the 龘 ab"
        assert tokenizer.unknown_characters("龘😀é") == set()
        assert tokenizer.to_vocab().decode().splitlines()[262] == "▁the\t-4"
        assert tokenizer.to_files()["tokens.txt"].decode().splitlines()[265] == "你 265"
        assert tokenizer.most_tokens_per_character >= 4


def test_byte_level_scores(tmp_path: Path) -> None:
    """`bbpe.vocab`, with which sherpa-onnx encodes hotwords, gives the ids of `bbpe.model`."""
    model = icefall_model(CHINESE)
    (tmp_path / "bbpe.model").write_bytes(model)
    theirs = Tokenizer.from_file(tmp_path / "bbpe.model")
    for name in ("bbpe.vocab", "other.vocab"):
        ours = Tokenizer.from_file(write_scores_of(tmp_path / name, model))
        assert ours.is_byte_level and ours.can_encode
        for text in ("今天天气很好 HELLO", "北京", "我们 HELLO 今天"):
            assert ours.encode(text) == theirs.encode(text)
            assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_letters_are_not_taken_for_bytes(tmp_path: Path) -> None:
    model = trained(["ĀBOLS ČETRI ĢIMENE ŠĶĒRES ŽURKA"], vocab_size=40)
    assert not Tokenizer.from_file(write_scores_of(tmp_path / "bpe.vocab", model)).is_byte_level
    assert not Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", [*SPECIAL, "▁ƠN", "▁ƯÁ", "AB"])).is_byte_level


# <unk> without an output


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_unk_without_an_output_in_a_model(tmp_path: Path, kind: str) -> None:
    settings = {"model_type": kind, "vocab_size": 22, "user_defined_symbols": ["<blk>"], "unk_id": 21}
    (tmp_path / "bpe.model").write_bytes(trained(ENGLISH, **settings))
    whole = Tokenizer.from_file(tmp_path / "bpe.model")
    assert whole.pieces[-1] == "<unk>" and whole.unk_id == 21
    for tokenizer in copies(Tokenizer.from_file(tmp_path / "bpe.model", num_outputs=21), tmp_path):
        assert tokenizer.vocab_size == 21 and tokenizer.unk_id is None
        assert tokenizer.encode("HELLO ñ WORLD") == [i for i in whole.encode("HELLO ñ WORLD") if i != 21]
        assert tokenizer.unknown_characters("HELLO ñ") == {"ñ"} and max(tokenizer.encode("ñéü")) < 21
        assert tokenizer.decode(tokenizer.encode("HELLO WORLD")) == "HELLO WORLD"
        assert tokenizer.fitted(21) is tokenizer
        with pytest.raises(ConfigError, match="sos/eos"):
            tokenizer.sos_eos_id  # noqa: B018
        with pytest.raises(ValueError, match="from 0 to 20, but one is 21"):
            tokenizer.decode([21])
    assert Tokenizer.from_file(tmp_path / "bpe.model", num_outputs=22).unk_id == 21


def test_unk_without_an_output_in_text_files(tmp_path: Path) -> None:
    files = [
        write_tokens(tmp_path / "tokens.txt", ["<blk>", "▁A", "B", "<unk>"]),
        write_tokens(tmp_path / "characters.txt", ["<blk>", "A", "B", "<unk>"]),
        write_scores(tmp_path / "bpe.vocab", [("<blk>", 0), ("▁A", -1.5), ("B", -2.5), ("<unk>", 0)]),
    ]
    for file in files:
        for tokenizer in copies(Tokenizer.from_file(file, num_outputs=3), tmp_path):
            assert (tokenizer.vocab_size, tokenizer.unk_id) == (3, None)
            assert tokenizer.decode([0, 1, 2]) == "AB"
            if tokenizer.can_encode:
                assert tokenizer.encode("ABñ") == [1, 2]


@pytest.mark.parametrize("num_outputs", [499, 3, 5])
def test_the_vocabulary_of_another_model(tmp_path: Path, num_outputs: int) -> None:
    for file in (
        write_tokens(tmp_path / "tokens.txt", [*SPECIAL, "▁A"]),  # <unk> is not last
        write_scores(tmp_path / "bpe.vocab", [*((piece, 0) for piece in SPECIAL), ("▁A", -1.0)]),
    ):
        with pytest.raises(CheckpointError, match=rf"{file.name}: .* has {num_outputs} outputs, but it has 4 entries; give"):
            Tokenizer.from_file(file, num_outputs=num_outputs)


# tokens.txt of characters


def test_special_ids_last_and_tabs(tmp_path: Path) -> None:
    """As in the table of ReazonSpeech."""
    pieces = ["<blk>", *"今天気", "<unk>", "<sos/eos>"]
    tokenizer = Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", pieces, separator="\t"), num_outputs=6)
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_eos_id) == (0, 4, 5)
    assert tokenizer.is_spaceless and tokenizer.encode("天 気X") == [2, 3, 4]
    assert tokenizer.decode([0, 1, 2, 5]) == "今天"


def test_a_line_with_an_id_alone_is_the_space(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "tokens.txt", ["<blk>", " ", *"ABC", "<unk>"])
    for tokenizer in copies(Tokenizer.from_file(file), tmp_path):
        assert tokenizer.can_encode and not tokenizer.is_spaceless and tokenizer.word_joiner == " "
        assert tokenizer.encode("AB  C") == [2, 3, 1, 4] and tokenizer.encode(" ") == []
        assert tokenizer.decode([2, 3, 1, 4]) == "AB C"
        assert tokenizer.encode("A_B") == [2, 5, 3]
        assert tokenizer.starts_word(1) and tokenizer.spell([2, 1, 3]) == ["A", "▁", "B"]


def test_characters_with_a_word_start(tmp_path: Path) -> None:
    """The table that is written beside a model of single characters gives the same ids."""
    learned = Tokenizer.train(ENGLISH, kind="char", vocab_size=None)
    learned.save(tmp_path)
    opened = Tokenizer.from_file(tmp_path / "tokens.txt")
    assert opened.can_encode and opened.pieces == learned.pieces
    for text in ("HELLO WORLD", "IT'S", "ñ CAT"):
        assert opened.encode(text) == learned.encode(text)
        assert opened.decode(opened.encode(text)).replace("⁇", "") == learned.decode(learned.encode(text)).replace("⁇", "")


def test_repeated_symbols(tmp_path: Path) -> None:
    """As sherpa-onnx allows: both ids write the same, and the first is used."""
    for pieces in (["<blk>", "A", "A", "B", "<unk>"], ["<blk>", "▁A", "▁A", "B", "<unk>"]):
        for tokenizer in copies(Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", pieces), num_outputs=5), tmp_path):
            assert tokenizer.decode([1, 3]) == tokenizer.decode([2, 3]) == "AB"
            if tokenizer.can_encode:
                assert tokenizer.encode("AAB") == [1, 1, 3]


def test_disambiguation_symbols(tmp_path: Path) -> None:
    """Tables of 502 lines hold 500 tokens, #0 and #1; a model that has outputs for them keeps them."""
    pieces = [*SPECIAL, "▁A", "#0", "#1"]
    file = write_tokens(tmp_path / "tokens.txt", pieces)
    assert Tokenizer.from_file(file).pieces == Tokenizer.from_file(file, num_outputs=4).pieces == pieces[:4]
    assert Tokenizer.from_file(file, num_outputs=6).pieces == pieces
    assert Tokenizer.from_file(file, num_outputs=5).pieces == pieces[:5]


def test_white_space_may_be_a_symbol(tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text("\ufeff<blk> 0\r\n\u3000 1\r\n<unk> 2\r\n\x85 3\r\n今 4\r\n", encoding="utf-8")
    assert Tokenizer.from_file(file).pieces == ["<blk>", "\u3000", "<unk>", "\x85", "今"]


def test_the_name_of_a_table_does_not_matter(tmp_path: Path) -> None:
    """hynt/Zipformer-30M-RNNT-6000h calls its table config.json."""
    assert Tokenizer.from_file(write_tokens(tmp_path / "config.json", [*SPECIAL, "▁XIN", "▁CHÀO"])).vocab_size == 5
    assert Tokenizer.from_file(write_tokens(tmp_path / "tokens", ["<eps>", *"AB", "<unk>"])).encode("AB") == [1, 2]
    model = trained(ENGLISH, vocab_size=40)
    (tmp_path / "tokens.txt").write_bytes(model)
    assert Tokenizer.from_file(tmp_path / "tokens.txt").to_bytes() == model


# Lists of tokens, which can only be decoded


@pytest.mark.parametrize("use", ["encode", "require"])
def test_pieces_can_only_be_decoded(tmp_path: Path, use: str) -> None:
    file = write_tokens(tmp_path / "tokens.txt", [*SPECIAL, "▁HE", "LLO", "▁WORLD", "▁", "#0", "#1"])
    for tokenizer in copies(Tokenizer.from_file(file, num_outputs=7), tmp_path):
        assert not tokenizer.can_encode
        assert tokenizer.decode([3, 4, 0, 5]) == "HELLO WORLD" and tokenizer.spell([3, 4, 5]) == ["▁HE", "LLO", "▁WORLD"]
        assert tokenizer.letters == set("HELLOWORLD") and tokenizer.word_joiner == " "
        assert tokenizer.unknown_characters("HELLO, world") == set(",world")
        assert tokenizer.spelling("Hello") == "HELLO"
        with pytest.raises(ConfigError, match=r"must be cut .* only the list of its 7 tokens .* put the bpe\.model"):
            tokenizer.encode("HELLO") if use == "encode" else tokenizer.require_encoding("hotwords")


def test_byte_fallback_in_a_list_of_tokens(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "tokens.txt", [*SPECIAL, *BYTES, "▁HELLO", "▁你", "好"])
    tokenizer = Tokenizer.from_file(file)
    ids = [3 + byte for byte in "龘😀".encode()]
    assert not tokenizer.can_encode
    assert tokenizer.decode([259, 260, *ids, 261]) == "HELLO 你龘😀好"
    assert tokenizer.decode([259, 260, *ids[:2]]) == "HELLO 你"
    assert tokenizer.decode([ids[1], 259]) == "HELLO"  # a byte that is no character
    assert tokenizer.spell(ids[:3]) == ["", "", "龘"]
    assert tokenizer.word_joiner == MIXED_JOINER and tokenizer.unknown_characters("龘é") == set()


def test_byte_level_in_a_list_of_tokens(tmp_path: Path) -> None:
    model = Tokenizer.from_bytes(icefall_model(CHINESE))
    (tmp_path / "bbpe.model").write_bytes(icefall_model(CHINESE))
    theirs = Tokenizer.from_file(tmp_path / "bbpe.model")
    for name in ("tokens.txt", "bbpe_tokens.txt"):
        tokenizer = Tokenizer.from_file(write_tokens(tmp_path / name, model.pieces))
        assert tokenizer.is_byte_level and not tokenizer.can_encode
        ids = theirs.encode("今天很好 HELLO 北京")
        assert tokenizer.decode(ids) == "今天很好 HELLO 北京" and tokenizer.spell(ids) == theirs.spell(ids)
        assert tokenizer.unknown_characters("今H,A") == {",", "A"}


@pytest.mark.parametrize(
    ("pieces", "is_byte_level"),
    [
        (["▁ƋţŅ", "ƌŋţ"], True),  # 你好
        (["ƋţŅƌŋţ"], True),
        ([*"ƋţŅƌŋţ"], True),  # single characters as well
        (["▁ƀİ"], True),  # D9 90: U+0180 is the least whose UTF-8 starts with C6
        (["▁ſĥ"], False),  # U+017F stands for no byte
        (["▁ŶńŷġŶŞ"], False),  # Cyrillic: no character from U+0180, as sherpa-onnx has it
        (["▁HELLO", "Ƌ"], True),
        (["▁Ƌ", "Ɵɪ"], False),  # U+026A: more than C6
        (["▁CAFÉ", "Ƌ"], False),  # É stands for no byte
        (["▁HELLO"], False),
    ],
)
def test_byte_level_is_recognized_as_sherpa_onnx_does(tmp_path: Path, pieces: list[str], is_byte_level: bool) -> None:
    tokenizer = Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", [*SPECIAL, *pieces]))
    assert tokenizer.is_byte_level == is_byte_level


@pytest.mark.parametrize(
    ("pieces", "ids", "text"),
    [
        (["<blk>", "<sos/eos>", "<unk>", "sh", "ì", "j", "iè", "n", "ǐ", "h", "ǎo"], [3, 4, 5, 6], "sh ì j iè"),
        (["<eps>", "SIL", "SPN", "HH", "AH0", "L", "OW1", "#0", "#1"], [3, 4, 5, 6], "HH AH0 L OW1"),
    ],
)
def test_phones_and_partial_tones_are_words(tmp_path: Path, pieces: list[str], ids: list[int], text: str) -> None:
    tokenizer = Tokenizer.from_file(write_tokens(tmp_path / "tokens.txt", pieces))
    assert not tokenizer.can_encode and not tokenizer.is_spaceless
    assert tokenizer.decode([0, *ids]) == text and tokenizer.word_joiner == " "
    assert all(map(tokenizer.starts_word, ids)) and not tokenizer.starts_word(0)
    assert "".join(tokenizer.spell(ids)).replace("▁", " ").strip() == text
    assert tokenizer.to_files()["tokens.txt"].decode().splitlines()[3] == f"{pieces[3]} 3"


LISTS = {
    "bytes": [*SPECIAL, *BYTES, "▁A", "▁你", "好", "B", "<0x41"],
    "mixed": [*SPECIAL, "▁", "▁你", "好", "▁HE", "L", "。", "ー"],
    "phones": [*SPECIAL, "sh", "iè", "ǎo", "zh"],
    "byte level": [*SPECIAL, "▁ƋţŅ", "ƌ", "ŋ", "ţ", "▁A", "B", "▁"],
}


@pytest.fixture(params=LISTS, scope="module")
def listed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_file(write_tokens(tmp_path_factory.mktemp("list") / "tokens.txt", LISTS[request.param]))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_ids_are_text_that_only_grows(listed: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, listed.vocab_size - 1), max_size=12))
    texts = [listed.decode(ids[:n]) for n in range(len(ids) + 1)]
    for before, after in itertools.pairwise(texts):
        assert after.startswith(before)
    ids = [i for i in ids if i not in listed.special_ids and i != listed.unk_id]
    spelled = listed.word_joiner.join("".join(listed.spell(ids)).replace("▁", " ").split())
    assert spelled == listed.decode(ids)


# Chinese and Japanese


def test_no_spaces_between_chinese_characters(tmp_path: Path) -> None:
    """Recipes put spaces around them, so that pieces have ▁ in front of each."""
    model = trained(["你 好 世 界 HELLO WORLD", "世 界 你 好"] * 3, vocab_size=40)
    scores = write_scores_of(tmp_path / "bpe.vocab", model)
    (tmp_path / "bpe.model").write_bytes(model)
    tokens = write_tokens(tmp_path / "tokens.txt", Tokenizer.from_bytes(model).pieces)
    for file in (tmp_path / "bpe.model", scores, tokens):
        tokenizer = Tokenizer.from_file(file)
        ids = Tokenizer.from_bytes(model).encode("你 好 HELLO WORLD 世 界")
        assert tokenizer.decode(ids) == "你好 HELLO WORLD 世界"
        assert tokenizer.word_joiner == MIXED_JOINER


def test_vocabularies_learned_here_keep_their_spaces() -> None:
    tokenizer = Tokenizer.train(["今天 天气", "天气 今天"] * 3, kind="unigram", vocab_size=12)
    assert tokenizer.decode(tokenizer.encode("今天 天气")) == "今天 天气" and tokenizer.word_joiner == " "


# Files that are something else


@pytest.mark.parametrize("name", ["tokens.txt", "bpe.model", "zh-en.vocab"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; restore the file"),
        (b" \n\n", "is empty; restore the file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 245000\n", "Git LFS pointer"),
        (b"<!doctype html>\n<html><body>Not found</body></html>\n", "line 1 of .* must be .*, but is '<!doctype"),
        (b'{"error": "Not found"}', "line 1 of .* must be"),
        (b"PK\x03\x04" + bytes(range(256)), "damaged or something else"),
        ("<blk> 0\nA 1\n".encode("utf-16"), "damaged or something else"),
        (b"\n\x0b\n\x05<blk>\x18\x04\n\x0f\n\t<sos/eos>\x18\x04", "damaged or something else"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        Tokenizer.from_file(tmp_path / name)
    assert str(error.value).count(f"/{name}") == 1


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        Tokenizer.from_file(tmp_path / "bpe.model")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        Tokenizer.from_file(tmp_path)
    with (tmp_path / "tokens.txt").open("wb") as file:
        file.truncate(4_000_000_000)  # sparse: LG.pt has such a size
    with pytest.raises(CheckpointError, match="of less than 64 MB, but has 3814 MB"):
        Tokenizer.from_file(tmp_path / "tokens.txt")


def test_cut_files_raise_or_are_seen_by_the_number_of_outputs(tmp_path: Path) -> None:
    model = trained(ENGLISH, vocab_size=40)
    scores = write_scores_of(tmp_path / "bpe.vocab", model).read_bytes()
    table = write_tokens(tmp_path / "tokens.txt", [*SPECIAL, *(f"▁{chr(65 + i)}" for i in range(26))]).read_bytes()
    stored = Tokenizer.from_file(tmp_path / "tokens.txt").to_bytes()
    for content, num_outputs in ((model, 40), (scores, 40), (table, 29), (stored, 29)):
        for length in range(1, len(content) - len(" 28\n"), max(1, len(content) // 40)):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(CheckpointError):
                Tokenizer.from_file(tmp_path / "cut", num_outputs=num_outputs)
