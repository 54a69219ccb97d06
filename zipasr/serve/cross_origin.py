"""Which pages may use the server, and the headers that tell browsers so (CORS). Headers in, headers out; no I/O."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from zipasr.errors import ConfigError
from zipasr.serve.addresses import parse_origin

_MAX_AGE_S = 600
_EXPOSED = "retry-after"
"""Headers of a response that scripts may read besides the usual ones."""
_PORTS = (":80", ":443")


class Origins:
    """The origins whose pages may use the server: its own, and those that are allowed."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Allow the pages of these origins, or, with `*`, of all."""
        self._allowed = frozenset(map(parse_origin, allowed))

    def may_use(self, headers: Headers) -> bool:
        """Whether a request comes from our own page, from an allowed one, or from a program, which sends no origin."""
        origin = headers.get("origin")
        return origin is None or _is_own(origin, headers) or self._is_allowed(origin)

    def answer_headers(self, headers: Headers) -> dict[str, str]:
        """Headers of the response to a request that let an allowed page read it."""
        origin = headers.get("origin")
        if not self._allowed:
            return {}
        if origin is None or not self._is_allowed(origin):
            return {"vary": "origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": _EXPOSED,
            "vary": "origin",
        }

    def preflight_headers(self, headers: Headers) -> dict[str, str]:
        """Headers of the response to an allowed page's question whether it may send a request.

        Any header may be sent: OpenAI's JavaScript client sends a dozen of its own, and none has a special meaning here.
        """
        asked = headers.get("access-control-request-headers")
        is_private = headers.get("access-control-request-private-network") == "true"
        return {
            "access-control-allow-methods": "GET, POST",
            "access-control-max-age": str(_MAX_AGE_S),
            **({"access-control-allow-headers": asked} if asked else {}),
            **({"access-control-allow-private-network": "true"} if is_private else {}),
        }

    def _is_allowed(self, origin: str) -> bool:
        try:
            return "*" in self._allowed or parse_origin(origin) in self._allowed
        except ConfigError:
            return False


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser asks if a page of another origin may send a request."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _is_own(origin: str, headers: Headers) -> bool:
    if headers.get("sec-fetch-site") == "same-origin":  # browsers send it to https and to their own machine
        return True
    try:
        asked = urlsplit(origin).netloc
    except ValueError:  # not a URL
        return False
    return bool(asked) and _without_port(asked) == _without_port(headers.get("host", ""))


def _without_port(host: str) -> str:
    """A host in lower case, without the port of http or https, which browsers leave out and some proxies add."""
    host = host.lower()
    return next((host.removesuffix(port) for port in _PORTS if host.endswith(port)), host)
