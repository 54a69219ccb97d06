"""Text to ids and back: a sentencepiece model, with special ids for what no text contains.

`<blk>`, `<sos/eos>` and `<unk>` are found by their names. They are 0, 1 and 2 in the vocabularies that are learned here and
in the published recipes. A piece that starts a word starts with ▁ (U+2581). Text is normalized as in `text.py`, and white
space becomes one space; case is not changed. Where a vocabulary that was learned from other texts lacks the normalized form
of a character, such as ', but has another, such as ’, that is used.

Scripts without spaces use a table of characters instead, as the published Mandarin recipes do: every character is an id, and
white space is ignored. Byte-level pieces (`byte_text.py`) write any script; characters of Chinese and Japanese are words in
it, and other words have spaces between them. Both are stored in the same file format. This folder is the sole owner of the
special ids, the vocabulary size and the model file.
"""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from zipasr.errors import CheckpointError, ConfigError
from zipasr.lfs import refuse_pointer
from zipasr.text import MIXED_JOINER, UNKNOWN_MARK, lower, normalize, other_spellings, single_spaced, unspaced, upper
from zipasr.tokenizer.byte_text import is_byte_text, is_surely_byte_text, to_bytes
from zipasr.tokenizer.input_text import byte_text, plain_text
from zipasr.tokenizer.model_file import (
    BLANK_PIECES,
    BYTES_END,
    CONTROL_PIECES,
    TABLE_END,
    WORD_START,
    open_model,
    table_model,
)
from zipasr.tokenizer.table import read_table
from zipasr.tokenizer.training import TokenizerKind, learn_model

MODEL_FILE = "tokenizer.model"
"""Name of a sentencepiece model in a model folder."""
TOKENS_FILE = "tokens.txt"
"""Name of a table of symbols in a model folder; the published folders use the same name."""

_ENDS = ("<sos/eos>", "<eos>", "</s>")
_BYTE_LEVEL_FILE = "bbpe"
"""Start of the names of model files with byte-level pieces in the published recipes."""


