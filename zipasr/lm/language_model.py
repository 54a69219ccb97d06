"""Loading of any language model: a folder is a neural model, a file an n-gram model."""

import os
from pathlib import Path

import torch

from zipasr.errors import ConfigError, DataError
from zipasr.lm.neural import NeuralLm, NeuralPrior
from zipasr.lm.ngram import UNKNOWN_LOG_PROB, TokenNgram, WordNgram, load_ngram
from zipasr.lm.ngram_file import NGRAM_FILE, is_ngram_file, read_ngram
from zipasr.tokenizer import Tokenizer


def load_language_model(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, device: str | torch.device = "cpu"
) -> TokenNgram | WordNgram | NeuralPrior:
    """Open a language model as a prior of the labels of a recognizer.

    Args:
        path: a folder written by `zipasr train-lm`, an ARPA file (plain or gzipped) of tokens or words, or an
            `ngram.safetensors`.
        tokenizer: the recognizer's.
        device: where a neural model computes.
    Raises:
        DataError: the file does not exist, or the ARPA file is damaged.
        CheckpointError: the folder holds no language model, or a damaged one.
        ConfigError: the model is for another vocabulary.
    """
    path = Path(path)
    if path.is_dir():
        model, own_tokenizer = NeuralLm.load(path)
        prior = NeuralPrior(model.to(device), own_tokenizer)
        prior.check_same_vocabulary(tokenizer)
        return prior
    if not path.exists():
        raise DataError(
            f"a language model must be a folder, an ARPA file or {NGRAM_FILE}, but there is no {path}; check the path"
        )
    return read_ngram(path, tokenizer) if is_ngram_file(path) else load_ngram(path, tokenizer)


def load_token_ngram(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, unknown_log_prob: float = UNKNOWN_LOG_PROB
) -> TokenNgram:
    """Read an n-gram model of the tokenizer's pieces, as LODR needs it: an ARPA file or an `ngram.safetensors`.

    The arguments are those of `load_ngram`.

    Raises:
        DataError: see `read_arpa`.
        CheckpointError: see `read_ngram`.
        ConfigError: its symbols are not this tokenizer's pieces.
    """
    path = Path(path)
    if is_ngram_file(path):
        return read_ngram(path, tokenizer)
    prior = load_ngram(path, tokenizer, unknown_log_prob=unknown_log_prob)
    if isinstance(prior, WordNgram):
        raise ConfigError(
            f"the n-gram model must be of the tokenizer's pieces, but {path} is one of words "
            f"({', '.join(prior.model.known_symbols[:3])}); make one with: "
            "zipasr train-lm TEXT --model DIR --kind ngram --unit token --order 2 --out FILE.arpa"
        )
    return prior
