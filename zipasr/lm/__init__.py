"""Language models: scores of label sequences without the audio."""

from zipasr.lm.estimate import estimate_ngram
from zipasr.lm.language_model import load_language_model
from zipasr.lm.neural import LmConfig, LstmConfig, NeuralLm, NeuralPrior, TransformerConfig
from zipasr.lm.ngram import NgramModel, TokenNgram, WordNgram, load_ngram, load_token_ngram

__all__ = [
    "LmConfig",
    "LstmConfig",
    "NeuralLm",
    "NeuralPrior",
    "NgramModel",
    "TokenNgram",
    "TransformerConfig",
    "WordNgram",
    "estimate_ngram",
    "load_language_model",
    "load_ngram",
    "load_token_ngram",
]
