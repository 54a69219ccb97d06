"""A reference to a model on the hub -> an ordinary local folder that everything here opens: `local_model`.

The folder lies beside the download, in `models--OWNER--NAME/zipasr/COMMIT` of the hub's cache. It holds a model of ours, as
it was published or converted from a checkpoint of others, or published ONNX graphs. `source.json` says where it comes from.
The folder is there completely or not at all.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from zipasr.checkpoint import CHECKSUMS, clean_up, write_text
from zipasr.config import to_json
from zipasr.errors import CheckpointError, ConfigError
from zipasr.folder_swap import beside, replace_folder, require_name
from zipasr.hub.built_in import built_in_folder, is_built_in
from zipasr.hub.client import fetch, find_commit, list_files
from zipasr.hub.connection import Hub, import_client, open_hub
from zipasr.hub.conversion import MAX_CHECKPOINT_GB, convert, default_search
from zipasr.hub.layout import Layout, recognize
from zipasr.hub.model_table import known_settings
from zipasr.hub.origin import CONVERTER_VERSION, SOURCE_FILE, Origin, read_source, source_document
from zipasr.hub.reference import Reference, is_reference, parse_reference, refuse_page
from zipasr.hub.refusals import disk_explained, errors_about, megabytes
from zipasr.hub.settings import ModelSettings
from zipasr.lfs import HEAD_BYTES, refuse_pointer
from zipasr.lines import parse_json
from zipasr.lm.ngram_file import NGRAM_FILE
from zipasr.onnx_runtime.layout import Precision
from zipasr.search.default_search import SEARCH_FILE

logger = logging.getLogger(__name__)

MAX_GB = 5.0
"""Size up to which files are fetched unasked: more than any published model needs, less than some repositories hold."""


# Differs: eight parameters, since each is a choice of the caller that has a default.
def local_model(
    model: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    settings: ModelSettings | None = None,
    max_gb: float = MAX_GB,
    endpoint: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
) -> Path:
    """The local folder of a model: fetched, and converted if necessary, for `hf:OWNER/NAME`; that of the package for a
    model that comes with it; any other path is returned as it is.

    Where the hub cannot be reached, the commit that was fetched last is used.

    Args:
        model: a path, a name in `built_in_names`, or a reference `hf:OWNER/NAME[@REVISION][#SUBFOLDER]`.
        precision: that of ONNX graphs, where several are published.
        settings: what the caller knows of a checkpoint of others; it counts more than what its files say.
        max_gb: size up to which files are fetched.
        endpoint: address of the hub; None: HF_ENDPOINT, else https://huggingface.co.
        cache_dir: the cache; None: that of huggingface_hub, which HF_HOME and HF_HUB_CACHE choose.
        token: a token to send; True: the one of this machine (HF_TOKEN, or of `hf auth login`), to whatever endpoint;
            False: none; None: the one of this machine, if the endpoint is https://huggingface.co or the host in
            ZIPASR_TOKEN_HOST.
    Raises:
        ConfigError: the reference is malformed, a setting is missing or wrong, or huggingface_hub is not installed.
        CheckpointError: there is no such repository or revision, access is refused, it holds no model that can be used or
            several, its files are too large, or the hub cannot be reached and the cache does not have it.
    """
    if not is_reference(model):
        refuse_page(model)
        return built_in_folder(os.fspath(model)) if is_built_in(model) else Path(model)
    reference = parse_reference(model)
    if not max_gb > 0:
        raise ConfigError(f"the largest size to fetch must be above 0 GB, but is {max_gb:g}; leave it out for {MAX_GB:g}")
    hub = open_hub(endpoint=endpoint, cache_dir=cache_dir, token=token)
    commit, hub = find_commit(hub, reference)
    settings = settings or ModelSettings()
    folder = hub.folder(reference) / "zipasr" / _folder_name(commit, reference.subfolder, precision, settings)
    if not _is_current(folder, reference):
        sizes = list_files(hub, reference, commit)
        with errors_about(reference):
            layout = recognize(sizes, subfolder=reference.subfolder, precision=precision)
        paths = fetch(hub, reference, commit, {name: sizes[name] for name in layout.fetch}, max_bytes=max_gb * 1e9)
        _refuse_pointers(reference, layout, paths)
        with disk_explained(hub, reference), _locked(hub, folder):
            clean_up(folder.parent, name=folder.name)  # what a killed process left
            if not _is_current(folder, reference):  # another process may have been first
                with errors_about(reference):
                    _make(folder, reference._replace(revision=commit), layout, paths, settings, max_gb)
    _report(folder, reference, commit)
    return folder


def pinned(model: str | os.PathLike[str], *, like: str = "") -> str:
    """A reference with the commit that it means now, which always means the same files; a path as it is.

    Args:
        model: a path or a reference.
        like: a reference that was pinned before: its commit is taken if it is that of the same model.
    Raises:
        ConfigError: the reference is malformed, or huggingface_hub is not installed.
        CheckpointError: there is no such repository or revision, or the hub cannot be reached.
    """
    if not is_reference(model):
        refuse_page(model)
        return os.fspath(model)
    reference = parse_reference(model)
    earlier = parse_reference(like) if like else None
    if earlier is not None and not reference.is_pinned and earlier._replace(revision=reference.revision) == reference:
        return str(earlier)
    return str(reference._replace(revision=find_commit(open_hub(), reference)[0]))


def _report(folder: Path, reference: Reference, commit: str) -> None:
    """Say in one line what is used."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = megabytes(sum(path.stat().st_size for path in files))
    logger.info(
        "%s is commit %s: %s, %d files, %s, in %s", reference, commit, fetched_family(folder), len(files), size, folder
    )


