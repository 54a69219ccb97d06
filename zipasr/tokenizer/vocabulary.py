"""The pieces of a vocabulary and how a text is cut into them: what is in a model file, which has one of two forms.

A sentencepiece model is kept as it is; a few bytes at its end say what it cannot say itself. Lists of pieces of other
projects are JSON.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from zipasr.errors import CheckpointError
from zipasr.lines import parse_json
from zipasr.text import UNKNOWN_MARK
from zipasr.tokenizer.input_text import byte_text, plain_text
from zipasr.tokenizer.model_file import (
    BLANK_PIECES,
    BYTES_END,
    CONTROL_PIECES,
    NO_UNKNOWN_END,
    TABLE_END,
    UNKNOWN_PIECE,
    WORD_START,
    open_model,
)
from zipasr.tokenizer.segmentation import UNKNOWN, Segmentation

Cut = Literal["unigram", "merges", "characters", "spaced characters", "none"]
"""How a text is cut into the pieces of a list: by scores of a unigram model or by the order of merges, both with ▁ before
words; into characters, without white space or with a symbol for the space between words; or not at all, since that is not
known."""

LIST_START = b'{"zipasr_vocabulary": '
"""First bytes of a model file that is a list of pieces."""
_BYTE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True, kw_only=True)
class PieceList:
    """Pieces of another project, in the order of their ids, as they are stored."""

    pieces: Sequence[str]
    cut: Cut
    scores: Sequence[float] = ()
    """Of every piece; empty: all are 0."""
    is_byte_level: bool = False

    def to_bytes(self) -> bytes:
        """Return the content of a model file."""
        return json.dumps({"zipasr_vocabulary": 1, **asdict(self)}, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a model file holds."""

    pieces: list[str]
    """The piece of every id."""
    scores: Sequence[float]
    unk_id: int | None
    """Id of unknown characters; None: the model has no output for them."""
    control_ids: frozenset[int]
    """Ids of what no text contains."""
    bytes: dict[int, int]
    """The byte of every id that is a byte by itself."""
    encode: Callable[[str], list[int]] | None
    """Cuts a text: `UNKNOWN` for a character without a piece. None: it is unknown how."""
    is_byte_level: bool
    is_table: bool
    """Whether every character is an id and white space is ignored."""
    is_learned_here: bool
    unknown_text: str
    """What `<unk>` writes."""


def open_vocabulary(model: bytes) -> Vocabulary:
    """Open the content of a model file.

    Raises:
        CheckpointError: it is neither a complete sentencepiece model nor a complete list of pieces.
    """
    return _open_list(model) if model.startswith(LIST_START) else _open_sentencepiece(model)


def _open_sentencepiece(model: bytes) -> Vocabulary:
    processor = open_model(model)
    is_unknown_last = model.endswith(NO_UNKNOWN_END)
    own = model.removesuffix(NO_UNKNOWN_END)
    num_ids = processor.vocab_size() - is_unknown_last
    pieces = [processor.id_to_piece(i) for i in range(num_ids)]
    control = [i for i, piece in enumerate(pieces) if processor.is_control(i) or piece in CONTROL_PIECES]
    unk_id, is_byte_level = processor.unk_id(), own.endswith(BYTES_END)
    unknown = {unk_id, *control}

    def encode(text: str) -> list[int]:
        # In icefall's models <blk> and <sos/eos> are pieces that a text can spell; speech never contains them.
        ids = processor.encode(byte_text(text) if is_byte_level else plain_text(text))
        return [UNKNOWN if i in unknown else i for i in ids]

    is_table = own.endswith(TABLE_END)
    by_character = {piece: i for i, piece in enumerate(pieces) if i not in unknown}
    return Vocabulary(
        pieces=pieces,
        scores=[processor.get_score(i) for i in range(num_ids)],
        unk_id=None if is_unknown_last else unk_id,
        control_ids=frozenset(control),
        bytes={i: int(piece[3:5], 16) for i, piece in enumerate(pieces) if processor.is_byte(i)},
        encode=_table_encoder(by_character) if is_table else encode,
        is_byte_level=is_byte_level,
        is_table=is_table,
        is_learned_here=is_table or any(processor.is_control(i) for i in control if pieces[i] in BLANK_PIECES),
        unknown_text=" " if is_byte_level else processor.decode([unk_id]),
    )


def _open_list(model: bytes) -> Vocabulary:
    try:
        stored = _read_list(model)
        pieces, scores = list(stored.pieces), [float(score) for score in stored.scores] or [0.0] * len(stored.pieces)
        if not all(isinstance(piece, str) for piece in pieces) or len(scores) != len(pieces):
            raise ValueError("it has no piece and score for every id")
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"a list of pieces must be complete, but these {len(model)} bytes are damaged ({error}); restore the file from "
            "its original"
        ) from error
    control = frozenset(i for i, piece in enumerate(pieces) if piece in CONTROL_PIECES)
    unk_id = pieces.index(UNKNOWN_PIECE) if UNKNOWN_PIECE in pieces else None
    found = {i: _BYTE.fullmatch(piece) for i, piece in enumerate(pieces)}
    return Vocabulary(
        pieces=pieces,
        scores=scores,
        unk_id=unk_id,
        control_ids=control,
        bytes={i: int(match[1], 16) for i, match in found.items() if match},
        encode=_list_encoder(stored, scores, others={*control, unk_id}),
        is_byte_level=stored.is_byte_level,
        is_table=stored.cut == "characters",
        is_learned_here=False,
        unknown_text=" " if stored.is_byte_level else UNKNOWN_MARK,
    )


def _read_list(model: bytes) -> PieceList:
    fields = parse_json(model)
    del fields["zipasr_vocabulary"]
    return PieceList(**fields)


def _list_encoder(stored: PieceList, scores: Sequence[float], others: set[int | None]) -> Callable[[str], list[int]] | None:
    """What cuts a text into the pieces of a list; `others` are the ids that no text contains."""
    if stored.cut == "none":
        return None
    by_byte = {piece: i for i, piece in enumerate(stored.pieces) if _BYTE.fullmatch(piece)}
    ids: dict[str, int] = {}
    for i, piece in enumerate(stored.pieces):
        if i not in others and piece not in by_byte:
            ids.setdefault(piece, i)
    if stored.cut == "characters":
        return _table_encoder(ids)
    if stored.cut == "spaced characters":
        return lambda text: [ids.get(c, UNKNOWN) for c in plain_text(text).replace(" ", WORD_START)]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    segmentation = Segmentation(ids, scores, [by_byte[name] for name in names] if len(by_byte) == len(names) else [])
    cut = segmentation.merged if stored.cut == "merges" else segmentation.unigram
    prepare = byte_text if stored.is_byte_level else plain_text
    return lambda text: cut("".join(WORD_START + word for word in prepare(text).split(" ") if word))


def without_unknown(model: bytes) -> bytes:
    """Return a model file without its last piece, <unk>."""
    if not model.startswith(LIST_START):
        return model + NO_UNKNOWN_END
    stored = _read_list(model)
    return replace(stored, pieces=stored.pieces[:-1], scores=stored.scores[:-1]).to_bytes()


def _table_encoder(ids: dict[str, int]) -> Callable[[str], list[int]]:
    return lambda text: [ids.get(character, UNKNOWN) for character in "".join(text.split())]
