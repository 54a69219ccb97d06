"""Errors of the hub's client as ours, and ours with what they are about: what was expected, what came, and what to do."""

import contextlib
import errno
import shutil
from collections.abc import Iterator

from zipasr.errors import CheckpointError, ConfigError, ZipasrError
from zipasr.hub.connection import TOKEN_HOST, Hub, import_client, open_api
from zipasr.hub.reference import Reference


def megabytes(num_bytes: float) -> str:
    """A size as a person would say it."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def disk_is_full(hub: Hub, reference: Reference, num_bytes: int | None = None) -> CheckpointError:
    """The error for a disk without space for so many bytes."""
    needs = f"{reference} needs {megabytes(num_bytes)}" if num_bytes is not None else f"{reference} does not fit"
    free = megabytes(shutil.disk_usage(hub.cache).free)
    return CheckpointError(
        f"{needs}, but the disk of {hub.cache} is full ({free} are free); free some space, or choose another cache with "
        "HF_HOME"
    )


class UnreachableError(CheckpointError):
    """The hub cannot be reached, or does not answer as it should."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, which may be empty."""
    return next(iter(str(error).strip().splitlines()), "")


@contextlib.contextmanager
def explained(hub: Hub, reference: Reference, name: str = "") -> Iterator[None]:
    """Context manager: turn errors of the client into ours; `name` is that of the file that is fetched, if one is.

    Raises:
        UnreachableError: the hub cannot be reached.
        CheckpointError: access is refused, something does not exist, or the cache cannot be written.
    """
    try:
        yield
    except ZipasrError:
        raise
    except Exception as error:  # Differs: the client's errors have no other class in common
        ours = _refusal(hub, reference, name, error) or _network_error(hub, reference, name, error)
        if ours is None and isinstance(error, OSError):
            ours = _disk_error(hub, reference, error)
        if ours is None:
            raise
        raise ours from error


@contextlib.contextmanager
def errors_about(what: object) -> Iterator[None]:
    """Context manager: put a path or a reference before the messages of errors."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{what}: {error}") from error


@contextlib.contextmanager
def disk_explained(hub: Hub, reference: Reference) -> Iterator[None]:
    """Context manager: turn errors of the disk, while the cache is written, into ours.

    Raises:
        CheckpointError: the cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _disk_error(hub, reference, error) from error


def _refusal(hub: Hub, reference: Reference, name: str, error: Exception) -> CheckpointError | None:
    """Our error if the hub does not give what is asked for."""
    errors, page = import_client().errors, f"{hub.endpoint}/{reference.repository}"
    withheld = ""
    if hub.is_token_withheld:
        withheld = f" (that of this machine was not sent to {hub.host}; to send it there, set {TOKEN_HOST}={hub.host})"
    status = getattr(getattr(error, "response", None), "status_code", None)
    message = None
    if isinstance(error, errors.GatedRepoError):
        message = (
            f"{reference} must be open to you, but its owner has set conditions; accept them on {page}, then set HF_TOKEN "
            f"to a token of the same account{withheld}"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        message = (
            f"{reference} must be a model on {hub.host}, but {reference.repository} does not exist there, or is private; "
            f"check the name on {page}; for a private one, set HF_TOKEN to a token that may read it{withheld}"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        message = (
            f"the revision of {reference} must be a branch, a tag or a commit of the repository, but there is no "
            f"{reference.revision!r}{_known_revisions(hub, reference)}"
        )
    elif isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        message = f"{reference} must have the file {name}, but {hub.host} lacks it; choose another revision"
    elif isinstance(error, errors.HfHubHTTPError) and status in (401, 403):
        message = (
            f"{hub.host} must let you read {reference}, but refuses (status {status}); your token may have expired or lack "
            f"the permission: check HF_TOKEN, or unset it for public models{withheld}"
        )
    return CheckpointError(message) if message is not None else None


def _network_error(hub: Hub, reference: Reference, name: str, error: Exception) -> CheckpointError | None:
    """Our error if the hub cannot be reached."""
    reason = _reason(hub, error)
    if reason is None:
        return None
    what = f"the file {name} of {reference}" if name else f"{reference}"
    return UnreachableError(
        f"{what} must be fetched from {hub.host}, since the cache {hub.cache} does not have it, but {reason}; try again "
        "when the hub can be reached, or point HF_HOME to a cache that has the model",
        reason,
    )


def _reason(hub: Hub, error: BaseException) -> str | None:
    """Why the hub cannot be reached, or what is wrong with its answer; None: it is another error."""
    errors = import_client().errors
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError) and status is not None:
        return f"{hub.host} answers with status {status}{', too many requests' if status == 429 else ''}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE was set when huggingface_hub was imported"
    if isinstance(error, errors.LocalEntryNotFoundError):  # how the client reports an error of the network, its cause
        cause = _reason(hub, error.__cause__) if error.__cause__ is not None else None
        return cause or f"{hub.host} cannot be reached"
    if isinstance(error, errors.HTTPError):
        return f"{hub.host} cannot be reached ({first_line(error) or type(error).__name__})"
    if isinstance(error, OSError) and error.errno is None and "onsistency check failed" in str(error):
        return f"{hub.host} sent less than it promised"
    if isinstance(error, errors.FileMetadataError | ValueError | KeyError | TypeError):  # such as a login page
        return f"{hub.host} does not answer like a hub ({first_line(error) or type(error).__name__})"
    return None


def _disk_error(hub: Hub, reference: Reference, error: OSError) -> CheckpointError:
    """Our error if the cache cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_is_full(hub, reference)
    return CheckpointError(
        f"{reference} must be written into the cache, but {error.filename or hub.cache}: {error.strerror or error}; check "
        "the path and its permissions, or choose another cache with HF_HOME"
    )


def _known_revisions(hub: Hub, reference: Reference) -> str:
    """The end of a sentence about an unknown revision."""
    with contextlib.suppress(Exception):  # Differs: it only adds to an error
        refs = open_api(hub).list_repo_refs(reference.repository)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f"; it has {', '.join(names[:8])}{' and more' if len(names) > 8 else ''}"
    return "; see its branches and tags on its page"
