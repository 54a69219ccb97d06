"""Text to ids and back: a vocabulary, with special ids for what no text contains.

`<blk>`, `<sos/eos>` and `<unk>` are found by their names. They are 0, 1 and 2 in the vocabularies that are learned here and
in the published recipes. A piece that starts a word starts with ▁ (U+2581). Text is normalized as in `text.py`, and white
space becomes one space; case is not changed. Where a vocabulary that was learned from other texts lacks the normalized form
of a character, such as ', but has another, such as ’, that is used.

Scripts without spaces use a table of characters instead, as the published Mandarin recipes do: every character is an id, and
white space is ignored. Byte-level pieces (`byte_text.py`) write any script; characters of Chinese and Japanese are words in
it, and other words have spaces between them. All three are stored as sentencepiece models.

Other projects also publish lists of pieces, which are stored as lists (`vocabulary.py`). Some can only be decoded. This
folder is the sole owner of the special ids, the vocabulary size and the model file.
"""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from zipasr.errors import CheckpointError, ConfigError
from zipasr.lfs import refuse_pointer
from zipasr.text import MIXED_JOINER, is_unspaced, lower, normalize, other_spellings, single_spaced, unspaced, upper
from zipasr.tokenizer.byte_text import to_bytes
from zipasr.tokenizer.model_file import BLANK_PIECES, WORD_START
from zipasr.tokenizer.published_files import read_published
from zipasr.tokenizer.segmentation import UNKNOWN
from zipasr.tokenizer.training import TokenizerKind, learn_model
from zipasr.tokenizer.vocabulary import open_vocabulary, without_unknown

MODEL_FILE = "tokenizer.model"
"""Name of the vocabulary in a model folder, a sentencepiece model or a list of pieces."""
TOKENS_FILE = "tokens.txt"
"""Name of a table of symbols in a model folder; the published folders use the same name."""

_ENDS = ("<sos/eos>", "<eos>", "</s>")


