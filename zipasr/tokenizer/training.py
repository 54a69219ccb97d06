"""Texts -> the sentencepiece model of a vocabulary that covers them."""

import io
import logging
import typing
from collections.abc import Iterable
from typing import Literal

import sentencepiece

from zipasr.errors import ConfigError, DataError
from zipasr.text import UNKNOWN_MARK, normalize
from zipasr.tokenizer.input_text import byte_text, plain_text
from zipasr.tokenizer.model_file import BYTES_END, SPECIAL_PIECES, open_model, table_model

TokenizerKind = Literal["unigram", "bpe", "char", "spaceless", "bbpe"]
"""Kinds of vocabulary that can be learned; `TokenizerConfig.kind` explains them."""

logger = logging.getLogger("zipasr.tokenizer")


def learn_model(texts: Iterable[str], kind: TokenizerKind, vocab_size: int | None) -> bytes:
    """The model of a vocabulary; arguments and errors as of `Tokenizer.train`."""
    kinds = typing.get_args(TokenizerKind)
    if kind not in kinds:
        raise ConfigError(f"the kind of a tokenizer must be {', '.join(kinds[:-1])} or {kinds[-1]}, but is {kind!r}")
    is_table, is_byte_level = kind == "spaceless", kind == "bbpe"
    found = (byte_text(normalize(text), "") if is_byte_level else plain_text(normalize(text), "") for text in texts)
    lines = [line for line in found if line]
    characters = set().union(*lines) - {" "}
    if not characters:
        raise DataError("the transcripts to train a tokenizer on must have text, but all are empty")
    minimum = len(characters) + (not is_table) + len(SPECIAL_PIECES)  # the space, ▁, is a piece
    if vocab_size is None:
        if kind not in ("char", "spaceless"):
            raise ConfigError(f"vocab_size must be a number for kind {kind}, but is None; only char and spaceless need none")
        vocab_size = minimum
    if vocab_size < minimum:
        raise ConfigError(
            f"vocab_size must be at least {minimum} ({len(characters)} {'bytes' if is_byte_level else 'characters'}"
            f"{'' if is_table else ', the space'} and {len(SPECIAL_PIECES)} special ids), but is "
            f"{vocab_size}; raise it or clean the transcripts of rare characters"
        )
    if is_table:
        model = table_model([*SPECIAL_PIECES, *sorted(characters)])
    else:
        model = train_model(lines, "unigram" if is_byte_level else kind, vocab_size)
    num_pieces = open_model(model).vocab_size()
    if num_pieces < vocab_size:
        logger.warning("vocab_size is %d, but the text allows only %d, which is used", vocab_size, num_pieces)
    return model + BYTES_END if is_byte_level else model


def train_model(lines: list[str], kind: str, vocab_size: int) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # Differs: icefall makes these two "user defined", so that a transcript that spells "<blk>" encodes to blank.
            control_symbols=list(SPECIAL_PIECES[:2]),
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_surface=UNKNOWN_MARK,
            normalization_rule_name="identity",
            shuffle_input_sentence=False,
            max_sentence_length=1 << 30,  # the largest allowed; longer texts would be skipped
            num_threads=16,  # sums are formed per thread, so a fixed number keeps the result the same everywhere
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise DataError(f"a {kind} tokenizer cannot be trained on this text: {error}") from error
    return model.getvalue()
