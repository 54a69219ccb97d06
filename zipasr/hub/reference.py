"""References to models on the hub: `hf:OWNER/NAME[@REVISION][#SUBFOLDER]`, as text and in parts."""

import os
import re
from pathlib import PurePath
from typing import NamedTuple

from zipasr.errors import ConfigError

PREFIX = "hf:"
FORM = "hf:OWNER/NAME[@REVISION][#SUBFOLDER]"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,96}")
_PAGE = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s?#@]+/[^/\s?#@]+)(.*)", re.IGNORECASE)
_PAGE_PATH = re.compile(r"/(?:tree|blob|resolve)/([^/\s?#]+)(?:/([^\s?#]+))?/?")
_NOT_IN_REVISIONS = re.compile(r"[\s~^:?*\[\]\\@#\x00-\x1f\x7f]|\.\.|//|^[/.-]|[/.]$")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Reference(NamedTuple):
    """A model on the hub."""

    repository: str
    """OWNER/NAME."""
    revision: str = "main"
    """A branch, a tag or a commit."""
    subfolder: str = ""
    """Folder of the model in the repository, with / between names; empty: its root."""

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{revision}{f'#{self.subfolder}' if self.subfolder else ''}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same files."""
        return _COMMIT.fullmatch(self.revision) is not None


def is_reference(model: str | os.PathLike[str]) -> bool:
    """Whether what names a model is a reference to the hub; a file or folder of that very name takes precedence."""
    return _text(model).startswith(PREFIX) and not os.path.lexists(model)


def parse_reference(model: str | os.PathLike[str]) -> Reference:
    """The parts of a reference.

    Raises:
        ConfigError: it is not of the form `hf:OWNER/NAME[@REVISION][#SUBFOLDER]`.
    """
    text = _text(model)
    if not text.startswith(PREFIX):
        raise ConfigError(f"a reference must be of the form {FORM}, but is {text!r}{_suggestion(text)}")
    rest, has_subfolder, subfolder = text.removeprefix(PREFIX).partition("#")
    repository, has_revision, revision = rest.partition("@")
    return Reference(
        _repository(repository.removeprefix("//"), text),
        _revision(revision, text) if has_revision else "main",
        _subfolder(subfolder, text) if has_subfolder else "",
    )


def model_name(model: str | os.PathLike[str]) -> str:
    """The name of a model for people: that of its repository, or of its folder."""
    if is_reference(model):
        return parse_reference(model).repository.partition("/")[2]
    return os.path.basename(os.path.realpath(model))


def refuse_page(model: str | os.PathLike[str]) -> None:
    """Raise ConfigError with the right reference if what names a model is the address of its page on the hub."""
    text = os.fspath(model)
    if _PAGE.fullmatch(text) and not os.path.lexists(text):
        raise ConfigError(f"a model must be a folder or {FORM}, but is {text!r}{_suggestion(text)}")


def _text(model: str | os.PathLike[str]) -> str:
    """The text of a reference; a `Path` has lost one of the slashes of hf://."""
    text = os.fspath(model)
    if isinstance(model, PurePath):
        text = re.sub(r"^hf:/(?!/)", f"{PREFIX}//", text.replace(os.sep, "/"))
    return text


def _suggestion(text: str) -> str:
    page = _PAGE.fullmatch(text)
    if page is None:
        return f"; write it like hf:{text}" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""
    place = _PAGE_PATH.fullmatch(page[2])
    revision, subfolder = place.groups() if place is not None else (None, None)
    return f"; use {Reference(page[1], revision or 'main', (subfolder or '').rstrip('/'))}"


def _repository(name: str, text: str) -> str:
    parts = name.split("/")
    is_valid = len(parts) == 2 and len(name) <= 96 and all(_is_valid_name(part) for part in parts)
    if is_valid and not name.endswith(".git"):
        return name
    if "\\" in name:
        cure = f"write folders of this machine as ./{text} or with their drive"
    elif len(parts) > 2:
        cure = f"a folder in the repository comes after #: {PREFIX}{'/'.join(parts[:2])}#{'/'.join(parts[2:]).strip('/')}"
    elif len(parts) < 2:
        cure = f"name the owner too, as in {PREFIX}OWNER/{name or 'NAME'}; a folder of this name is ./{text}"
    else:
        cure = "names have letters, digits, `_`, `-` and `.`, with neither `--` nor `..`, and no `-` or `.` at their ends"
    raise ConfigError(f"the repository in {text!r} must be OWNER/NAME, but is {name!r}; {cure}")


def _is_valid_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not re.search(r"--|\.\.|^[-.]|[-.]$", name)


def _revision(revision: str, text: str) -> str:
    if not revision or _NOT_IN_REVISIONS.search(revision):
        raise ConfigError(
            f"the revision in {text!r} must be a branch, a tag or a commit, but is {revision!r}; write it after @, or leave "
            "@ out for main"
        )
    return revision


def _subfolder(subfolder: str, text: str) -> str:
    names = subfolder.removesuffix("/").split("/")
    if any(name in ("", ".", "..") or re.search(r"[\\\x00-\x1f\x7f]", name) or name != name.strip() for name in names):
        raise ConfigError(
            f"the subfolder in {text!r} must be the path of a folder in the repository, such as exp_small, but is "
            f"{subfolder!r}; write it after # with / between names, without `..`, or leave # out"
        )
    return "/".join(names)
