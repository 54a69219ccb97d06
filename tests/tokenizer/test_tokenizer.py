"""Tokenizer. Law: texts round-trip, and the same texts give the same model. Contract: ids, files, errors, nothing on
stderr."""

import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.text import normalize
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import table_model
from zipasr.tokenizer.training import train_model

KINDS = ["unigram", "bpe", "char"]
TEXTS = [
    "the cat sat on the mat",
    "a dog ate the cat's food",
    "hello world",
    "one two three four five six seven",
    "Größe ist nicht alles, naïve cafés",
    "日本語 の テスト",
] * 3
CHARACTERS = set("".join(TEXTS)) - {" "}
MINIMUM = len(CHARACTERS) + 1 + 3
TOKENIZERS = {kind: Tokenizer.train(TEXTS, kind=kind, vocab_size=MINIMUM + 5 * (kind != "char")) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


# Contract: ids


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.pieces[:3] == ["<blk>", "<sos/eos>", "<unk>"]
    assert (tokenizer.blank_id, tokenizer.sos_eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert len(set(tokenizer.pieces)) == len(tokenizer.pieces) == tokenizer.vocab_size
    assert CHARACTERS | {"▁"} <= set(tokenizer.pieces)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_vocabulary_has_the_size_asked_for(kind: str) -> None:
    assert TOKENIZERS[kind].vocab_size == MINIMUM + 5


def test_char_pieces_are_single_characters() -> None:
    assert all(len(piece) == 1 for piece in TOKENIZERS["char"].pieces[3:])
    assert TOKENIZERS["char"].vocab_size == MINIMUM


def test_unknown_characters_become_unk(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the жук cat")
    assert tokenizer.unk_id in ids
    assert tokenizer.decode(ids) == "the ⁇ cat"
    assert tokenizer.unknown_characters("the жук\tcat ▁ ▅\x00\ud800") == set("жук▅\ud800")
    assert tokenizer.unknown_characters("the cat's") == set()
    assert tokenizer.unknown_characters("") == set()


def test_empty_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == tokenizer.encode(" \t\n ▁") == []
    assert tokenizer.decode([]) == ""


def test_blank_is_dropped_and_never_spelled(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the cat")
    with_blanks = [0, *[i for pair in zip(ids, [0] * len(ids), strict=True) for i in pair], 1]
    assert tokenizer.decode(with_blanks) == "the cat"
    for text in ("<blk>", "the <blk> cat", "<sos/eos>", "<unk>"):
        assert not {0, 1} & set(tokenizer.encode(text))


def test_ids_of_another_vocabulary_raise(tokenizer: Tokenizer) -> None:
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"but one is {bad}"):
            tokenizer.decode([3, bad])


def test_starts_word(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two three")
    assert sum(tokenizer.starts_word(i) for i in ids) == 3
    assert tokenizer.starts_word(ids[0])
    assert not any(tokenizer.starts_word(i) for i in range(3))


def test_case_and_unicode_forms_are_kept() -> None:
    """NFKC, the default of sentencepiece, would rewrite ﬁ, ², full-width letters and combining accents."""
    text = "ﬁne x² ＡＢ é É İstanbul"
    tokenizer = Tokenizer.train([text], kind="char", vocab_size=len(set(text) - {" "}) + 4)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.unknown_characters("F") == {"F"}


# Contract: one spelling


def test_a_text_has_the_same_ids_in_every_spelling() -> None:
    tokenizer = Tokenizer.train(["it’s a cafe\u0301", "o\u00adne \u200btwo"], kind="char", vocab_size=None)
    assert set(tokenizer.pieces[3:]) == set("▁'acefinostwé")
    for text in ("it's one café", "it’s o\u200bne cafe\u0301", "\ufeffit`s one caf\u00e9"):
        assert tokenizer.decode(tokenizer.encode(text)) == "it's one café"
        assert not tokenizer.unknown_characters(text)


def stored(*texts: str) -> Tokenizer:
    """A vocabulary with the characters as they stand, as older versions and other projects learned them."""
    return Tokenizer.from_bytes(train_model(list(texts), "char", len(set("".join(texts)) - {" "}) + 4))


@pytest.mark.parametrize(
    ("learned", "text", "written"),
    [
        ("it’s", "it's", "it’s"),
        ("itʼs", "it’s", "itʼs"),
        ("o‘zbek", "o'zbek o‘z", "o‘zbek o‘z"),
        ("oʻzbek sanʼat", "oʻzbek sanʼat", "oʻzbek sanʼat"),  # each means something else
        ("cafe\u0301", "café cafe\u0301", "cafe\u0301 cafe\u0301"),
        ("\u1112\u1161\u11ab", "한", "\u1112\u1161\u11ab"),  # Korean jamo
        ("\u0958", "\u0958 \u0915\u093c", "\u0958 \u0958"),  # Devanagari qa, which NFC takes apart
        ("\uf979", "\u51c9", "\uf979"),  # a Chinese character with two codes
        ("می روم", "می\u200cروم", "میروم"),
        ("it's it’s", "it’s", "it's"),
        ("cafe\u0301 é", "cafe\u0301", "café"),
    ],
)
def test_a_stored_vocabulary_keeps_its_spelling(learned: str, text: str, written: str) -> None:
    tokenizer = stored(learned)
    assert tokenizer.decode(tokenizer.encode(text)) == written
    assert tokenizer.unknown_characters(text) == set()
    assert tokenizer.encode(tokenizer.spelling(text)) == tokenizer.encode(text)


def test_a_stored_table_keeps_its_spelling(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\n\uf979 3\n’ 4\n", encoding="utf-8")
    assert Tokenizer.from_tokens(tmp_path / "tokens.txt").encode("\u51c9'\uf979") == [3, 4, 3]


# Law


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    text=st.text(st.sampled_from([*sorted(CHARACTERS), " ", " ", "\t", "\n", "\u3000", "▁"]), max_size=60),
)
def test_text_survives(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert all(2 < i < tokenizer.vocab_size for i in ids)
    expected = " ".join(text.replace("▁", " ").split())
    assert tokenizer.decode(ids) == expected
    assert sum(map(tokenizer.starts_word, ids)) == len(expected.split())


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), text=st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_can_be_encoded(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert all(2 <= i < tokenizer.vocab_size for i in ids)
    assert (tokenizer.unk_id in ids) == bool(tokenizer.unknown_characters(text))
    tokenizer.decode(ids)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=5), kind=st.sampled_from(KINDS))
def test_what_was_trained_on_survives(texts: list[str], kind: str) -> None:
    try:
        tokenizer = Tokenizer.train(texts, kind=kind, vocab_size=150)
    except DataError:
        return
    for text in texts:
        unknown = tokenizer.unknown_characters(text)
        assert unknown <= set("▅\ufffd")
        if not unknown:
            assert tokenizer.decode(tokenizer.encode(text)) == " ".join(normalize(text).replace("▁", " ").split())


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(kind: str) -> None:
    again = Tokenizer.train(iter(TEXTS), kind=kind, vocab_size=TOKENIZERS[kind].vocab_size)
    assert again.pieces == TOKENIZERS[kind].pieces
    assert again.to_bytes() == TOKENIZERS[kind].to_bytes()


# Contract: training


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_too_large_is_reduced_with_a_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zipasr.tokenizer"):
        tokenizer = Tokenizer.train(TEXTS, kind=kind, vocab_size=5000)
    assert MINIMUM <= tokenizer.vocab_size < 5000
    assert f"5000, but the text allows only {tokenizer.vocab_size}" in caplog.text
    caplog.clear()
    exact = Tokenizer.train(TEXTS, kind=kind, vocab_size=tokenizer.vocab_size)
    assert exact.vocab_size == tokenizer.vocab_size
    assert caplog.text == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_too_small_names_the_minimum(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"vocab_size must be at least {MINIMUM} .* but is {MINIMUM - 1}"):
        Tokenizer.train(TEXTS, kind=kind, vocab_size=MINIMUM - 1)
    assert Tokenizer.train(TEXTS, kind=kind, vocab_size=MINIMUM).vocab_size == MINIMUM


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], [" ", "\n▁"], ["\x00"]])
def test_no_text(texts: list[str], kind: str) -> None:
    with pytest.raises(DataError, match="must have text, but all are empty"):
        Tokenizer.train(texts, kind=kind, vocab_size=100)


