"""Language models: scores of label sequences without the audio."""

from zipasr.lm.estimate import estimate_graph, estimate_ngram
from zipasr.lm.language_model import load_language_model, load_token_ngram
from zipasr.lm.neural import LmConfig, LstmConfig, NeuralLm, NeuralPrior, TransformerConfig
from zipasr.lm.ngram import NgramModel, TokenNgram, WordNgram, load_ngram
from zipasr.lm.ngram_file import NGRAM_FILE, ngram_of_texts, ngram_to_bytes, read_ngram, write_ngram

__all__ = [
    "NGRAM_FILE",
    "LmConfig",
    "LstmConfig",
    "NeuralLm",
    "NeuralPrior",
    "NgramModel",
    "TokenNgram",
    "TransformerConfig",
    "WordNgram",
    "estimate_graph",
    "estimate_ngram",
    "load_language_model",
    "load_ngram",
    "load_token_ngram",
    "ngram_of_texts",
    "ngram_to_bytes",
    "read_ngram",
    "write_ngram",
]
