"""The sentencepiece model of a vocabulary as bytes: opened, or made of a table of characters."""

from collections.abc import Sequence

import sentencepiece

from zipasr.errors import CheckpointError
from zipasr.text import UNKNOWN_MARK

SPECIAL_PIECES = ("<blk>", "<sos/eos>", "<unk>")
"""The first pieces of the models that are made here."""
UNKNOWN_PIECE = SPECIAL_PIECES[2]
BLANK_PIECES = ("<blk>", "<blank>", "<eps>")
CONTROL_PIECES = (*BLANK_PIECES, "<sos/eos>", "<sos>", "<eos>", "<s>", "</s>", "<pad>")
"""Names of symbols that no text contains, in the vocabularies of this and other projects."""
WORD_START = "\u2581"
"""▁, with which a piece starts that starts a word."""


def open_model(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        if not is_whole(model):
            raise ValueError("its end is missing")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"a sentencepiece model must be complete, but these {len(model)} bytes are damaged or something else ({error}); "
            "restore the file from its original"
        ) from error


def is_whole(model: bytes) -> bool:
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


BYTES_END = _field(3, _field(1, b"zipasr bytes"))
"""The end of a model of byte-level pieces: another name for its normalizer, which changes nothing else in it."""
NO_UNKNOWN_END = _field(3, _field(1, b"zipasr outputs"))
"""The end, after others, of a model whose last piece, <unk>, is no output of the recognizer."""


def table_model(pieces: Sequence[str]) -> bytes:
    """The sentencepiece model (CHAR) of these pieces in order; the special ones are known by their names."""
    normal, unknown, control = 1, 2, 3
    kinds = [unknown if piece == UNKNOWN_PIECE else control if piece in CONTROL_PIECES else normal for piece in pieces]
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