def test_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="but is 'word'"):
        Tokenizer.train(TEXTS, kind="word", vocab_size=100)


def test_very_long_texts_are_not_skipped() -> None:
    tokenizer = Tokenizer.train(["ab " * 5000 + "z"], kind="bpe", vocab_size=10)
    assert tokenizer.unknown_characters("abz") == set()


def test_sentencepiece_is_silent() -> None:
    code = (
        "from zipasr.tokenizer import Tokenizer\n"
        "for kind in ('unigram', 'bpe', 'char'):\n"
        "    t = Tokenizer.train(['a bc', 'abc ab'], kind=kind, vocab_size=7)\n"
        "    Tokenizer.from_bytes(t.to_bytes()).encode('abc d')\n"
        "for bad in (b'', b'hello', t.to_bytes()[:50]):\n"
        "    try: Tokenizer.from_bytes(bad)\n"
        "    except Exception: pass\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


# Contract: files


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert loaded.pieces == tokenizer.pieces
    assert loaded.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    lines = (tmp_path / "new" / "folder" / "tokens.txt").read_text(encoding="utf-8").split("\n")
    assert lines[:3] == ["<blk> 0", "<sos/eos> 1", "<unk> 2"]
    assert lines.pop() == ""
    assert [line.rsplit(" ", 1) for line in lines] == [[piece, str(i)] for i, piece in enumerate(tokenizer.pieces)]


def test_bytes_and_pickle(tokenizer: Tokenizer) -> None:
    for copy in (Tokenizer.from_bytes(tokenizer.to_bytes()), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.pieces == tokenizer.pieces
        assert copy.to_bytes() == tokenizer.to_bytes()


def test_a_cut_model_raises_or_is_complete_in_all_that_counts() -> None:
    """Sentencepiece alone opens a model that was cut between two pieces, with fewer pieces."""
    whole = Tokenizer.train(["ab ba", "a b"], kind="bpe", vocab_size=7)
    num_opened = 0
    for length in range(len(whole.to_bytes())):
        try:
            cut = Tokenizer.from_bytes(whole.to_bytes()[:length])
        except CheckpointError:
            continue
        num_opened += 1
        assert cut.pieces == whole.pieces
        assert cut.encode("ab ba c") == whole.encode("ab ba c")
    assert num_opened <= 3


@pytest.mark.parametrize("content", [b"", b"hello world, this is text\n" * 9, bytes(200), b"\xff" * 200])
def test_something_else_in_place_of_the_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: a sentencepiece model must be complete, but these"):
        Tokenizer.load(tmp_path)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Tokenizer.load(tmp_path)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="the tokenizer cannot be written"):
        TOKENIZERS["bpe"].save(tmp_path / "file")


def _foreign_model(folder: Path, **settings: object) -> bytes:
    (folder / "text").write_text("\n".join(TEXTS[:4] * 3), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "m"), vocab_size=40, minloglevel=2, **settings
    )
    return (folder / "m.model").read_bytes()


