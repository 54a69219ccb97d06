"""Addresses in the settings of a server, checked and parsed: origins of pages, networks of proxies, the path below which a
proxy publishes the server. Strings in, strings and networks out.
"""

import ipaddress
import re
from importlib import resources

from zipasr.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_OWN_PATHS = ("v1", "health", "metrics", "online", "offline", "spot")
"""The first parts of the server's own paths, besides the files of its page."""
_PORTS = {"http": ":80", "https": ":443"}
"""The ports that browsers leave out of an origin."""


def parse_origin(origin: str) -> str:
    """An origin as browsers send it: in lower case, without the scheme's own port and without a slash at the end.

    Raises:
        ConfigError: it is not an origin.
    """
    if origin in ("*", "null"):
        return origin
    found = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([a-z0-9._~-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?", origin.lower())
    if found is None:
        raise ConfigError(
            f"an allowed origin must be scheme://host or scheme://host:port, but is {origin!r}; leave out the path; "
            "* allows all sites"
        )
    scheme, host, port = found[1], found[2], found[3] or ""
    return f"{scheme}://{host}{'' if port == _PORTS.get(scheme) else port}"


def parse_network(address: str) -> Network | None:
    """The network of an address or network; None: `*`, everybody.

    Raises:
        ConfigError: it is neither.
    """
    if address == "*":
        return None
    try:
        return ipaddress.ip_network(address, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"the address of a proxy must be an IP address, a network such as 10.0.0.0/8, or *, but is {address!r}"
        ) from error


def check_root_path(path: str) -> None:
    """Check the path below which a proxy publishes the server.

    Raises:
        ConfigError: it is not a path, or the server itself has it.
    """
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ConfigError(f"the root path must be like /speech, with a slash at its start only, but is {path!r}")
    first = path.removeprefix("/").partition("/")[0]
    if first in _OWN_PATHS or (resources.files("zipasr.serve") / "page" / first).is_file():
        raise ConfigError(f"the root path must not be a path of the server itself, but is {path!r}; choose another")
