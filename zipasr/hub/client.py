"""The hub's client: which commit a reference means, what files it has, and fetching some of them into the cache.

huggingface_hub does the requests and keeps the cache, in its own format, which other programs share. Listings are kept for
work offline, in `models--OWNER--NAME/zipasr/` of the cache, into which `hub/local.py` also puts the models.
"""

import contextlib
import inspect
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from zipasr import __version__
from zipasr.errors import CheckpointError
from zipasr.hub.connection import Hub, import_client, open_api
from zipasr.hub.reference import Reference
from zipasr.hub.refusals import UnreachableError, disk_is_full, explained, megabytes
from zipasr.lines import parse_json, replacing
from zipasr.progress import Progress, is_terminal

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_SPARE_BYTES = 50_000_000
"""Free space to leave on the disk."""


def find_commit(hub: Hub, reference: Reference) -> tuple[str, Hub]:
    """The commit that a reference means now; where the hub cannot be reached, the one that it meant last.

    Returns:
        The commit, and the hub, offline if it could not be reached.
    Raises:
        CheckpointError: there is no such repository or revision, access is refused, or the hub cannot be reached and the
            cache does not know the revision.
    """
    if reference.is_pinned:
        return reference.revision, hub
    known = hub.folder(reference) / "refs" / reference.revision
    last = known.read_text(encoding="ascii").strip() if known.is_file() else None
    if hub.is_offline:
        if last is None:
            raise _not_in_cache(hub, reference, f"{hub.cache} does not have it")
        return last, hub
    try:
        with explained(hub, reference):
            commit = str(open_api(hub).repo_info(reference.repository, revision=reference.revision, timeout=_TIMEOUT_S).sha)
            _write_text(known, commit)
            return commit, hub
    except UnreachableError as error:
        if last is None:
            raise
        logger.warning("%s; using %s at commit %s from the cache", error.reason, reference, last[:12])
        return last, hub._replace(offline=error.reason)


def _not_in_cache(hub: Hub, reference: Reference, what: str) -> CheckpointError:
    return CheckpointError(
        f"{reference} must be in the cache, since {hub.offline}, but {what}; fetch it while online (zipasr pull {reference})"
        ", or point HF_HOME to a cache that has it"
    )


def list_files(hub: Hub, reference: Reference, commit: str) -> dict[str, int]:
    """The files of a repository at a commit, with their sizes in bytes; kept in the cache.

    Raises:
        CheckpointError: as for `find_commit`.
    """
    kept = hub.folder(reference) / "zipasr" / f"{commit}.listing.json"
    with contextlib.suppress(OSError, ValueError):
        return {str(name): int(size) for name, size in parse_json(kept.read_bytes()).items()}
    if hub.is_offline:
        raise _not_in_cache(hub, reference, f"{hub.folder(reference)} does not list its files")
    with explained(hub, reference):
        entries = open_api(hub).list_repo_tree(reference.repository, recursive=True, revision=commit)
        sizes = {entry.path: int(entry.size) for entry in entries if getattr(entry, "size", None) is not None}
        _write_text(kept, json.dumps(sizes, ensure_ascii=False, indent=1))
        return sizes


def fetch(hub: Hub, reference: Reference, commit: str, sizes: Mapping[str, int], *, max_bytes: float) -> dict[str, Path]:
    """Fetch files of a repository that are not in the cache yet, and return where all of them are, by name.

    Raises:
        CheckpointError: more than `max_bytes` would be fetched, the disk is full, a file is cut short, or as for
            `find_commit`.
    """
    paths = {name: path for name, size in sizes.items() if (path := _cached(hub, reference, commit, name, size)) is not None}
    missing = {name: size for name, size in sizes.items() if name not in paths}
    num_bytes = sum(missing.values())
    if not missing:
        return paths
    _check_download(hub, reference, missing, max_bytes)
    logger.info("fetching %d files of %s, %s, from %s", len(missing), reference, megabytes(num_bytes), hub.host)
    is_hidden = not is_terminal() and not logger.isEnabledFor(logging.INFO)
    with Progress(f"fetch {reference.repository}", unit="bytes", total=num_bytes, is_hidden=is_hidden) as progress:
        for i, (name, size) in enumerate(missing.items(), start=1):
            progress.note(f"{i}/{len(missing)} {name}")
            with explained(hub, reference, name):
                path = Path(_download(hub, reference, commit, name, progress))
                paths[name] = _checked(hub, reference, commit, name, size, path)
    return {name: paths[name] for name in sizes}


