"""Vocabularies of every kind, each with words that it can write."""

from typing import NamedTuple

from tests.tokenizer.byte_level_models import icefall_model
from zipasr.tokenizer import Tokenizer
from zipasr.tokenizer.model_file import BYTES_END
from zipasr.tokenizer.vocabulary import PieceList

ENGLISH = ["HELLO WORLD", "TURN ON THE LIGHT", "TURN OFF THE LIGHTS", "A B AB BA", "ON AND ON", "OFF"]
CHINESE = ["打开灯", "关灯", "开灯", "世界 AB 灯", "AB 打开 BA"]


class Vocabulary(NamedTuple):
    """A tokenizer and words to build graphs of."""

    tokenizer: Tokenizer
    words: tuple[str, ...]


_SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
_MIXED = ["▁", *"打开关灯世界", "▁A", "▁B", "A", "B", "▁AB"]
VOCABULARIES = {
    "bpe": Vocabulary(Tokenizer.train(ENGLISH, kind="bpe", vocab_size=30), ("ON", "OFF", "LIGHT", "LIGHTS")),
    "unigram": Vocabulary(Tokenizer.train(ENGLISH, kind="unigram", vocab_size=24), ("A", "AB", "BA", "LIGHT")),
    "char": Vocabulary(Tokenizer.train(ENGLISH, kind="char", vocab_size=None), ("A", "AB", "B", "ON")),
    "spaceless": Vocabulary(Tokenizer.train(CHINESE, kind="spaceless", vocab_size=None), ("打开", "灯", "开灯", "打", "开")),
    "bbpe": Vocabulary(Tokenizer.train([*CHINESE, *ENGLISH], kind="bbpe", vocab_size=120), ("打开", "灯", "AB", "开灯")),
    "icefall's bbpe": Vocabulary(Tokenizer.from_bytes(icefall_model(CHINESE) + BYTES_END), ("打开", "灯", "AB", "BA")),
    "spaced characters": Vocabulary(
        Tokenizer.from_bytes(PieceList(pieces=[*_SPECIAL, "▁", *"ABLIGHTONF"], cut="spaced characters").to_bytes()),
        ("A", "AB", "B", "ON", "OFF"),
    ),
    "Chinese and English": Vocabulary(
        Tokenizer.from_bytes(
            PieceList(pieces=[*_SPECIAL, *_MIXED], cut="unigram", scores=[0.0] * 3 + [-2.0] * len(_MIXED)).to_bytes()
        ),
        ("打开", "灯", "AB", "BA", "世界"),
    ),
}
