"""The sentencepiece model of a vocabulary as bytes: learned from texts, made of a table of characters, opened."""

import io
from collections.abc import Sequence

import sentencepiece

from zipasr.errors import CheckpointError, DataError
from zipasr.text import UNKNOWN_MARK

SPECIAL_PIECES = ("<blk>", "<sos/eos>", "<unk>")
"""The first pieces of the models that are made here."""


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


def open_model(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        if not _is_whole(model):
            raise ValueError("its end is missing")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"a sentencepiece model must be complete, but these {len(model)} bytes are damaged or something else ({error}); "
            "restore the file from its original"
        ) from error


def _is_whole(model: bytes) -> bool:
    """Whether the pieces (field 1) are followed by the trainer's (2) and the normalizer's (3) settings.

    Sentencepiece itself opens a model that was cut between two pieces and silently loses the rest of the vocabulary. Raises
    IndexError or ValueError if the bytes are not a protocol buffer.
    """
    fields = set()
    position = 0
    while position < len(model):
        key, position = _varint(model, position)
        if key & 7 != 2:  # all fields of the message have a length
            raise ValueError("not a sentencepiece model")
        length, position = _varint(model, position)
        position += length
        fields.add(key >> 3)
    return position == len(model) and {1, 2, 3} <= fields


def _field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol buffer: bytes with their length, or a number of 0 to 127."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    key, length, size = number << 3 | 2, len(content), b""
    head = bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return head + size + bytes([length]) + content


# Settings of the trainer (model_type CHAR, unk_surface) and of the normalizer (identity, spaces kept as they are), which
# end the model of a table and distinguish it from models that sentencepiece has trained.
TABLE_END = _field(2, _field(3, 4) + _field(44, UNKNOWN_MARK.encode())) + _field(
    3, _field(1, b"zipasr table") + _field(3, 0) + _field(4, 0) + _field(5, 0)
)


def table_model(characters: Sequence[str]) -> bytes:
    """The sentencepiece model (CHAR) whose pieces are the special ones, then the given characters in order."""
    normal, unknown, control = 1, 2, 3
    kinds = (control, control, unknown, *[normal] * len(characters))
    pieces = (*SPECIAL_PIECES, *characters)
    model = b"".join(
        _field(1, _field(1, piece.encode()) + _field(3, kind)) for piece, kind in zip(pieces, kinds, strict=True)
    )
    return model + TABLE_END


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The protocol-buffer integer at a position and the position after it."""
    value = shift = 0
    while data[position] & 0x80:
        value |= (data[position] & 0x7F) << shift
        shift += 7
        position += 1
    return value | data[position] << shift, position + 1