class Tokenizer:
    """Encodes text as ids and decodes ids to text. Create one with `train`, `load`, `from_bytes` or `from_file`; it can be
    pickled."""

    def __init__(self, model: bytes) -> None:
        """Open a serialized sentencepiece model; see `from_bytes`."""
        self._model = bytes(model)
        self._processor = open_model(self._model)
        self.pieces: list[str] = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        """The piece of every id."""
        blank_id, self._sos_eos_id = (self._id_of(names) for names in (BLANK_PIECES, _ENDS))
        if blank_id is None:
            raise CheckpointError(
                f"the pieces of a tokenizer must include {BLANK_PIECES[0]}, the blank, but start with "
                f"{', '.join(self.pieces[:3]) or 'none'}; train it with zipasr or an icefall recipe"
            )
        self.blank_id: int = blank_id
        """Id of the transducer and CTC blank, which never occurs in text."""
        self.unk_id: int = self._processor.unk_id()
        """Id of characters that are not in the vocabulary."""
        ids = range(self.vocab_size)
        self.special_ids = frozenset(i for i in ids if self._processor.is_control(i) or self.pieces[i] in CONTROL_PIECES)
        """Ids of what no text contains, such as blank and sos/eos; that of unknown characters is not one of them."""
        self.is_byte_level = self._model.endswith(BYTES_END)
        """Whether the pieces are bytes or runs of bytes."""
        self._ids: dict[str, int] | None = None
        if self._model.endswith(TABLE_END):
            self._ids = {self.pieces[i]: i for i in ids if i != self.unk_id and i not in self.special_ids}
        self._written = [self._bytes_of(i) for i in ids]
        own = [i for i in ids if i != self.unk_id and not self._processor.is_byte(i)]
        self.letters = frozenset("".join(self._written[i].decode(errors="ignore") for i in own)) - {" "}
        """The characters that single pieces write; those that only bytes together write are not among them."""
        self._has: dict[str, bool] = {}  # the characters that were asked for so far
        characters = [] if self.is_byte_level else sorted(self.letters)
        self._unusual = {normal: c for c in characters if (normal := normalize(c)) not in ("", c)}

    def _id_of(self, names: Sequence[str]) -> int | None:
        """The id of the first of some names that is a piece; None: there is none."""
        return next((self.pieces.index(name) for name in names if name in self.pieces), None)

    def _bytes_of(self, id: int) -> bytes:
        """What an id writes, in UTF-8: part of a character, a character, or several."""
        piece = self.pieces[id]
        if id in self.special_ids:
            return b""
        if self._processor.is_byte(id):
            return bytes([int(piece[3:5], 16)])
        if id == self.unk_id:
            return to_bytes(UNKNOWN_MARK) if self.is_byte_level else self._processor.decode([id]).encode()
        return to_bytes(piece) if self.is_byte_level else piece.replace(WORD_START, " ").encode()

    @property
    def sos_eos_id(self) -> int:
        """Id of the start and the end of a sentence, for attention decoders and language models.

        Raises:
            ConfigError: the vocabulary has none.
        """
        if self._sos_eos_id is None:
            raise ConfigError(
                f"attention decoders and language models need {_ENDS[0]} in the vocabulary, but it has none; use them with "
                "another model"
            )
        return self._sos_eos_id

    @property
    def is_spaceless(self) -> bool:
        """Whether this is a table of characters, which ignores white space."""
        return self._ids is not None

    @property
    def word_joiner(self) -> str:
        """Separator of words in a text: a space, nothing if the vocabulary is spaceless, or `MIXED_JOINER` for bytes."""
        return MIXED_JOINER if self.is_byte_level else "" if self.is_spaceless else " "

    @property
    def most_tokens_per_character(self) -> int:
        """Upper bound on the tokens of a character and the blanks that CTC needs between equal ones, after the first ▁."""
        # At most ▁, four bytes, and three blanks if all bytes were equal.
        return 8 if self._writes_bytes else 1

    @property
    def _writes_bytes(self) -> bool:
        return self.is_byte_level or any(map(self._processor.is_byte, range(self.vocab_size)))

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
        text = byte_text(text) if self.is_byte_level else plain_text(text)
        # In icefall's models <blk> and <sos/eos> are pieces that a text can spell; speech never contains them.
        return [self.unk_id if i in self.special_ids else i for i in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; blank and sos/eos are dropped.

        `unk_id` is ⁇, and a space among byte-level pieces. Bytes that are no complete character are dropped, so that the
        text of the first ids is the start of the text of all.

        Raises:
            ValueError: an id is not in [0, vocab_size).
        """
        self._check(ids)
        text = single_spaced(b"".join(self._written[i] for i in ids).decode(errors="ignore"))
        return unspaced(text) if self.is_byte_level else text

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text: its piece, or the characters whose last byte it has; ▁ starts a word.

        Raises:
            ValueError: an id is not in [0, vocab_size).
        """
        self._check(ids)
        if not self._writes_bytes:
            return [self.pieces[i] for i in ids]
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        return [decoder.decode(self._written[i]).replace(" ", WORD_START) for i in ids]

    def _check(self, ids: Sequence[int]) -> None:
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"ids must be from 0 to {self.vocab_size - 1}, but one is {i}; use its own tokenizer")

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
        """Whether the vocabulary can write every character; bytes that replace missing pieces are not counted."""
        characters = set(text)
        for c in characters.difference(self._has):
            ids = self._encode(c)
            is_whole = not any(map(self._processor.is_byte, ids))
            self._has[c] = self.unk_id not in ids and is_whole
        return all(map(self._has.__getitem__, characters))

    def starts_word(self, id: int) -> bool:
        """Return whether the piece of an id starts a word."""
        return self.pieces[id].startswith(WORD_START)

    @classmethod
    def train(cls, texts: Iterable[str], *, kind: TokenizerKind, vocab_size: int | None) -> "Tokenizer":
        """Learn a vocabulary that covers every character of the texts. The same texts give the same tokenizer.

        Args:
            texts: transcripts, one utterance each.
            kind: kind of pieces: `unigram` as in the published English recipes, `bpe`, `char` for single characters
                and the space, `spaceless` for single characters of a script without spaces, as published for Mandarin, or
                `bbpe` for byte-level pieces by unigram model, as published for Mandarin and for Mandarin with English.
            vocab_size: number of ids V, including the special ones. If the texts allow fewer, it is reduced to
                that number with a logged warning. None, for single characters only: all characters that occur.
        Raises:
            ConfigError: fewer ids than characters, or bytes, and special pieces (the message states the minimum); unknown
                kind.
            DataError: all texts are empty.
        """
        return cls(learn_model(texts, kind, vocab_size))

    @classmethod
    def from_bytes(cls, model: bytes) -> "Tokenizer":
        """Open a tokenizer from the result of `to_bytes`, or from the content of an icefall `bpe.model`.

        Raises:
            CheckpointError: not a complete sentencepiece model, or it has no blank.
        """
        return cls(model)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Open a vocabulary of a recipe: a sentencepiece model, or `tokens.txt` of characters.

        Pieces are byte-level if the file is called `bbpe*`, as in the published recipes, or if they can be nothing else.

        Raises:
            CheckpointError: the file cannot be read or used; see `from_bytes` and `from_tokens`.
        """
        path = Path(path)
        if path.suffix == ".txt":
            return cls.from_tokens(path)
        tokenizer = cls.load(path.parent, path.name)
        if tokenizer.is_byte_level:
            return tokenizer
        others = tokenizer.special_ids | {tokenizer.unk_id}
        characters = "".join(piece for i, piece in enumerate(tokenizer.pieces) if i not in others)
        is_named_so = path.name.startswith(_BYTE_LEVEL_FILE)
        if is_named_so and not is_byte_text(characters):
            strange = next(character for character in characters if not is_byte_text(character))
            raise CheckpointError(
                f"{path} must have byte-level pieces, as its name says, but has {strange!r}, which stands for no byte; "
                "rename it if its pieces are characters"
            )
        is_byte_level = is_named_so or is_surely_byte_text(characters)
        return cls(tokenizer.to_bytes() + BYTES_END) if is_byte_level else tokenizer

    @classmethod
    def from_tokens(cls, path: str | Path) -> "Tokenizer":
        """Open the table of a character vocabulary, `tokens.txt` of an icefall recipe's `lang_char` folder.

        A line holds a symbol and its id, and the ids are kept. `<blk>` and `<unk>` must be among the symbols.
        Disambiguation symbols (#0, #1, ...) at the end do not belong in a model and are dropped.

        Raises:
            CheckpointError: the file cannot be read, its ids are not 0, 1, 2, ..., it has no blank or no `<unk>`, or it is
                the table of a sentencepiece model, which must be opened directly.
        """
        return cls(table_model(read_table(path)))

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
    def load(cls, folder: str | Path, name: str = MODEL_FILE) -> "Tokenizer":
        """Open the tokenizer that `save` wrote into a folder, or another model file there.

        Raises:
            CheckpointError: the file is missing, unreadable or damaged.
        """
        path = Path(folder) / name
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
