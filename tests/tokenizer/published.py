"""Vocabularies in the forms in which other projects publish them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def trained(texts: Sequence[str], **settings: Any) -> bytes:
    """A sentencepiece model with the special pieces of the published recipes, or others."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        **{
            "hard_vocab_limit": False,
            "character_coverage": 1.0,
            "user_defined_symbols": ["<blk>", "<sos/eos>"],
            "unk_id": 2,
            "bos_id": -1,
            "eos_id": -1,
            "minloglevel": 2,
            **settings,
        },
    )
    return model.getvalue()


def write_scores(path: Path, pieces: Sequence[tuple[str, float]]) -> Path:
    """Write a `*.vocab` file."""
    path.write_text("".join(f"{piece}\t{score}\n" for piece, score in pieces), encoding="utf-8")
    return path


def write_scores_of(path: Path, model: bytes) -> Path:
    """Write the `*.vocab` file of a sentencepiece model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(processor.vocab_size())
    return write_scores(path, [(processor.id_to_piece(i), processor.get_score(i)) for i in ids])


def write_tokens(path: Path, pieces: Sequence[str], *, separator: str = " ", first: int = 0) -> Path:
    """Write a `tokens.txt`; a space as a piece gives a line with an id alone."""
    lines = (f"{piece}{separator}{i}\n" if piece != " " else f"{i}\n" for i, piece in enumerate(pieces, start=first))
    path.write_text("".join(lines), encoding="utf-8")
    return path
