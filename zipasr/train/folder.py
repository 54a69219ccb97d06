"""The folder of a run: created or reopened, with the configuration and the vocabulary that the run started with.

Fields that a resumed run may change are listed here; everything else must be unchanged, including the data, or its position
in the epoch would be meaningless.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from zipasr import checkpoint
from zipasr.config import from_json, to_json
from zipasr.data.manifest_index import IndexedCuts
from zipasr.data.noise import noise_digest
from zipasr.errors import CheckpointError, ConfigError
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, make_tokenizer, read_cuts
from zipasr.train.finetune import kept_tokenizer
from zipasr.train.source import remember

CONFIG_FILE = "config.json"
DATA_FILE = "utterances.sha256"
LOCK_FILE = ".lock"
_ORPHANS_LIVE_S = 15.0  # torch's data readers check every 5 s whether their parent is alive
logger = logging.getLogger(__name__)
_MAY_CHANGE = frozenset(
    "num_epochs max_batches device num_workers log_interval valid_interval keep_checkpoints average_share "
    "batch.cache_mb batch.max_unreadable_share finetune.checkpoint finetune.tokenizer keep_best max_skipped_batches "
    "max_rollbacks rollback_lr_factor rank_timeout_s use_activation_checkpointing max_lost_share".split()
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
        raise CheckpointError(f"{path} cannot be read: {error}. Choose another --out") from error


def open_run(config: TrainConfig, out: Path, cuts: IndexedCuts) -> tuple[TrainConfig, Tokenizer]:
    """Configuration and vocabulary of a run: creates its folder, or checks that the existing one is of the same run."""
    path, old = out / CONFIG_FILE, stored_config(out)
    if old is not None:
        tokenizer = Tokenizer.load(out / "tokenizer")
        config = with_vocabulary(config, tokenizer)
        before, now = _flat(to_json(old)), _flat(to_json(config))
        changed = [
            f"{name} (was {before.get(name)}, now {now.get(name)})"
            for name in dict.fromkeys([*before, *now])
            if name not in _MAY_CHANGE and before.get(name) != now.get(name)
        ]
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings: {'; '.join(changed)}. Use the same settings to go on, "
                "or another --out"
            )
    else:
        tokenizer = first_tokenizer(config, cuts)
        config = with_vocabulary(config, tokenizer)
        tokenizer.save(out / "tokenizer")
    if config.finetune is not None:
        remember(config.finetune, out)
    _write_text(path, json.dumps(to_json(config), indent=1))
    return config, tokenizer


def first_tokenizer(config: TrainConfig, cuts: IndexedCuts) -> Tokenizer:
    """The vocabulary of a new run: that of the model to finetune, or learned from the texts of all its data."""
    kept = kept_tokenizer(config)
    if kept is not None:
        return kept
    return make_tokenizer(cuts, config.tokenizer, [read_cuts(Path(mix.data) / "train_cuts.jsonl.gz") for mix in config.mix])


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Context manager: create the folder `out` if missing, and lock it against other training processes (not on Windows).

    Incomplete checkpoints of a killed run are cleaned up.

    Raises:
        ConfigError: another process is training there.
        CheckpointError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK_FILE).open("a+", encoding="ascii")
    except OSError as error:
        raise CheckpointError(f"{out} must be a folder to write into, but: {error}") from error
    with file:
        if not _lock(file):
            raise ConfigError(f"another process is training in {out}; wait for it, stop it, or choose another --out")
        for folder in (out, out / "checkpoints", out / "best"):
            for sentence in checkpoint.clean_up(folder):
                logger.warning("%s", sentence)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file and write the process id into it; False if another process holds the lock.

    After a run is killed, its data reading processes hold the lock for some seconds, until they notice. This function
    therefore waits if the process that locked the file is dead.
    """
    try:
        import fcntl
    except ImportError:
        return True
    deadline = time.monotonic() + _ORPHANS_LIVE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            if _is_alive(file.read()) or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            return True


def _is_alive(pid: str) -> bool:
    """Whether a process with this id exists on this machine; True if it is not a number."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True


def check_same_data(data: TrainData, out: Path, config: TrainConfig) -> None:
    """Raise if the data of a resumed run has changed.

    With other utterances the position in the epoch would be meaningless, with other noise the run would differ, and on
    another dev set error rates would not be comparable. Parts that an earlier version did not record are recorded now.

    Raises:
        ConfigError: the training utterances, those mixed in, the noise or the dev set changed.
    """
    path = out / DATA_FILE
    now = _data_record(data, config)
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if before and before[0] != "3":
        _check_one_digest(before[0], data, out, config)
        before = []
    known = dict(line.split(" ", 1) for line in before[1:])
    for part, found in now.items():
        expected = known.get(part, "0 none") if known else found
        if expected != found:
            what, place = _part_of_data(part, config)
            (num_expected, digest), (num_found, other) = expected.split(), found.split()
            raise ConfigError(
                f"{out} holds a run with other {what} than {place} holds now: expected the {num_expected} that it began "
                f"with (SHA-256 {digest[:8]}), got {num_found} ({other[:8]}); prepare that data as it was to go on, or use "
                "another --out"
            )
    _write_text(path, "\n".join(["3", *(f"{part} {found}" for part, found in now.items()), ""]))


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


def _check_one_digest(before: str, data: TrainData, out: Path, config: TrainConfig) -> None:
    """Compare with the `DATA_FILE` of earlier versions: one digest of all training utterances."""
    now = f"2 {hashlib.sha256(data.identities.tobytes()).hexdigest()}"
    if before != now and (before.startswith("2 ") or before != _digest_of_texts(data)):
        folders = ", ".join([config.data, *(mix.data for mix in config.mix)])
        raise ConfigError(
            f"{out} holds a run on other utterances than those in {folders} now; prepare them as they were to go on, or use "
            "another --out"
        )


def _digest_of_texts(data: TrainData) -> str:
    """The digest that the first versions wrote."""
    digest = hashlib.sha256()
    for cut in data.train:
        digest.update(f"{cut.id} {cut.duration} {cut.supervisions[0].text}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    """Write a file unless it already has this content: of several ranks, only the first writes."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}; free some space or choose another --out") from error


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested JSON objects by dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def with_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """The configuration of a run with the vocabulary size of its tokenizer."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
