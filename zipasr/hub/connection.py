"""Which hub is used, and how: `open_hub` reads the arguments and the environment, at each call.

huggingface_hub itself reads most of its environment when it is imported, and sends the token of a machine to any endpoint.
Here a token goes only to the hub that it is for, unless the user asks for more.
"""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from zipasr import __version__
from zipasr.errors import ConfigError
from zipasr.hub.reference import Reference

DEFAULT_ENDPOINT = "https://huggingface.co"
TOKEN_HOST = "ZIPASR_TOKEN_HOST"
"""Environment variable: a host besides the hub's own that may get the token."""
INSTALL = 'install what fetches models: pip install "zipasr[hub]"'
_OWN_HOSTS = ("huggingface.co", "hf.co")


class Hub(NamedTuple):
    """A hub, how it is reached, and the cache of what was fetched."""

    endpoint: str
    """Its address, without a slash at the end."""
    cache: Path
    """Folder of the cache, which all programs with huggingface_hub share."""
    token: str | bool
    """The token to send; False: none."""
    offline: str = ""
    """Why no requests may be made; empty if they may."""
    is_token_withheld: bool = False
    """Whether this machine has a token, which is not sent to this hub."""

    @property
    def is_offline(self) -> bool:
        """Whether no requests may be made."""
        return bool(self.offline)

    @property
    def host(self) -> str:
        """Name of the hub in messages: its host."""
        return urlsplit(self.endpoint).netloc or self.endpoint

    def folder(self, reference: Reference) -> Path:
        """The folder of a repository in the cache."""
        return self.cache / f"models--{reference.repository.replace('/', '--')}"


def open_hub(
    *, endpoint: str | None = None, cache_dir: str | os.PathLike[str] | None = None, token: str | bool | None = None
) -> Hub:
    """The hub of the arguments (see `local_model`) and, where they are None, of the environment.

    Raises:
        ConfigError: huggingface_hub is not installed, or the endpoint is no address.
    """
    client = import_client()
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    address = urlsplit(endpoint)
    if address.scheme not in ("https", "http") or not address.hostname:
        raise ConfigError(f"the endpoint of the hub must be like {DEFAULT_ENDPOINT}, but is {endpoint!r}; check HF_ENDPOINT")
    is_trusted = _is_trusted(endpoint)
    may_send = token is True or (token is None and is_trusted and not _is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
    found: str | bool | None = token if isinstance(token, str) else client.get_token() if may_send else None
    is_withheld = token is None and not is_trusted and bool(os.environ.get("HF_TOKEN"))
    cache = Path(cache_dir) if cache_dir is not None else _default_cache()
    offline = next((f"{name} is set" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_set(name)), "")
    return Hub(endpoint, cache.expanduser().absolute(), found or False, offline, is_withheld)


def import_client() -> ModuleType:
    """The module huggingface_hub.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ConfigError(f"models on the hub need huggingface_hub, but it is not installed; {INSTALL}") from error
    return huggingface_hub


def open_api(hub: Hub) -> Any:
    """The client's object for requests to a hub."""
    api = import_client().HfApi
    return api(endpoint=hub.endpoint, token=hub.token, library_name="zipasr", library_version=__version__)


def _default_cache() -> Path:
    """The folder of the cache by the rules of huggingface_hub, as the environment is now."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name]))
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(home)) / "hub"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def _is_trusted(endpoint: str) -> bool:
    """Whether a hub may get the token of this machine unasked: over TLS the hub's own host, or the host that is named."""
    address = urlsplit(endpoint)
    named = re.sub(r"^https?://", "", os.environ.get(TOKEN_HOST, "").strip().lower()).rstrip("/")
    is_own = address.scheme == "https" and address.hostname in _OWN_HOSTS and address.port in (None, 443)
    return is_own or (bool(named) and named in (address.netloc.lower(), (address.hostname or "").lower()))
