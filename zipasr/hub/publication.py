"""Publishing a model on the hub: the files of a model folder or of an exported one, and its card, in one commit.

`collect` lists what is uploaded, and nothing else is: no state of a training, no recordings, no files that happen to lie in
the folder. The same commit deletes files of an earlier model that this one lacks, such as a calibration. The configuration
of a training is read for the card, but only settings that name no file of this machine.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from zipasr import onnx_runtime
from zipasr.checkpoint import CHECKSUMS, CheckpointFolder
from zipasr.errors import CheckpointError, ConfigError
from zipasr.hub.card import LIBRARY
from zipasr.hub.client import without_bars
from zipasr.hub.connection import TOKEN_HOST, Hub, import_client, open_api, open_hub
from zipasr.hub.description import ModelDescription, describe_folder
from zipasr.hub.origin import SOURCE_FILE
from zipasr.hub.reference import Reference
from zipasr.hub.refusals import explained, first_line, megabytes
from zipasr.lines import parse_json
from zipasr.model import CONFIG_FILE, WEIGHTS_FILE, resolve_model_folder
from zipasr.onnx_runtime.layout import EXPORT_FILE, ExportedConfig
from zipasr.progress import is_terminal, write_line
from zipasr.search.confidence import CALIBRATION_FILE
from zipasr.search.default_search import SEARCH_FILES
from zipasr.tokenizer import MODEL_FILE, TOKENS_FILE

CARD_FILE = "README.md"
_MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, MODEL_FILE, TOKENS_FILE)
_EXPORT_FILES = (EXPORT_FILE, MODEL_FILE, TOKENS_FILE, "bpe.vocab", "keywords.txt", "quantization.json")
_UNCHECKED_FILES = (*SEARCH_FILES, CALIBRATION_FILE)
"""Files of a model folder that may be written after its checksums."""
_SHOWN_SETTINGS = (
    "num_epochs",
    "max_batches",
    "lr",
    "lr_batches",
    "lr_epochs",
    "batch.max_duration_s",
    "batch.speed_factors",
    "batch.concat_prob",
    "accumulate_batches",
    "average_share",
    "precision",
    "seed",
)
"""Settings of a training that the card shows; none of them names a file."""


@dataclass(frozen=True)
class Publication:
    """What is uploaded."""

    folder: Path
    """The model folder or exported folder."""
    files: Mapping[str, Path | bytes]
    """Names in the repository -> path or content, without the card."""
    description: ModelDescription
    settings: Mapping[str, Any]
    """Settings of its training, for the card; empty if they are not known."""
    base_model: str = ""
    """OWNER/NAME of the model on the hub that it was converted from; empty if it was not."""
    readme: str = ""
    """The README of an exported folder, which says how other programs run it."""

    def sizes(self) -> dict[str, int]:
        """The size of every file in bytes."""
        return {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in self.files.items()}


def collect(folder: str | os.PathLike[str]) -> Publication:
    """The files of a model that are published: of a training run, of a model folder, or of an exported folder.

    Raises:
        CheckpointError: it is none of them, or a file is missing or damaged.
    """
    path = Path(folder) if onnx_runtime.is_exported(folder) else resolve_model_folder(folder)
    checked = CheckpointFolder(path)
    wanted: tuple[str, ...] = _MODEL_FILES
    if EXPORT_FILE in checked.names():
        wanted = (*_EXPORT_FILES, *checked.config(ExportedConfig, EXPORT_FILE).files.named().values())
    base_model = _base_model(checked)
    if base_model:
        wanted = (*wanted, SOURCE_FILE)
    sums = {name: checked.checksum(name) for name in checked.names() if name in wanted}
    unchecked = [name for name in _UNCHECKED_FILES if (path / name).is_file()]
    files: dict[str, Path | bytes] = {name: path / name for name in (*sums, *unchecked)}
    index = json.loads((path / CHECKSUMS).read_bytes())
    files[CHECKSUMS] = json.dumps({**index, "sha256": sums}, indent=1).encode()
    readme = checked.blob(CARD_FILE).decode() if CARD_FILE in checked.names() else ""
    return Publication(path, files, describe_folder(path), _settings(Path(folder)), base_model, readme)


class Published(NamedTuple):
    """A commit on the hub."""

    commit: str
    url: str


def publish(
    publication: Publication,
    card: str,
    repository: str,
    *,
    is_private: bool = False,
    replaces_card: bool = False,
    message: str = "Upload a model with zipasr",
) -> Published:
    """Upload files and card to OWNER/NAME in one commit; the repository is created where it is missing.

    Files of a model that was pushed there before and that this one lacks are deleted; their history stays on the hub.

    Args:
        publication: from `collect`.
        card: from `model_card`.
        repository: OWNER/NAME.
        is_private: whether it is created as private, and must be private if it exists.
        replaces_card: whether a card that zipasr did not write may be replaced.
        message: message of the commit.
    Raises:
        ConfigError: there is no token, the repository holds a card or a model that would be lost or mixed up, or it is
            public though it must be private.
        CheckpointError: the hub refuses or cannot be reached.
    """
    hub = _open_for_writing()
    api = open_api(hub)
    sizes = publication.sizes()
    with _explained(hub, repository), contextlib.nullcontext() if is_terminal() else without_bars():
        url = str(api.create_repo(repository, private=is_private or None, exist_ok=True))
        names = _check_repository(api, repository, publication, is_private=is_private, replaces_card=replaces_card)
        write_line(f"zipasr: uploading {len(sizes) + 1} files, {megabytes(sum(sizes.values()))}, to {url}")
        add, delete = import_client().CommitOperationAdd, import_client().CommitOperationDelete
        files = {CARD_FILE: card.encode(), **publication.files}
        operations = [add(name, content if isinstance(content, bytes) else str(content)) for name, content in files.items()]
        if outdated := _outdated(api, repository, names, publication):
            write_line(f"zipasr: deleting files of the model that was there, which this one lacks: {', '.join(outdated)}")
            operations += [delete(name) for name in outdated]
        done = api.create_commit(repository, operations, commit_message=message)
    return Published(str(done.oid), url)


def _open_for_writing() -> Hub:
    """The hub of the environment, with a token.

    Raises:
        ConfigError: no requests may be made, or there is no token to send.
    """
    hub = open_hub()
    if hub.is_offline:
        raise ConfigError("the hub must be reached to upload, but HF_HUB_OFFLINE is set; unset it, or use --dry-run")
    if hub.is_token_withheld:
        raise ConfigError(
            f"the token of this machine must be sent to {hub.host} to upload, but it is for huggingface.co; if it is right "
            f"there too, set {TOKEN_HOST}={hub.host}"
        )
    if not hub.token:
        raise ConfigError(
            f"uploading must have a token that may write, but this machine has none; create one on {hub.endpoint}/settings/"
            "tokens, and set HF_TOKEN or run: hf auth login"
        )
    return hub


@contextlib.contextmanager
def _explained(hub: Hub, repository: str) -> Iterator[None]:
    """Context manager: turn errors of the client into ours; refusals are about writing."""
    errors = import_client().errors
    with explained(hub, Reference(repository)):
        try:
            yield
        except errors.HfHubHTTPError as error:
            if getattr(error.response, "status_code", None) not in (401, 403):
                raise
            raise CheckpointError(
                f"{hub.host} must let you write to {repository}, but refuses: {first_line(error) or type(error).__name__}; "
                "check that the token of HF_TOKEN may write, and that the owner is you or an organization of yours"
            ) from error


def _check_repository(
    api: Any, repository: str, publication: Publication, *, is_private: bool, replaces_card: bool
) -> set[str]:
    """Check that nothing in the repository would be lost, mixed up, or seen by everybody, and return the names of its files.

    Raises:
        ConfigError: something would.
    """
    info = api.repo_info(repository)
    if is_private and not info.private:
        raise ConfigError(
            f"{repository} must be private, but it exists and is public; make it private in its settings, or choose "
            "another name"
        )
    names = {sibling.rfilename for sibling in info.siblings or ()}
    marks = {WEIGHTS_FILE: "a model folder", EXPORT_FILE: "an exported model"}
    for mark, kind in marks.items():
        if mark in names and mark not in publication.files:
            raise ConfigError(
                f"{repository} must hold one model, but already holds {kind}, which this is not; choose another name"
            )
    if CARD_FILE in names and not replaces_card and not _is_ours(api, repository):
        raise ConfigError(
            f"{repository} must have no model card, or one that zipasr wrote, but has another; --replace-card replaces it "
            "(its history stays on the hub)"
        )
    return names


def _outdated(api: Any, repository: str, names: set[str], publication: Publication) -> list[str]:
    """The files in a repository that a model of this kind may have and this one lacks: they would be taken for its own.

    Graphs count only if an earlier push listed them; others are of somebody else.
    """
    is_export = EXPORT_FILE in publication.files
    found = names & {*(_EXPORT_FILES if is_export else _MODEL_FILES), *_UNCHECKED_FILES, SOURCE_FILE}
    if is_export and CHECKSUMS in names:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a list that cannot be read lists nothing
            listed = set(parse_json(_content(api, repository, CHECKSUMS))["sha256"])
            found |= {name for name in names & listed if name.endswith(".onnx")}
    return sorted(found - set(publication.files))


def _content(api: Any, repository: str, name: str) -> bytes:
    """The content of a file of a repository."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(api.hf_hub_download(repository, name, local_dir=folder)).read_bytes()


def _is_ours(api: Any, repository: str) -> bool:
    """Whether zipasr wrote the card of a repository."""
    return f"library_name: {LIBRARY}" in _content(api, repository, CARD_FILE).decode(errors="replace").splitlines()


def _base_model(folder: CheckpointFolder) -> str:
    """The repository that a model was converted from; empty if it was not, or from local files."""
    if SOURCE_FILE not in folder.names():
        return ""
    document = folder.document(SOURCE_FILE)
    return str(document.get("repository") or "") if isinstance(document, dict) else ""


def _settings(run: Path) -> dict[str, Any]:
    """The settings of a training run that the card shows; empty if the folder is none."""
    try:
        config = parse_json((run / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict) or "num_epochs" not in config:
        return {}
    found = {}
    for name in _SHOWN_SETTINGS:
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, int | float | str | list) and value != []:
            found[name] = value
    return found
