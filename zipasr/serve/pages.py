"""The files of the web page, and the headers that they are sent with."""

from collections.abc import Awaitable, Callable
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from zipasr.serve.routing import Endpoint

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/player.js": ("player.js", "text/javascript"),
    "/saving.js": ("saving.js", "text/javascript"),
    "/alternatives.js": ("alternatives.js", "text/javascript"),
    "/sending.js": ("sending.js", "text/javascript"),
    "/refusals.js": ("refusals.js", "text/javascript"),
    "/live.js": ("live.js", "text/javascript"),
    "/microphone.js": ("microphone.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PAGE_PATHS = tuple(_FILES)
"""The URL paths of the page's files."""
_HEADERS = {
    # `blob:` lets the page play the chosen file.
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; media-src blob:; object-src 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def page_routes() -> list[Endpoint]:
    """A route for each file of the page; the files are read once, now."""
    folder = resources.files("zipasr.serve") / "page"
    return [Endpoint(path, _file(folder.joinpath(name).read_bytes(), kind)) for path, (name, kind) in _FILES.items()]


def _file(content: bytes, content_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(content, headers={"content-type": f"{content_type}; charset=utf-8", **_HEADERS})

    return endpoint
