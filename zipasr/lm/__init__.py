"""Language models: scores of label sequences without the sound."""

from zipasr.lm.ngram import NgramModel, TokenNgram, WordNgram, load_ngram, load_token_ngram

__all__ = ["NgramModel", "TokenNgram", "WordNgram", "load_ngram", "load_token_ngram"]
