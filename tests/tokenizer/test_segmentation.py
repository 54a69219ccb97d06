"""Cutting texts by scores. Reference: ids of simple-sentencepiece 0.14, the tokenizer of the authors' package, computed
once; sentencepiece itself with the same pieces and scores."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.published import BYTES, trained, write_scores, write_scores_of
from zipasr.tokenizer import Tokenizer

SPECIAL = ["<blk>", "<sos>", "<eos>", "<pad>", "<unk>"]
PIECES = [("1", 0), ("2", 0), ("?", 0), ("▁", -3.5), ("▁the", -3.1), ("▁THE", -4.2), ("t", -4.4), ("h", -5.1), ("e", -3.9)]
PIECES += [("th", -4.75), ("he", -5.0), ("c", -6.16433), ("cc", -8.30656), ("f", -6.55084), ("ff", -7.72885)]
PIECES += [("b", -6.36505), ("bb", -7.96579), ("▁S", -5.5), ("S", -6.0), ("p", -6.7), ("sp", -7.3), ("ee", -6.9)]
PIECES += [
    ("▁spee", -9.0),
    ("ch", -7.1),
    ("你", -8.1),
    ("好", -8.25),
    ("你好", -15.9),
    ("世", -8.8),
    ("界", -8.9),
    ("世界", -18.3),
]

# Many have several cuts of equal score; ids from 261 are pieces, 5 to 260 are bytes.
WITH_BYTES = {
    "the speech": [265, 283, 284],
    "THE Speech 12?": [264, 89, 77, 74, 278, 280, 282, 284, 264, 261, 262, 263],
    "你好世界 the 你好": [264, 287, 288, 289, 265, 264, 287],
    "你 好": [264, 285, 264, 286],
    "cccc": [264, 273, 273],
    "bbbfff 好 fff": [264, 277, 276, 275, 274, 264, 286, 264, 275, 274],
    "5靐fff靐好": [264, 58, 238, 162, 149, 275, 274, 238, 162, 149, 286],
    "theé th  e": [265, 200, 174, 264, 270, 264, 269],
    "S你S": [278, 285, 279],
    "cccccc你好靐bbb": [264, 273, 273, 273, 287, 238, 162, 149, 277, 276],
    "é": [264, 200, 174],
    "世界世ff f": [264, 288, 289, 288, 275, 264, 274],
}
WITHOUT_BYTES = {
    "THE Speech 12?": [8, 4, 22, 24, 26, 28, 8, 5, 6, 7],
    "bbbfff 好 fff": [8, 21, 20, 19, 18, 8, 30, 8, 19, 18],
    "5靐fff靐好": [8, 4, 19, 18, 4, 30],
    "theé th  e": [9, 4, 8, 14, 8, 13],
    "cccccc你好靐bbb": [8, 17, 17, 17, 31, 4, 21, 20],
    "é": [8, 4],
}


def opened(folder: Path, *, has_bytes: bool) -> Tokenizer:
    special = [*SPECIAL, *(BYTES if has_bytes else [])]
    return Tokenizer.from_file(write_scores(folder / "tiny.vocab", [(piece, 0) for piece in special] + PIECES))


def test_ids_are_those_of_the_authors_package(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, has_bytes=True)
    assert {text: tokenizer.encode(text) for text in WITH_BYTES} == WITH_BYTES
    assert tokenizer.decode(WITH_BYTES["THE Speech 12?"]) == "THE Speech 12?"
    assert tokenizer.decode(WITH_BYTES["5靐fff靐好"]) == "5靐fff靐好"
    assert tokenizer.decode(WITH_BYTES["你好世界 the 你好"]) == "你好世界 the 你好"
    assert tokenizer.decode(WITH_BYTES["你 好"]) == "你好"


def test_ids_without_bytes_are_those_of_the_authors_package(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, has_bytes=False)
    assert {text: tokenizer.encode(text) for text in WITHOUT_BYTES} == WITHOUT_BYTES
    assert tokenizer.unknown_characters("the 5é") == {"5", "é"}


def test_special_pieces_and_bytes_are_never_spelled(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, has_bytes=True)
    for text in ("<blk>", "<unk>", "<0x41>", "a<sos>b", "<pad>"):
        ids = tokenizer.encode(text)
        assert min(ids) > 4 and tokenizer.decode(ids) == text


TEXTS = ["THE CAT SAT ON THE MAT", "A DOG ATE THE FOOD", "今天 天气 很好 GOOD DAY", "HELLO WORLD, 1984!"] * 3
MODELS = [
    {"model_type": "unigram", "vocab_size": 70},
    {"model_type": "bpe", "vocab_size": 70},
    {"model_type": "unigram", "vocab_size": 330, "byte_fallback": True},
    {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True},
]


@pytest.fixture(params=MODELS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """A sentencepiece model, and the list of its pieces and scores."""
    model = trained(TEXTS, normalization_rule_name="identity", **request.param)
    path = write_scores_of(tmp_path_factory.mktemp("scores") / "bpe.vocab", model)
    return Tokenizer.from_bytes(model), Tokenizer.from_file(path)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("THECATSDOGLW今天气很好,198! "), max_size=40))
def test_pieces_and_scores_give_the_ids_of_sentencepiece(pair: tuple[Tokenizer, Tokenizer], text: str) -> None:
    theirs, ours = pair
    found, expected = ours.encode(text), theirs.encode(text)
    if found != expected:  # cuts of equal score
        scores = theirs._vocabulary.scores
        assert sum(scores[i] for i in found) == pytest.approx(sum(scores[i] for i in expected), abs=1e-4)
    assert ours.decode(found) == theirs.decode(expected)


def test_unknown_characters_in_a_row_are_one(pair: tuple[Tokenizer, Tokenizer]) -> None:
    for text in ("ñéü CAT éé", "é", "ñ ü"):
        assert pair[1].encode(text) == pair[0].encode(text)
        assert pair[1].unknown_characters(text) == pair[0].unknown_characters(text)


def test_the_order_of_merges_is_followed(tmp_path: Path) -> None:
    """By scores alone, "ab" + "c" and "a" + "bc" would be compared by their sums."""
    pieces = [
        ("<blk>", 0),
        ("<sos/eos>", 0),
        ("<unk>", 0),
        ("bc", 0),
        ("ab", -1),
        ("▁", -2),
        ("a", -3),
        ("b", -4),
        ("c", -5),
    ]
    tokenizer = Tokenizer.from_file(write_scores(tmp_path / "bpe.vocab", pieces))
    assert [tokenizer.pieces[i] for i in tokenizer.encode("abc ab")] == ["▁", "a", "bc", "▁", "ab"]
