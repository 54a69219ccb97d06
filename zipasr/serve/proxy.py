"""What a proxy in front of the server changes, undone: an ASGI middleware that puts the host, the scheme and the path of a
request back to what the client asked for.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from zipasr.serve.addresses import parse_network

_SCHEMES = ("http", "https")


class BehindProxy:
    """ASGI middleware for a server that clients reach through a proxy, or directly."""

    def __init__(self, app: ASGIApp, *, root_path: str, trusted: Iterable[str]) -> None:
        """Wrap an application.

        Args:
            app: receives the requests as the clients made them.
            root_path: the path below which the proxy publishes the server; proxies may remove it from requests.
            trusted: addresses and networks of proxies; headers about the original request count only from them.
        """
        self.app, self.root_path = app, root_path
        self._networks = [parse_network(address) for address in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or WebSocket on to the application."""
        if scope["type"] in ("http", "websocket"):
            path: str = scope["path"]
            is_complete = path == self.root_path or path.startswith(f"{self.root_path}/")
            scope = {**scope, "root_path": self.root_path, "path": path if is_complete else self.root_path + path}
            if self._is_trusted(scope):
                scope |= _original(scope)
        await self.app(scope, receive, send)

    def _is_trusted(self, scope: Scope) -> bool:
        if None in self._networks:
            return True
        try:
            address = ipaddress.ip_address(scope["client"][0])
        except (TypeError, ValueError):  # no address, such as a Unix socket
            return False
        address = getattr(address, "ipv4_mapped", None) or address  # an IPv4 client of an IPv6 socket
        return any(network is not None and address in network for network in self._networks)


def route_path(scope: Scope) -> str:
    """The path of a request without the root path."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path or "/"


def _original(scope: Scope) -> dict[str, Any]:
    """The entries of a scope that differ from those that the client asked the proxy for."""
    headers, found = Headers(scope=scope), dict[str, Any]()
    host = headers.get("x-forwarded-host", "").split(",")[0].strip()  # further ones are of proxies on the way
    if host:
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        found["headers"] = [*others, (b"host", host.encode("latin-1"))]
    scheme = headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
    if scheme in _SCHEMES:
        found["scheme"] = scheme.replace("http", "ws") if scope["type"] == "websocket" else scheme
    return found