def test_icefall_models_open_and_never_spell_blank(tmp_path: Path) -> None:
    """In those models `<blk>` and `<sos/eos>` are pieces that a text can contain."""
    model = _foreign_model(
        tmp_path,
        model_type="unigram",
        hard_vocab_limit=False,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
    )
    tokenizer = Tokenizer.from_bytes(model)
    assert not {0, 1} & set(tokenizer.encode("the <blk> cat <sos/eos>"))
    assert tokenizer.decode([0, *tokenizer.encode("the cat"), 1]) == "the cat"


def test_models_without_a_blank_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must include <blk>, the blank, but start with <unk>, <s>, </s>"):
        Tokenizer.from_bytes(_foreign_model(tmp_path, model_type="bpe"))


def test_special_ids_are_found_by_name(tmp_path: Path) -> None:
    """As in the authors' package, and in a model whose <unk> comes last and that has no sos/eos."""
    settings = {"model_type": "unigram", "hard_vocab_limit": False, "bos_id": -1, "eos_id": -1}
    package = Tokenizer.from_bytes(
        _foreign_model(tmp_path, **settings, user_defined_symbols=["<blk>", "<sos>", "<eos>", "<pad>"], unk_id=4)
    )
    assert (package.blank_id, package.sos_eos_id, package.unk_id) == (0, 2, 4)
    assert package.special_ids == {0, 1, 2, 3}
    last = Tokenizer.from_bytes(table_model(["a", "b", "<blk>", "<unk>"]))
    assert (last.blank_id, last.unk_id, last.special_ids) == (2, 3, {2})
    with pytest.raises(ConfigError, match="need <sos/eos> in the vocabulary, but it has none"):
        _ = last.sos_eos_id
    for tokenizer, text in ((package, "the cat"), (last, "ab")):
        assert not tokenizer.special_ids & set(tokenizer.encode(f"<blk> {text} <pad> <sos>"))
        assert tokenizer.unk_id in tokenizer.encode("ж")
        ids = tokenizer.encode(text)
        assert tokenizer.decode([*tokenizer.special_ids, *ids, *tokenizer.special_ids]) == text