def copy_model(folder: Path, out: str | os.PathLike[str]) -> Path:
    """Copy the folder of a model to a place of the user, and return that; an earlier copy there is replaced.

    Raises:
        ConfigError: `out` holds something else.
        CheckpointError: it cannot be written.
    """
    out = check_target(out)
    try:
        with _workplace(out.absolute()) as work:
            replace_folder(Path(shutil.copytree(folder, work / "copy")), out)
    except OSError as error:
        raise CheckpointError(
            f"{out} must be written, but: {error.strerror or error}; check the path, permissions and free space"
        ) from error
    return out


def check_target(out: str | os.PathLike[str]) -> Path:
    """Check that a folder can be written without losing anything but an earlier copy, and return it.

    Raises:
        ConfigError: it holds something else, or has no name.
    """
    out = Path(out)
    require_name(out)
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / SOURCE_FILE).is_file())):
        raise ConfigError(
            f"--out must be a new folder or one of an earlier pull, which is replaced, but {out} holds something else; "
            "choose another"
        )
    return out


def _folder_name(commit: str, subfolder: str, precision: Precision, settings: ModelSettings) -> str:
    """A name that all systems allow, different for whatever makes a different folder."""
    parts = [commit]
    if subfolder:
        plain = re.sub(r"[^a-z0-9_.]+", "-", subfolder)[:40].strip("-.")
        parts += [plain, *([] if plain == subfolder else [_digest(subfolder)])]
    parts += [precision] if precision != "float32" else []
    parts += [_digest(json.dumps(to_json(settings)))] if settings != ModelSettings() else []
    return "-".join(parts)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def fetched_family(folder: Path) -> str:
    """What a folder of `local_model` was made of; see `Layout.family`."""
    return str(read_source(folder).get("family", ""))


def _is_current(folder: Path, reference: Reference) -> bool:
    """Whether a folder is there, of this model, and was made as it would be made now."""
    source = read_source(folder)
    return source.get("subfolder") == reference.subfolder and source.get("converter") == CONVERTER_VERSION