def _download(hub: Hub, reference: Reference, commit: str, name: str, progress: Progress, *, is_forced: bool = False) -> str:
    download: Callable[..., str] = import_client().hf_hub_download
    has_bar = "tqdm_class" in inspect.signature(download).parameters  # not in the first versions
    with without_bars(), _without_notes():
        return download(
            reference.repository,
            name,
            revision=commit,
            endpoint=hub.endpoint,
            cache_dir=hub.cache,
            token=hub.token,
            library_name="zipasr",
            library_version=__version__,
            force_download=is_forced,
            **({"tqdm_class": type("Bar", (_Bar,), {"progress": progress})} if has_bar else {}),
        )


class _Bar:
    """What the client takes for a tqdm bar: counts into ours, of which each download makes a subclass."""

    progress: Progress

    def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
        self.n, self.total, self.disable = initial, None, False

    def update(self, number: float | None = 1) -> None:
        """Count more bytes."""
        self.progress.update(number or 0)

    def update_transfer(self, number: float | None = 1) -> None:
        """Ignore bytes that are on their way; they are counted when they are written."""

    def set_postfix_str(self, *_: object, **__: object) -> None:
        """Ignore the speed."""

    set_description = set_description_str = set_transfer_postfix_str = refresh = close = set_postfix_str

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave our bar open."""


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Context manager: without the client's own bars."""
    utils = import_client().utils
    had_bars = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            utils.enable_progress_bars()


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Context manager: without the client's notes about what it does."""
    logging_of_client = import_client().utils.logging
    verbosity = logging_of_client.get_verbosity()
    logging_of_client.set_verbosity_error()
    try:
        yield
    finally:
        logging_of_client.set_verbosity(verbosity)


def _cached(hub: Hub, reference: Reference, commit: str, name: str, size: int) -> Path | None:
    """Where a file is in the cache, if it is there and whole."""
    path = hub.folder(reference) / "snapshots" / commit / name
    return path if path.is_file() and path.stat().st_size == size else None


def _checked(hub: Hub, reference: Reference, commit: str, name: str, size: int, path: Path) -> Path:
    """A file that was fetched, if it is what the listing says.

    Raises:
        CheckpointError: it has another size, or lies outside the cache.
    """
    if not path.resolve().is_relative_to(hub.cache.resolve()):
        raise CheckpointError(f"{path} must lie in the cache {hub.cache}, but leads out of it; delete it and try again")
    if path.stat().st_size != size:
        path = Path(_download(hub, reference, commit, name, Progress("fetch", unit="bytes", is_hidden=True), is_forced=True))
    if path.stat().st_size != size:
        raise CheckpointError(
            f"{name} of {reference} must have {size:,} bytes, but {path.stat().st_size:,} came; try again later, or tell "
            "its owner"
        )
    return path


def _check_download(hub: Hub, reference: Reference, sizes: Mapping[str, int], max_bytes: float) -> None:
    """Check that files may be fetched, are no surprise, and fit on the disk.

    Raises:
        CheckpointError: the client is offline, or they are too large.
    """
    if hub.is_offline:
        raise _not_in_cache(hub, reference, f"{hub.folder(reference)} lacks {', '.join(sizes)}")
    num_bytes = sum(sizes.values())
    if num_bytes > max_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        raise CheckpointError(
            f"{reference} must take at most {megabytes(max_bytes)}, but its files take {megabytes(num_bytes)}, of which "
            f"{largest} {megabytes(sizes[largest])}; if that is right: zipasr pull {reference} --max-gb "
            f"{int(num_bytes / 1e9) + 1}"
        )
    with explained(hub, reference):
        hub.cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(hub.cache).free < num_bytes + _SPARE_BYTES:
        raise disk_is_full(hub, reference, num_bytes)


def _write_text(path: Path, text: str) -> None:
    """Write a file of the cache, atomically, unless it says so already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