def test_all_characters() -> None:
    tokenizer = Tokenizer.train(["AB BA", "CAB"], kind="char", vocab_size=None)
    assert set(tokenizer.pieces[3:]) == {"▁", "A", "B", "C"}
    with pytest.raises(ConfigError, match="only char"):
        Tokenizer.train(["AB BA"], kind="unigram", vocab_size=None)


# Scripts without spaces: a table of characters

MANDARIN = ["今天 天气 很好", "我们今天去ABC", "好"]
TABLE = "<blk> 0\n<sos/eos> 1\n<unk> 2\n好 3\nA 4\n天 5\n#0 6\n#1 7\n"


def table(tmp_path: Path, content: str = TABLE) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(content, encoding="utf-8")
    return path


def test_every_character_is_an_id_and_white_space_is_none() -> None:
    tokenizer = Tokenizer.train(MANDARIN, kind="spaceless", vocab_size=None)
    characters = set("".join(MANDARIN)) - {" "}
    assert tokenizer.pieces == ["<blk>", "<sos/eos>", "<unk>", *sorted(characters)]
    assert tokenizer.is_spaceless and not TOKENIZERS["char"].is_spaceless
    for text in MANDARIN:
        ids = tokenizer.encode(text)
        assert [tokenizer.pieces[i] for i in ids] == list(text.replace(" ", ""))
        assert tokenizer.decode([0, *ids, 1]) == text.replace(" ", "")
    assert tokenizer.encode(" \t") == []
    assert not any(tokenizer.starts_word(i) for i in range(tokenizer.vocab_size))


def test_every_unknown_character_is_an_unk_of_its_own() -> None:
    tokenizer = Tokenizer.train(MANDARIN, kind="spaceless", vocab_size=None)
    assert tokenizer.encode("我XYZ▁好") == [*tokenizer.encode("我"), 2, 2, 2, 2, *tokenizer.encode("好")]
    assert tokenizer.decode(tokenizer.encode("我XY好")) == "我⁇⁇好"
    assert tokenizer.unknown_characters("我 X▁") == {"X", "▁"}
    assert 0 not in tokenizer.encode("<blk>") and 1 not in tokenizer.encode("<sos/eos>")
    with pytest.raises(ValueError, match="but one is 99"):
        tokenizer.decode([99])