def _make(
    folder: Path,
    reference: Reference,
    layout: Layout,
    paths: Mapping[str, Path],
    settings: ModelSettings,
    max_gb: float,
) -> None:
    """Write the folder of a model at a commit from its files, atomically."""
    origin, known = Origin(*reference), known_settings(str(reference))
    with _workplace(folder) as work:
        made = work / "made"
        if layout.checkpoint is not None:
            files, limit = work / "files", max(max_gb, MAX_CHECKPOINT_GB)
            _link(paths, files)
            with _explained_conversion(files, reference):
                convert(files, layout.checkpoint, made, settings=settings, known=known, max_gb=limit, origin=origin)
        else:
            start = f"{layout.folder}/" if layout.folder else ""
            inside = {name.removeprefix(start): path for name, path in paths.items()}
            _link(inside, made)
            document = source_document(made, sorted(inside.keys() - {SOURCE_FILE}), family=layout.family, origin=origin)
            _forget_checksum(made, SOURCE_FILE)
            write_text(made / SOURCE_FILE, json.dumps(document, indent=1, ensure_ascii=False))
            _write_search(made, layout, settings.over(known))
        _keep_own_files(folder, made)
        replace_folder(made, folder)


@contextlib.contextmanager
def _explained_conversion(files: Path, reference: Reference) -> Iterator[None]:
    """Context manager: name files as in the repository, and the command that takes settings which a file lacks."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        cure = f"; give settings to: zipasr convert {reference} --out DIR" if isinstance(error, ConfigError) else ""
        raise type(error)(str(error).replace(f"{files}/", "") + cure) from error


def _forget_checksum(folder: Path, name: str) -> None:
    """Take a file that is about to be replaced off the list of checksums of a folder of ours."""
    path = folder / CHECKSUMS
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged list is reported when it is opened
        index = parse_json(path.read_bytes())
        if index["sha256"].pop(name, None) is not None:
            # The file is a link into the cache; this puts another in its place.
            write_text(path, json.dumps(index, indent=1))


def _write_search(folder: Path, layout: Layout, settings: ModelSettings) -> None:
    """Write the search that the settings of graphs of others ask for."""
    if layout.graphs is None:
        return
    search = default_search(settings, has_transducer=layout.graphs.encoder is not None, has_attention=False)
    if search is not None:
        write_text(folder / SEARCH_FILE, search.to_json())


def _keep_own_files(old: Path, new: Path) -> None:
    """Copy what the user saved into an earlier folder, such as a calibration or an n-gram, into the one that replaces it."""
    for path in (*old.glob("*.json"), *old.glob(NGRAM_FILE)) if old.is_dir() else ():
        if not (new / path.name).exists():
            shutil.copy2(path, new / path.name)


def _link(paths: Mapping[str, Path], folder: Path) -> None:
    """Put files of the cache into a folder under their names, without symbolic links, and without copies where it can be."""
    for name, path in paths.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:  # a file system without hard links, or blobs on another one
            shutil.copyfile(path, target)


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Context manager: an empty folder beside another one, on the same disk; it is deleted, whatever is left in it."""
    work = beside(folder, "partial")
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _locked(hub: Hub, folder: Path) -> Iterator[None]:
    """Context manager: one process at a time makes a folder; others wait."""
    locks = hub.cache / ".locks" / folder.parent.parent.name
    locks.mkdir(parents=True, exist_ok=True)
    with import_client().utils.WeakFileLock(locks / f"zipasr-{folder.name}.lock"):
        yield


def _refuse_pointers(reference: Reference, layout: Layout, paths: Mapping[str, Path]) -> None:
    """Check that no file is only a pointer to one that was never uploaded.

    Raises:
        CheckpointError: one is, and the model needs it.
    """
    graphs = layout.graphs
    unneeded = graphs.vocabulary if graphs is not None and graphs.tokens is not None else None
    for name, path in paths.items():
        try:
            with path.open("rb") as file:
                refuse_pointer(file.read(HEAD_BYTES), path, CheckpointError)
        except CheckpointError as error:
            if name != unneeded:
                raise CheckpointError(
                    f"{reference} must have the file {name}, but has only a Git LFS pointer in its place; its owner must "
                    "upload the file itself, until then choose another revision or model"
                ) from error
