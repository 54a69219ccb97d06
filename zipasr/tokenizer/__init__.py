"""Text to ids and back: the vocabulary of a model."""

from zipasr.tokenizer.model_file import WORD_START
from zipasr.tokenizer.tokenizer import MODEL_FILE, TOKENS_FILE, Tokenizer
from zipasr.tokenizer.training import TokenizerKind

__all__ = ["MODEL_FILE", "TOKENS_FILE", "WORD_START", "Tokenizer", "TokenizerKind"]
