"""The folder of a run: opened for the first time or again, with the configuration and the vocabulary that it began with.

What a resumed run may change is listed here; everything else must be as it was, the data included, or its place in the
epoch would mean nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zipasr.config import from_json, to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.tokenizer import Tokenizer
from zipasr.train.config import TrainConfig
from zipasr.train.data import TrainData, make_tokenizer

CONFIG_FILE = "config.json"
DATA_FILE = "utterances.sha256"
LOCK_FILE = ".lock"
_MAY_CHANGE = frozenset(
    "num_epochs device num_workers log_interval valid_interval save_interval keep_checkpoints average_share "
    "batch.cache_mb".split()
)
"""Fields that a resumed run may set otherwise: none of them changes what a step does."""


def open_run(config: TrainConfig, out: Path, cuts: list[Any]) -> tuple[TrainConfig, Tokenizer]:
    """Begin a run folder, or check that the one that is there belongs to the same run; the vocabulary is fixed here."""
    path = out / CONFIG_FILE
    if path.is_file():
        try:
            old = from_json(TrainConfig, json.loads(path.read_text(encoding="utf-8")), where=str(path))
        except (json.JSONDecodeError, ConfigError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}. Choose another --out") from error
        tokenizer = Tokenizer.load(out / "tokenizer")
        config = _with_vocabulary(config, tokenizer)
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
        tokenizer = make_tokenizer(cuts, config.tokenizer)
        config = _with_vocabulary(config, tokenizer)
        tokenizer.save(out / "tokenizer")
    _write_text(path, json.dumps(to_json(config), indent=1))
    return config, tokenizer


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder `out` if need be, and keep other processes from training in it meanwhile (not on Windows).

    Raises:
        ConfigError: another process is training there.
        CheckpointError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK_FILE).open("w")
    except OSError as error:
        raise CheckpointError(f"{out} must be a folder to write into, but: {error}") from error
    with file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is training in {out}; wait for it, stop it, or choose another --out"
            ) from error
        yield


def check_same_data(data: TrainData, out: Path, config: TrainConfig) -> None:
    """Refuse to go on with other utterances than the run began with: its place in the epoch would mean nothing."""
    digest = hashlib.sha256()
    for cut in data.train:
        digest.update(f"{cut.id} {cut.duration} {cut.supervisions[0].text}\n".encode())
    path = out / DATA_FILE
    if path.is_file() and path.read_text(encoding="utf-8") != digest.hexdigest():
        raise ConfigError(
            f"{out} holds a run on other utterances than those in {config.data} now; prepare them as they were to go "
            "on, or use another --out"
        )
    _write_text(path, digest.hexdigest())


def _write_text(path: Path, text: str) -> None:
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


def _with_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
