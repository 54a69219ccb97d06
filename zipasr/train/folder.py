"""The folder of a run: created or reopened, with the configuration and the vocabulary that the run started with.

Fields that a resumed run may change are listed here; everything else must be unchanged, including the data, or its position
in the epoch would be meaningless.
"""

import hashlib
import json
from pathlib import Path

from zipasr.checkpoint import write_text
from zipasr.config import differences, from_json, to_json
from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.noise import noise_digest
from zipasr.errors import CheckpointError, ConfigError
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData
from zipasr.train.resolve import with_vocabulary
from zipasr.train.source import remember

CONFIG_FILE = "config.json"
DATA_FILE = "utterances.sha256"
_DATA_FORMAT = "3"
"""First line of `DATA_FILE`."""
_MAY_CHANGE = frozenset(
    "num_epochs max_batches device num_workers log_interval valid_interval keep_checkpoints average_share "
    "batch.cache_mb batch.max_unreadable_share finetune.checkpoint finetune.tokenizer keep_best max_skipped_batches "
    "max_rollbacks rollback_lr_factor rank_timeout_s use_activation_checkpointing max_lost_share "
    "max_unknown_share".split()
)
"""Fields that a resumed run may change: none of them affects what a step does (finetune.sha256 identifies the checkpoint,
whatever its path) or which checkpoints averages and rollbacks use."""


def stored_config(out: Path) -> TrainConfig | None:
    """The configuration of the run in a folder; None if the folder has no run.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    path = out / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return from_json(TrainConfig, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError) as error:  # ConfigError and what json raises are ValueErrors
        raise CheckpointError(
            f"{path} must be the configuration of a run, but cannot be read: {error}; restore it, or choose another --out"
        ) from error


def tokenizer_folder(out: Path) -> Path | None:
    """The folder with the vocabulary of the run in `out`; None if no run has started there."""
    return out / "tokenizer" if (out / CONFIG_FILE).is_file() else None


def open_run(config: TrainConfig, out: Path, cuts: IndexedCuts) -> tuple[TrainConfig, Tokenizer]:
    """Configuration and vocabulary of a run: creates its folder, or checks that the existing one is of the same run.

    Raises:
        ConfigError: the settings changed.
        CheckpointError: the folder cannot be read or written.
    """
    old = stored_config(out)
    config, tokenizer = with_vocabulary(config, cuts, tokenizer_folder(out))
    settings = to_json(config)
    if old is None:
        tokenizer.save(out / "tokenizer")
    else:
        changed = [
            f"{name} (was {was}, now {value})"
            for name, (was, value) in differences(to_json(old), settings).items()
            if name not in _MAY_CHANGE
        ]
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings: {'; '.join(changed)}. Use the same settings to go on, "
                "or another --out"
            )
    if config.finetune is not None:
        remember(config.finetune, out)
    _write_text(out / CONFIG_FILE, json.dumps(settings, indent=1))
    return config, tokenizer


def check_same_data(data: TrainData, out: Path, config: TrainConfig) -> None:
    """Raise if the data of a resumed run has changed.

    With other utterances the position in the epoch would be meaningless, with other noise the run would differ, and on
    another dev set error rates would not be comparable.

    Raises:
        ConfigError: the training utterances, those mixed in, the noise or the dev set changed.
    """
    path = out / DATA_FILE
    now = _data_record(data, config)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if lines[:1] not in ([], [_DATA_FORMAT]):
        raise ConfigError(f"{path} must be of this version of zipasr, but is of another; use another --out")
    before = dict(line.split(" ", 1) for line in lines[1:])
    for part, found in now.items():
        expected = before.get(part, "0 none") if before else found
        if expected != found:
            what, place = _part_of_data(part, config)
            (num_expected, digest), (num_found, other) = expected.split(), found.split()
            raise ConfigError(
                f"{out} holds a run with other {what} than {place} holds now: there must be the {num_expected} that it "
                f"started with (SHA-256 {digest[:8]}), but there are {num_found} ({other[:8]}); prepare that data as it was "
                "to go on, or use another --out"
            )
    _write_text(path, "\n".join([_DATA_FORMAT, *(f"{part} {found}" for part, found in now.items()), ""]))


def _data_record(data: TrainData, config: TrainConfig) -> dict[str, str]:
    """Number and SHA-256 of the utterances and noise files of a run, by part."""
    parts = {"train": data.train, **{f"mix.{i}": part.cuts for i, part in enumerate(data.mixed)}, "dev": data.dev}
    record = {name: f"{len(cuts)} {hashlib.sha256(cuts.identities.tobytes()).hexdigest()}" for name, cuts in parts.items()}
    if config.batch.noise is not None:
        number, digest = noise_digest(Path(config.batch.noise.cuts))
        record["noise"] = f"{number} {digest}"
    return record


def _part_of_data(part: str, config: TrainConfig) -> tuple[str, str]:
    """Description of a part of the record, and its current path."""
    if part == "noise":
        assert config.batch.noise is not None
        return "noise", config.batch.noise.cuts
    if part == "dev":
        return "utterances to validate on", str(Path(config.data) / "dev_cuts.jsonl.gz")
    if part == "train":
        return "utterances", str(Path(config.data) / "train_cuts.jsonl.gz")
    return "utterances mixed in", str(Path(config.mix[int(part.removeprefix("mix."))].data) / "train_cuts.jsonl.gz")


def _write_text(path: Path, text: str) -> None:
    """Write a file unless it already has this content: of several ranks, only the first writes."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
