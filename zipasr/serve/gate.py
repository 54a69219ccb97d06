"""The checks that every request and WebSocket passes first: the API key, the origin, and the number of open requests.

An ASGI middleware around the application. It also counts responses, and keeps an error in one connection from affecting
others.
"""

import base64
import hmac
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from zipasr.serve.cross_origin import Origins, is_preflight
from zipasr.serve.limits import Admission, ServerBusy
from zipasr.serve.metrics import Metrics
from zipasr.serve.pages import PAGE_PATHS
from zipasr.serve.proxy import route_path
from zipasr.serve.refusal import failure_message, refuse

KEY_SUBPROTOCOL = "zipasr.key."
"""A browser cannot send a key in the headers of a WebSocket. Instead it offers this prefix with the key in base64url as a
subprotocol, together with `SUBPROTOCOL`, which the server selects."""
SUBPROTOCOL = "zipasr"
_PUBLIC = ("/health", *PAGE_PATHS)
"""Paths that need no key."""
_UNCOUNTED = ("/metrics", *_PUBLIC)
"""Paths that respond even when the server is full, so that the page can say so."""
_log = logging.getLogger("zipasr.serve")


@dataclass(eq=False)
class Gate:
    """ASGI middleware that checks every request and WebSocket before the application receives it."""

    app: ASGIApp
    """Receives what passes the checks."""
    admission: Admission
    metrics: Metrics
    api_key: str | None
    """The key that clients must send; None: no key is needed."""
    origins: Origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or WebSocket on to the application, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        extra_headers = self.origins.answer_headers(headers)
        has_answered = False

        async def counted(message: Message) -> None:
            nonlocal has_answered
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                has_answered = True
                self.metrics.answers.labels(str(message.get("status", 101))).inc()
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(extra_headers)
            await send(message)

        try:
            await self._check(scope, headers, receive, counted)
        except (ClientDisconnected, WebSocketDisconnect):
            return  # before the response was sent
        except Exception as error:  # top level of a connection: other connections must not be affected
            _log.exception("error in a connection")
            if not has_answered:
                await refuse(scope, receive, counted, 500, failure_message(error), is_unread=False)
            else:
                raise  # uvicorn closes the connection

    async def _check(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        may_use = self.origins.may_use(headers)
        if may_use and is_preflight(scope.get("method", ""), headers):  # a browser sends no key with it
            await Response(status_code=204, headers=self.origins.preflight_headers(headers))(scope, receive, send)
        elif not self._has_key(scope, headers):
            message = "A request must carry the API key of this server, but has none or a wrong one."
            await refuse(scope, receive, send, 401, message, headers={"www-authenticate": "Bearer"})
        elif _changes_something(scope) and not may_use:
            await refuse(scope, receive, send, 403, _foreign_page(headers), code="origin_not_allowed")
        elif scope["type"] == "http" and route_path(scope) in _UNCOUNTED:
            await self.app(scope, receive, send)
        else:
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.admission.admitted():
                self.metrics.open.set(self.admission.num_open)
                await self.app(scope, receive, send)
        except ServerBusy as error:
            await refuse(scope, receive, send, 503, str(error), headers={"retry-after": str(error.retry_after_s)})
        finally:
            self.metrics.open.set(self.admission.num_open)

    def _has_key(self, scope: Scope, headers: Headers) -> bool:
        if self.api_key is None or (scope["type"] == "http" and route_path(scope) in _PUBLIC):
            return True
        kind, _, key = headers.get("authorization", "").partition(" ")
        found = [key.strip()] if kind.lower() == "bearer" else []
        for name in scope.get("subprotocols", ()):
            if name.startswith(KEY_SUBPROTOCOL):
                encoded = name.removeprefix(KEY_SUBPROTOCOL)
                try:
                    found.append(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode().strip())
                except ValueError:
                    continue
        return any(hmac.compare_digest(key.encode(), self.api_key.encode()) for key in found)


def _changes_something(scope: Scope) -> bool:
    """Whether a page of another site could do harm with the request, although the browser hides the response from it."""
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")


def _foreign_page(headers: Headers) -> str:
    origin, host = headers.get("origin", "")[:100], headers.get("host", "")[:100]
    return (
        f"A page must be this server's own, or an allowed one, but this one is of {origin} and asks the host {host}. "
        "A proxy must pass on the header Host; for pages of other sites, the server needs --allow-origin."
    )
