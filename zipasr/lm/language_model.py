"""Loading of any language model: a folder is a neural model, a file an n-gram model in ARPA format."""

import os
from pathlib import Path

import torch

from zipasr.errors import DataError
from zipasr.lm.neural import NeuralLm, NeuralPrior
from zipasr.lm.ngram import TokenNgram, WordNgram, load_ngram
from zipasr.lm.ngram_file import NGRAM_FILE, read_ngram
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
    return read_ngram(path, tokenizer) if path.suffix == Path(NGRAM_FILE).suffix else load_ngram(path, tokenizer)
