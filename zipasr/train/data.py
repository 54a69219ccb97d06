"""The utterances of a run: read from a prepared folder, filtered, and the vocabulary made of their texts."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipasr.audio import SAMPLE_RATE_HZ
from zipasr.data.validate import has_enough_frames
from zipasr.errors import DataError
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TokenizerConfig, TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainData:
    """Cuts of lhotse that passed the checks."""

    train: Sequence[Any]
    dev: Sequence[Any]
    num_dropped: dict[str, int]
    """Training utterances left out, by reason."""


def read_cuts(path: Path) -> list[Any]:
    """The cuts of a lhotse manifest at 16 kHz; those without exactly one supervision with a text are left out.

    Raises:
        DataError: there is no such file, it is not a manifest of cuts, or one has another sampling rate.
    """
    try:
        from lhotse import CutSet
    except ImportError as error:
        raise DataError('training needs lhotse, but it is not installed; pip install "zipasr[train]"') from error
    if not path.is_file():
        raise DataError(
            f"{path} must be a manifest of cuts, but there is no such file; make it with: "
            f"zipasr prepare SOURCE --out {path.parent}"
        )
    try:
        cuts = list(CutSet.from_file(path) or ())  # lhotse gives None for an empty file
    except Exception as error:
        raise DataError(f"{path} must be a lhotse manifest of cuts, but cannot be read: {error}") from error
    usable = [cut for cut in cuts if len(cut.supervisions) == 1 and (cut.supervisions[0].text or "").strip()]
    if len(usable) < len(cuts):
        logger.warning("left out %d of %d cuts in %s: not one text each", len(cuts) - len(usable), len(cuts), path)
    for cut in usable:
        if cut.sampling_rate != SAMPLE_RATE_HZ:
            raise DataError(
                f"cuts must be of sound at {SAMPLE_RATE_HZ} Hz, but {cut.id} in {path} is at {cut.sampling_rate} Hz; "
                f"convert them with: zipasr prepare {path} --out DIR"
            )
    return usable


def make_tokenizer(cuts: Sequence[Any], config: TokenizerConfig) -> Tokenizer:
    """Learn the vocabulary from the texts of the training cuts."""
    texts = [cut.supervisions[0].text for cut in cuts]
    return Tokenizer.train(texts, kind=config.kind, vocab_size=config.vocab_size)


def select(cuts: Sequence[Any], dev_cuts: Sequence[Any], tokenizer: Tokenizer, config: TrainConfig) -> TrainData:
    """Leave out training utterances that are too short, too long, or have more tokens than encoder frames.

    Raises:
        DataError: nothing is left, or there is nothing to validate on.
    """
    if not dev_cuts:
        raise DataError(
            f"there must be utterances to validate on, but dev_cuts.jsonl.gz in {config.data} holds none; move some there "
            "from train_cuts.jsonl.gz, or prepare 3 utterances or more"
        )
    fastest = max(config.batch.speed_factors)
    dropped: Counter[str] = Counter()
    kept = []
    for cut in cuts:
        num_tokens = len(tokenizer.encode(cut.supervisions[0].text))
        if cut.duration < config.min_duration_s:
            dropped["too short"] += 1
        elif cut.duration > config.max_duration_s:
            dropped["too long"] += 1
        elif not has_enough_frames(int(cut.num_samples / fastest), num_tokens):
            dropped["more tokens than encoder frames"] += 1
        else:
            kept.append(cut)
    for reason, count in dropped.items():
        logger.warning("left out %d of %d training utterances: %s", count, len(cuts), reason)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"
        raise DataError(
            f"there must be utterances to train on, but of {len(cuts)} none is left ({reasons}); "
            "change min_duration_s or max_duration_s, or check the data"
        )
    unknown = set().union(*(tokenizer.unknown_characters(cut.supervisions[0].text) for cut in dev_cuts))
    if unknown:
        logger.warning("dev texts hold characters that no training text has: %s", " ".join(sorted(unknown)))
    return TrainData(kept, dev_cuts, dict(dropped))
