"""The folder of a run: created or reopened, with the configuration and the vocabulary that the run started with.

Fields that a resumed run may change are listed here; everything else must be unchanged, including the data, or its position
in the epoch would be meaningless. Data and vocabulary files are compared by content, so that their paths may change. A run
that is refused leaves the folder as it was: everything is checked before anything is written.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from zipasr.checkpoint import write_text
from zipasr.config import differences, from_json, to_json
from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.noise import noise_digest
from zipasr.errors import CheckpointError, ConfigError
from zipasr.lines import parse_json
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, read_vocabulary
from zipasr.train.resolve import has_same_vocabulary, with_vocabulary
from zipasr.train.source import remember

CONFIG_FILE = "config.json"
DATA_FILE = "utterances.sha256"
_DATA_FORMAT = "3"
"""First line of `DATA_FILE`."""
_NOISE = "noise.features"
_NOISE_BEFORE = "noise"
"""Entry of `DATA_FILE` for the noise, and the one of versions that mixed noise into the audio."""
_MAY_CHANGE = frozenset(
    "num_epochs max_batches device num_workers log_interval valid_interval keep_checkpoints average_share "
    "batch.cache_mb batch.max_unreadable_share finetune.checkpoint finetune.tokenizer keep_best max_skipped_batches "
    "selection max_rollbacks rollback_lr_factor rank_timeout_s use_activation_checkpointing max_lost_share "
    "max_unknown_share search tokenizer.max_texts ngram_order".split()
)
"""Fields, and parts with all their fields, that a resumed run may change: none of them affects what a step does
(finetune.sha256 identifies the checkpoint, whatever its path; a run keeps its vocabulary) or which checkpoints averages and
rollbacks use."""


def stored_config(out: Path) -> TrainConfig | None:
    """The configuration of the run in a folder; None if the folder has no run.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    path = out / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return from_json(TrainConfig, parse_json(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError) as error:  # ConfigError and what json raises are ValueErrors
        raise CheckpointError(
            f"{path} must be the configuration of a run, but cannot be read: {error}; restore it, or choose another --out"
        ) from error


def tokenizer_folder(out: Path) -> Path | None:
    """The folder with the vocabulary of the run in `out`; None if no run has started there."""
    return out / "tokenizer" if (out / CONFIG_FILE).is_file() else None


class ResolvedRun(NamedTuple):
    """Configuration and vocabulary of a run, before anything is written."""

    config: TrainConfig
    """The configuration with the size of its vocabulary."""
    tokenizer: Tokenizer
    is_new: bool
    """Whether the folder holds no run yet."""
    has_new_length: bool
    """Whether the run is new, or ends elsewhere than when it was started last."""


def resolve_run(config: TrainConfig, out: Path, cuts: IndexedCuts, *, is_save_interval_given: bool = True) -> ResolvedRun:
    """Configuration and vocabulary of a new run, or of the run in `out` if the settings are the same. Writes nothing.

    Unless `is_save_interval_given`, an existing run keeps its own `save_interval`, whatever that of `config` is.

    Raises:
        ConfigError: the settings or the vocabulary file changed.
        CheckpointError: the folder or the vocabulary file cannot be read.
    """
    old = stored_config(out)
    config, tokenizer = with_vocabulary(config, cuts, tokenizer_folder(out))
    if old is None:
        return ResolvedRun(config, tokenizer, is_new=True, has_new_length=True)
    if not is_save_interval_given:
        config = dataclasses.replace(config, save_interval=old.save_interval)
    changed = [
        f"{name} (was {was}, now {value})"
        for name, (was, value) in differences(to_json(_with_paths_of(config, old)), to_json(config)).items()
        if name not in _MAY_CHANGE and name.partition(".")[0] not in _MAY_CHANGE
    ]
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings: {'; '.join(changed)}. Use the same settings to go on, or another --out"
        )
    _check_same_vocabulary(config, old, tokenizer, out)
    has_new_length = (old.num_epochs, old.max_batches) != (config.num_epochs, config.max_batches)
    return ResolvedRun(config, tokenizer, is_new=False, has_new_length=has_new_length)


def write_run(run: ResolvedRun, out: Path) -> None:
    """Write the configuration of a run that was checked, and the vocabulary of a new one.

    Raises:
        CheckpointError: the folder cannot be written, or the checkpoint to finetune cannot be read.
    """
    if run.is_new:
        run.tokenizer.save(out / "tokenizer")
    if run.config.finetune is not None:
        remember(run.config.finetune, out)
    _write_text(out / CONFIG_FILE, json.dumps(to_json(run.config), indent=1))


def _with_paths_of(now: TrainConfig, before: TrainConfig) -> TrainConfig:
    """The configuration `before` with the paths of `now` to its data and vocabulary file, which are compared by content."""
    changes: dict[str, object] = {"data": now.data}
    if len(before.mix) == len(now.mix):
        pairs = zip(before.mix, now.mix, strict=True)
        changes["mix"] = tuple(dataclasses.replace(part, data=there.data) for part, there in pairs)
    if before.batch.noise is not None and now.batch.noise is not None:
        noise = dataclasses.replace(before.batch.noise, cuts=now.batch.noise.cuts)
        changes["batch"] = dataclasses.replace(before.batch, noise=noise)
    if before.tokenizer.file is not None and now.tokenizer.file is not None:
        changes["tokenizer"] = dataclasses.replace(before.tokenizer, file=now.tokenizer.file)
    return dataclasses.replace(before, **changes)  # type: ignore[arg-type]


def _check_same_vocabulary(config: TrainConfig, old: TrainConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Raise if `tokenizer.file` holds another vocabulary than the run, which has a copy: the file itself may be gone."""
    file, is_unused = config.tokenizer.file, config.finetune is not None and has_same_vocabulary(config.finetune)
    if file is None or is_unused or (file == old.tokenizer.file and not Path(file).exists()):
        return
    if read_vocabulary(Path(file)).to_bytes() != tokenizer.to_bytes():
        raise ConfigError(
            f"tokenizer.file must hold the vocabulary that the run in {out} started with, but {file} holds another one; "
            "give the same file to go on, or use another --out"
        )


def check_same_data(data: TrainData, out: Path, config: TrainConfig) -> None:
    """Raise if the data of a resumed run has changed.

    With other utterances the position in the epoch would be meaningless, with other noise the run would differ, and on
    another dev set error rates would not be comparable.

    Raises:
        ConfigError: the training utterances, those mixed in, the noise, how it is mixed in, or the dev set changed.
    """
    path = out / DATA_FILE
    now = _data_record(data, config)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if lines[:1] not in ([], [_DATA_FORMAT]):
        raise ConfigError(f"{path} must be of this version of zipasr, but is of another; use another --out")
    before = dict(line.split(" ", 1) for line in lines[1:])
    if _NOISE in now and _NOISE_BEFORE in before:
        raise ConfigError(
            f"noise must be mixed in the same way in the whole run, but the run in {out} mixed it into the audio, and this "
            "version mixes it into the features, as in the published runs; finish the run with the version that it started "
            "with, or use another --out (with --from to start from its model)"
        )
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
        record[_NOISE] = f"{number} {digest}"
    return record


def _part_of_data(part: str, config: TrainConfig) -> tuple[str, str]:
    """Description of a part of the record, and its current path."""
    if part == _NOISE:
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
