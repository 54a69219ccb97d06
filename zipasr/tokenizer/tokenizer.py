"""Text to ids and back: a sentencepiece model with the three special ids of every published Zipformer recipe.

`<blk>` is 0, `<sos/eos>` 1, `<unk>` 2; the pieces of the text follow. A piece that starts a word starts with ▁
(U+2581). Text is normalized as in `text.py`, and white space becomes one space; case is not changed. Where a vocabulary that
was learned from other texts lacks the normalized form of a character, such as ', but has another, such as ’, that is used.
Scripts without spaces use a table of characters instead, as the published Mandarin recipes do: every character is an id, and
white space is ignored. It is stored in the same file format. This file is the sole owner of the special ids, the vocabulary
size and the model file.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from zipasr.errors import CheckpointError, ConfigError, DataError
from zipasr.lfs import refuse_pointer
from zipasr.text import UNKNOWN_MARK, lower, normalize, other_spellings, upper
from zipasr.tokenizer.model_file import SPECIAL_PIECES, TABLE_END, open_model, table_model, train_model

MODEL_FILE = "tokenizer.model"
TOKENS_FILE = "tokens.txt"

_WORD_START = "\u2581"
# Sentencepiece drops NUL, rejects lone surrogates and skips every text with its own unknown mark, ▅. Here they all
# count as unknown characters: they are encoded as U+FFFD, which no vocabulary of ours contains.
_UNWRITABLE = re.compile("[\x00\u2585\ufffd\ud800-\udfff]")
_UNKNOWN_CHARACTER = "\ufffd"
_DISAMBIGUATION = re.compile(r"#\d+")

logger = logging.getLogger(__name__)


class Tokenizer:
    """Encodes text as ids and decodes ids to text. Create one with `train`, `load`, `from_bytes` or `from_tokens`; it can
    be pickled."""

    blank_id: ClassVar[int] = 0
    """Id of the transducer and CTC blank, which never occurs in text."""
    sos_eos_id: ClassVar[int] = 1
    """Id of the start and the end of a sentence, for attention decoders and language models."""
    unk_id: ClassVar[int] = 2
    """Id of characters that are not in the vocabulary."""

    def __init__(self, model: bytes) -> None:
        """Open a serialized sentencepiece model; see `from_bytes`."""
        self._model = bytes(model)
        self._processor = open_model(self._model)
        self.pieces: list[str] = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        """The piece of every id."""
        if tuple(self.pieces[:3]) != SPECIAL_PIECES or self._processor.unk_id() != self.unk_id:
            raise CheckpointError(
                f"the first pieces of a tokenizer must be {', '.join(SPECIAL_PIECES)}, but are "
                f"{', '.join(self.pieces[:3]) or 'none'}; train it with zipasr or an icefall recipe"
            )
        self._ids: dict[str, int] | None = None
        if self._model.endswith(TABLE_END):
            self._ids = {piece: i for i, piece in enumerate(self.pieces) if i > self.unk_id}
        self._has: dict[str, bool] = {}  # the characters that were asked for so far
        characters = sorted(set("".join(self.pieces[3:])))
        self._unusual = {normal: c for c in characters if (normal := normalize(c)) not in ("", c)}

    @property
    def is_spaceless(self) -> bool:
        """Whether this is a table of characters, which ignores white space."""
        return self._ids is not None

    @property
    def word_joiner(self) -> str:
        """Separator of words in a text: a space, or nothing if the vocabulary is spaceless."""
        return "" if self.is_spaceless else " "

    @property
    def vocab_size(self) -> int:
        """Number of ids V, including the special ones."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: never blank or sos/eos, `unk_id` for unknown characters, [] for white space."""
        return self._encode(self.respelled(text))

    def _encode(self, text: str) -> list[int]:
        """The ids of a text whose characters are those of the vocabulary where it has them."""
        if self._ids is not None:
            return [self._ids.get(character, self.unk_id) for character in "".join(text.split())]
        ids = self._processor.encode(_single_spaced(text, _UNKNOWN_CHARACTER))
        # In icefall's models <blk> and <sos/eos> are pieces that a text can spell; speech never contains them.
        return [self.unk_id if i in (self.blank_id, self.sos_eos_id) else i for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with ⁇ for `unk_id`; blank and sos/eos are dropped.

        Raises:
            ValueError: an id is not in [0, vocab_size).
        """
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"ids must be from 0 to {self.vocab_size - 1}, but one is {i}; use its own tokenizer")
        if self._ids is not None:
            pieces = [UNKNOWN_MARK if i == self.unk_id else self.pieces[i] for i in ids if i >= self.unk_id]
            return "".join(pieces)
        text = self._processor.decode([int(i) for i in ids if i not in (self.blank_id, self.sos_eos_id)])
        return " ".join(text.split())

    def unknown_characters(self, text: str) -> set[str]:
        """Return the characters of a text that would be encoded as `unk_id`."""
        return {character for character in set(self.respelled(text)) if self.unk_id in self._encode(character)}

    def spelling(self, text: str) -> str:
        """Return a text as `respelled`, or in upper or lower case if the vocabulary covers more of it that way: users write
        names in mixed case, models are trained on one case."""
        versions = map(self.respelled, (text, upper(text), lower(text)))
        return min(versions, key=lambda version: len(self.unknown_characters(version)))

    def respelled(self, text: str) -> str:
        """Return a text normalized, with what the vocabulary has in place of normalized characters that it lacks.

        Vocabularies learned from other texts may have ’ for ', letters and accents apart (NFD), or no joiners.
        """
        normal = normalize(text)
        if self._has_all(normal):
            return normal
        if self._has_all(text):
            return text
        for usual, unusual in self._unusual.items():
            if not self._has_all(usual):
                normal = normal.replace(usual, unusual)
        return "".join(c if self._has_all(c) else next(filter(self._has_all, other_spellings(c)), c) for c in normal)

    def _has_all(self, text: str) -> bool:
        """Whether the vocabulary has a piece for every character, bytes not counted."""
        characters = set(text)
        for c in characters.difference(self._has):
            ids = self._encode(c)
            self._has[c] = self.unk_id not in ids and not any(map(self._processor.is_byte, ids))
        return all(map(self._has.__getitem__, characters))

    def starts_word(self, id: int) -> bool:
        """Return whether the piece of an id starts a word."""
        return self.pieces[id].startswith(_WORD_START)

    @classmethod
    def train(
        cls, texts: Iterable[str], *, kind: Literal["unigram", "bpe", "char", "spaceless"], vocab_size: int | None
    ) -> "Tokenizer":
        """Learn a vocabulary that covers every character of the texts. The same texts give the same tokenizer.

        Args:
            texts: transcripts, one utterance each.
            kind: kind of pieces: `unigram` as in the published English recipes, `bpe`, `char` for single characters
                and the space, or `spaceless` for single characters of a script without spaces, as published for Mandarin.
            vocab_size: number of ids V, including the special ones. If the texts allow fewer, it is reduced to
                that number with a logged warning. None, for single characters only: all characters that occur.
        Raises:
            ConfigError: fewer ids than characters and special pieces (the message states the minimum); unknown kind.
            DataError: all texts are empty.
        """
        if kind not in ("unigram", "bpe", "char", "spaceless"):
            raise ConfigError(f"the kind of a tokenizer must be unigram, bpe, char or spaceless, but is {kind!r}")
        lines = [line for line in (_single_spaced(normalize(text), "") for text in texts) if line]
        characters = set().union(*lines) - {" "}
        if not characters:
            raise DataError("the transcripts to train a tokenizer on must have text, but all are empty")
        minimum = len(characters) + (kind != "spaceless") + len(SPECIAL_PIECES)  # the space, ▁, is a piece
        if vocab_size is None:
            if kind not in ("char", "spaceless"):
                raise ConfigError(
                    f"vocab_size must be a number for kind {kind}, but is None; only char and spaceless need none"
                )
            vocab_size = minimum
        if vocab_size < minimum:
            raise ConfigError(
                f"vocab_size must be at least {minimum} ({len(characters)} characters"
                f"{'' if kind == 'spaceless' else ', the space'} and {len(SPECIAL_PIECES)} special ids), but is "
                f"{vocab_size}; raise it or clean the transcripts of rare characters"
            )
        is_table = kind == "spaceless"
        tokenizer = cls(table_model(sorted(characters)) if is_table else train_model(lines, kind, vocab_size))
        if tokenizer.vocab_size < vocab_size:
            logger.warning("vocab_size is %d, but the text allows only %d, which is used", vocab_size, tokenizer.vocab_size)
        return tokenizer

    @classmethod
    def from_bytes(cls, model: bytes) -> "Tokenizer":
        """Open a tokenizer from the result of `to_bytes`, or from the content of an icefall `bpe.model`.

        Raises:
            CheckpointError: not a complete sentencepiece model, or its first ids are not the special ones.
        """
        return cls(model)

    @classmethod
    def from_tokens(cls, path: str | Path) -> "Tokenizer":
        """Open the table of a character vocabulary, `tokens.txt` of an icefall recipe's `lang_char` folder.

        A line holds a symbol and its id, and the ids are kept: `<blk>` 0, `<sos/eos>` 1, `<unk>` 2, then the characters.
        Disambiguation symbols (#0, #1, ...) at the end do not belong in a model and are dropped.

        Raises:
            CheckpointError: the file cannot be read, its ids are not 0, 1, 2, ... with the special symbols first, or it is
                the table of a sentencepiece model, which must be opened directly.
        """
        try:
            content = Path(path).read_bytes()
            refuse_pointer(content, path, CheckpointError)
            lines = content.decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} must be a table of symbols, but cannot be read: {error}") from error
        symbols: dict[int, str] = {}
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or not fields[1].isdecimal() or int(fields[1]) in symbols:
                raise CheckpointError(f"line {number} of {path} must be 'symbol id' with a new id, but is {line!r}")
            symbols[int(fields[1])] = fields[0]
        while symbols and _DISAMBIGUATION.fullmatch(symbols.get(max(symbols), "")):
            del symbols[max(symbols)]
        pieces = [symbols[i] for i in sorted(symbols)]
        if sorted(symbols) != list(range(len(symbols))) or tuple(pieces[:3]) != SPECIAL_PIECES:
            raise CheckpointError(
                f"{path} must have the ids 0, 1, 2, ..., starting with {', '.join(SPECIAL_PIECES)}, but has "
                f"{len(symbols)} symbols starting with {', '.join(pieces[:3]) or 'nothing'}"
            )
        if any(_WORD_START in piece for piece in pieces):
            raise CheckpointError(
                f"{path} must be a table of characters, but has the pieces of a sentencepiece model; open the bpe.model "
                "next to it"
            )
        if len(set(pieces)) < len(pieces):
            raise CheckpointError(f"{path} must have every symbol once, but repeats one")
        return cls(table_model(pieces[3:]))

    def to_bytes(self) -> bytes:
        """Return the serialized sentencepiece model."""
        return self._model

    def to_files(self) -> dict[str, bytes]:
        """Return the files of a checkpoint folder: the model, and `tokens.txt` with one line `symbol id` per id."""
        tokens = "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))
        return {MODEL_FILE: self._model, TOKENS_FILE: tokens.encode()}

    def to_vocab(self) -> bytes:
        """Return a line `piece score`, separated by a tab, per id: what sherpa-onnx encodes hotwords with (`bpe.vocab`)."""
        return "".join(f"{piece}\t{self._processor.get_score(i):g}\n" for i, piece in enumerate(self.pieces)).encode()

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Open the tokenizer that `save` wrote into a folder.

        Raises:
            CheckpointError: the file is missing, unreadable or damaged.
        """
        path = Path(folder) / MODEL_FILE
        try:
            model = path.read_bytes()
            refuse_pointer(model, path, CheckpointError)
            return cls(model)
        except OSError as error:
            raise CheckpointError(f"{path} must be a tokenizer, but cannot be read: {error.strerror}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write the files of `to_files` into a folder, created if missing.

        Raises:
            CheckpointError: the files cannot be written.
        """
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, content in self.to_files().items():
                (Path(folder) / name).write_bytes(content)
        except OSError as error:
            raise CheckpointError(
                f"the tokenizer cannot be written to {folder}: {error.strerror}; check permissions and free space"
            ) from error

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self._model,)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size})"


def _single_spaced(text: str, replacement: str) -> str:
    """Single spaces between words and none around; ▁ counts as white space, which is its meaning in a piece."""
    return " ".join(_UNWRITABLE.sub(replacement, text).replace(_WORD_START, " ").split())