@pytest.mark.parametrize("num_characters", [1, 200, 5000])
def test_a_table_survives_files_bytes_and_pickle(tmp_path: Path, num_characters: int) -> None:
    characters = [chr(0x4E00 + i) for i in range(num_characters)]
    tokenizer = Tokenizer.train(characters, kind="spaceless", vocab_size=None)
    assert tokenizer.vocab_size == num_characters + 3
    tokenizer.save(tmp_path)
    by_hand = Tokenizer.from_tokens(tmp_path / "tokens.txt")
    loaded = (Tokenizer.load(tmp_path), by_hand, Tokenizer.from_bytes(tokenizer.to_bytes()))
    for copy in (*loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert copy.pieces == tokenizer.pieces and copy.is_spaceless
        assert copy.encode("".join(characters)) == list(range(3, num_characters + 3))
        assert copy.to_bytes() == tokenizer.to_bytes()


def test_ids_of_a_table_are_those_of_the_file_whatever_its_order(tmp_path: Path) -> None:
    shuffled = "".join(sorted(TABLE.splitlines(keepends=True)))
    for content in (TABLE, shuffled, TABLE.replace(" ", "\t"), TABLE.replace("#0 6\n#1 7\n", "")):
        tokenizer = Tokenizer.from_tokens(table(tmp_path, content))
        assert tokenizer.pieces == ["<blk>", "<sos/eos>", "<unk>", "好", "A", "天"]
        assert tokenizer.encode("天 好AB") == [5, 3, 4, 2]


def test_a_table_is_a_model_that_sentencepiece_opens() -> None:
    model = Tokenizer.train(MANDARIN, kind="spaceless", vocab_size=None).to_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer.from_bytes(model)
    assert processor.encode("今天好") == tokenizer.encode("今天好")
    assert processor.decode(tokenizer.encode("今天好")) == "今天好"


def test_special_symbols_of_a_table_may_be_anywhere(tmp_path: Path) -> None:
    """As in the table of ReazonSpeech: <unk> and <sos/eos> come last, and fields are separated by tabs."""
    tokenizer = Tokenizer.from_tokens(table(tmp_path, "<blk>\t0\n好\t1\n天\t2\n<unk>\t3\n<sos/eos>\t4\n"))
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_eos_id) == (0, 3, 4)
    assert tokenizer.encode("天好 X") == [2, 1, 3]
    assert tokenizer.decode([0, 2, 1, 3, 4]) == "天好⁇"
    assert Tokenizer.from_bytes(tokenizer.to_bytes()).pieces == tokenizer.pieces
    assert tokenizer.letters == {"好", "天"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.replace("A 4", "A 9"), r"must have the ids 0, 1, 2, \.\.\. and the symbol <blk>"),
        (TABLE.replace("A 4", "A 3"), "line 5 of .* with a new id"),
        (TABLE.replace("A 4", "A"), "line 5 of .* must be 'symbol id' with a new id, but is"),
        (TABLE.replace("A 4", "A four"), "must be 'symbol id'"),
        (TABLE.replace("<blk>", "<b>"), "the symbol <blk> or .*, but has 6 symbols starting with <b>"),
        ("", "must be a vocabulary, but is empty"),
        (" \n\t\n", "must be a vocabulary, but is empty"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_tokens(table(tmp_path, content))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a vocabulary, but cannot be read"):
        Tokenizer.from_tokens(tmp_path / "tokens.txt")


def test_spaceless_needs_room_for_every_character() -> None:
    with pytest.raises(ConfigError, match=r"at least 6 \(3 characters and 3 special ids\), but is 5"):
        Tokenizer.train(["甲乙 丙"], kind="spaceless", vocab_size=5)
    assert Tokenizer.train(["甲乙 丙"], kind="spaceless", vocab_size=6).vocab_size == 6


def test_a_text_is_spelled_in_the_case_that_the_vocabulary_has() -> None:
    upper = Tokenizer.train(["ANNA MARIA"], kind="char", vocab_size=None)
    assert upper.spelling("Anna Maria") == "ANNA MARIA"
    assert upper.spelling("ANNA") == "ANNA"
    assert upper.spelling("Łan") == "ŁAN"  # the other texts can be encoded
    lower = Tokenizer.train(["anna maria"], kind="char", vocab_size=None)
    assert lower.spelling("Anna Maria") == "anna maria"
    georgian = Tokenizer.train(["ანა"], kind="char", vocab_size=None)
    assert georgian.spelling("ანა") == "ანა"