class Tokenizer:
    """Encodes text as ids and decodes ids to text. Create one with `train`, `load`, `from_bytes` or `from_file`; it can be
    pickled."""

    def __init__(self, model: bytes) -> None:
        """Open a serialized vocabulary; see `from_bytes`."""
        self._model = bytes(model)
        self._vocabulary = open_vocabulary(self._model)
        self.pieces: list[str] = self._vocabulary.pieces
        """The piece of every id."""
        blank_id, self._sos_eos_id = (self._id_of(names) for names in (BLANK_PIECES, _ENDS))
        if blank_id is None:
            raise CheckpointError(
                f"the pieces of a tokenizer must include {BLANK_PIECES[0]}, the blank, but start with "
                f"{', '.join(self.pieces[:3]) or 'none'}; train it with zipasr or an icefall recipe"
            )
        self.blank_id: int = blank_id
        """Id of the transducer and CTC blank, which never occurs in text."""
        self.unk_id: int | None = self._vocabulary.unk_id
        """Id of characters that are not in the vocabulary; None: it has none, and `encode` leaves them out."""
        self.special_ids = self._vocabulary.control_ids
        """Ids of what no text contains, such as blank and sos/eos; that of unknown characters is not one of them."""
        self.is_byte_level = self._vocabulary.is_byte_level
        """Whether the pieces are bytes or runs of bytes."""
        self._writes_bytes = self.is_byte_level or bool(self._vocabulary.bytes)
        has_word_starts = any(piece.startswith(WORD_START) for piece in self.pieces)
        self.are_words: bool = not (self.can_encode or self._writes_bytes or has_word_starts)
        """Whether all pieces are written with spaces between them, such as phones and syllables."""
        self._written = [self._bytes_of(i) for i in range(self.vocab_size)]
        own = [i for i in range(self.vocab_size) if i != self.unk_id and i not in self._vocabulary.bytes]
        self.letters = frozenset("".join(self._written[i].decode(errors="ignore") for i in own)) - {" "}
        """The characters that single pieces write; those that only bytes together write are not among them."""
        # Vocabularies that are learned here write texts with the spaces that they were learned from.
        has_unspaced = self._writes_bytes or any(map(is_unspaced, self.letters))
        is_foreign = not (self._vocabulary.is_learned_here or self.is_spaceless)
        self.is_mixed: bool = self.is_byte_level or (is_foreign and has_unspaced)
        """Whether other words have spaces between them, but characters of Chinese and Japanese have none."""
        parts = own if self.is_byte_level else self._vocabulary.bytes
        self._bytes = frozenset(b"".join(self._written[i] for i in parts)) if self._writes_bytes else frozenset[int]()
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
        if id in self._vocabulary.bytes:
            return bytes([self._vocabulary.bytes[id]])
        if id == self.unk_id:
            return self._vocabulary.unknown_text.encode()
        if self.are_words:
            return f" {piece}".encode()
        return to_bytes(piece) if self.is_byte_level else piece.replace(WORD_START, " ").encode()

    @property
    def can_encode(self) -> bool:
        """Whether a text can be turned into ids. Decoding needs the pieces only; encoding also needs to know how a text is
        cut into them, which the `tokens.txt` of a vocabulary of pieces does not say."""
        return self._vocabulary.encode is not None

    def require_encoding(self, purpose: str, *, cure: str = "") -> None:
        """Check that texts can be encoded.

        Args:
            purpose: what must be encoded, as the subject of the sentence.
            cure: what else to do, as the end of the sentence.
        Raises:
            ConfigError: `can_encode` is false.
        """
        if not self.can_encode:
            raise ConfigError(
                f"{purpose} must be cut into the model's tokens, but the model came with only the list of its "
                f"{self.vocab_size} tokens (tokens.txt), which is enough to decode; put the bpe.model, bbpe.model or "
                "*.vocab that it was trained with next to that file, or give it to: zipasr convert PATH --out DIR "
                "--tokenizer FILE"
                f"{cure}"
            )

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
        return self._vocabulary.is_table

    @property
    def word_joiner(self) -> str:
        """Separator of words in a text: a space, nothing if the vocabulary is spaceless, or `MIXED_JOINER`, which is nothing
        between characters of Chinese and Japanese."""
        return MIXED_JOINER if self.is_mixed else "" if self.is_spaceless else " "

    @property
    def most_tokens_per_character(self) -> int:
        """Upper bound on the tokens of a character and the blanks that CTC needs between equal ones, after the first ▁."""
        # At most ▁, four bytes, and three blanks if all bytes were equal.
        return 8 if self._writes_bytes else 1

    @property
    def vocab_size(self) -> int:
        """Number of ids V, including the special ones."""
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: never blank or sos/eos, `unk_id` for unknown characters, [] for white space.

        Raises:
            ConfigError: `can_encode` is false.
        """
        ids = self._encode(self.respelled(text))
        if self.unk_id is None:
            return [i for i in ids if i != UNKNOWN]
        return [self.unk_id if i == UNKNOWN else i for i in ids]

    def _encode(self, text: str) -> list[int]:
        """The ids of a text whose characters are those of the vocabulary where it has them, with `UNKNOWN` for others."""
        if self._vocabulary.encode is None:
            self.require_encoding("a text")
        assert self._vocabulary.encode is not None
        return self._vocabulary.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; blank and sos/eos are dropped.

        `unk_id` is ⁇, and a space among byte-level pieces. Bytes that are no complete character are dropped, so that the
        text of the first ids is the start of the text of all. Characters of Chinese and Japanese have no spaces between
        them, except in vocabularies learned here from texts that have. Phones and syllables have spaces between them.

        Raises:
            ValueError: an id is not in [0, vocab_size).
        """
        self._check(ids)
        text = single_spaced(b"".join(self._written[i] for i in ids).decode(errors="ignore"))
        return unspaced(text) if self.is_mixed else text

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text: its piece, or the characters whose last byte it has; ▁ starts a word.

        Raises:
            ValueError: an id is not in [0, vocab_size).
        """
        self._check(ids)
        if not self._writes_bytes:
            return [WORD_START + self.pieces[i] if self.are_words else self.pieces[i] for i in ids]
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        return [decoder.decode(self._written[i]).replace(" ", WORD_START) for i in ids]

    def _check(self, ids: Sequence[int]) -> None:
        num_ids = self.vocab_size
        for i in ids:
            if not 0 <= i < num_ids:
                raise ValueError(f"ids must be from 0 to {num_ids - 1}, but one is {i}; use its own tokenizer")

    def unknown_characters(self, text: str) -> set[str]:
        """Return the characters of a text that would be encoded as `unk_id`, or that no tokens can write."""
        return {character for character in set(self.respelled(text)) if not self._can_write(character)}

    def _can_write(self, character: str) -> bool:
        """Whether a text with a character can be encoded, or decoded where `can_encode` is false."""
        if self.can_encode:
            return UNKNOWN not in self._encode(character)
        return character in self.letters or character.isspace() or set(character.encode("utf-8", "replace")) <= self._bytes

    def spelling(self, text: str) -> str:
        """Return a text as `respelled`, or in upper or lower case if the vocabulary covers more of it that way: users write
        names in mixed case, models are trained on one case."""
        versions = map(self.respelled, (text, upper(text), lower(text)))
        return min(versions, key=lambda version: (len(self.unknown_characters(version)), self._num_by_bytes(version)))

    def _num_by_bytes(self, text: str) -> int:
        """The number of characters that only bytes can write, or nothing can."""
        return sum(not self._has_all(character) for character in set(text))

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
            is_by_bytes = self.can_encode and not self._vocabulary.bytes.keys().isdisjoint(self._encode(c))
            self._has[c] = self._can_write(c) and not is_by_bytes
        return all(map(self._has.__getitem__, characters))

    def starts_word(self, id: int) -> bool:
        """Return whether the piece of an id starts a word; in a mixed vocabulary, characters without ▁ do too."""
        if self.are_words:
            return id not in self.special_ids
        piece = self.pieces[id]
        return piece.startswith(WORD_START) or (self.is_mixed and not self.is_byte_level and is_unspaced(piece[:1]))

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
            CheckpointError: neither a complete sentencepiece model nor a complete list of pieces, or it has no blank.
        """
        return cls(model)

    @classmethod
    def from_file(cls, path: str | Path, *, num_outputs: int | None = None) -> "Tokenizer":
        """Open the vocabulary of a published model, of whichever kind its content is.

        A sentencepiece model (`bpe.model`, `bbpe.model`); a list of pieces and scores (`*.vocab`), which the authors'
        package and sherpa-onnx encode with; or a table of symbols and ids (`tokens.txt`). A table of characters can be
        encoded, one of other pieces only decoded (`can_encode`). Pieces are byte-level if the file is called `bbpe*`, as in
        the published recipes, or if they can be nothing else.

        Args:
            path: the file.
            num_outputs: number of outputs V of the model, to check that it is its vocabulary; see `fitted`.
        Raises:
            CheckpointError: the file cannot be read, is damaged or something else, has no blank, or does not fit.
        """
        try:
            tokenizer = cls(read_published(path, num_outputs=num_outputs))
            return tokenizer if num_outputs is None else tokenizer.fitted(num_outputs)
        except CheckpointError as error:
            raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    @classmethod
    def from_tokens(cls, path: str | Path) -> "Tokenizer":
        """Open the table of a vocabulary, `tokens.txt` of an icefall recipe's `lang_char` folder; see `from_file`.

        A line holds a symbol and its id, and the ids are kept. `<blk>` must be among the symbols. Disambiguation symbols
        (#0, #1, ...) at the end do not belong in a model and are dropped.

        Raises:
            CheckpointError: the file cannot be read, its ids are not 0, 1, 2, ..., or it has no blank.
        """
        return cls.from_file(path)

    def fitted(self, num_outputs: int) -> "Tokenizer":
        """Return the vocabulary of a model with so many outputs.

        It has one output less than pieces if `<unk>` is the last of them: some models never learned it.

        Raises:
            CheckpointError: it is the vocabulary of another model.
        """
        if num_outputs == self.vocab_size:
            return self
        if num_outputs == self.vocab_size - 1 == self.unk_id:
            return Tokenizer(without_unknown(self._model))
        raise CheckpointError(
            f"the vocabulary must be that of the model, which has {num_outputs} outputs, but it has {self.vocab_size} "
            "entries; give the bpe.model, bbpe.model, *.vocab or tokens.txt that the model was trained with"
        )

    def to_bytes(self) -> bytes:
        """Return the content of a model file, from which `from_bytes` opens the same vocabulary."""
        return self._model

    def to_files(self) -> dict[str, bytes]:
        """Return the files of a checkpoint folder: the model, and `tokens.txt` with one line `symbol id` per id."""
        tokens = "".join(f"{piece} {i}\n" for i, piece in enumerate(self.pieces))
        return {MODEL_FILE: self._model, TOKENS_FILE: tokens.encode()}

    def to_vocab(self) -> bytes:
        """Return a line `piece score`, separated by a tab, per id: what sherpa-onnx encodes hotwords with (`bpe.vocab`)."""
        return "".join(f"{piece}\t{self._vocabulary.scores[i]:g}\n" for i, piece in enumerate(self.pieces)).encode()

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
