"""The checks that every request and WebSocket passes first: the API key, the origin, and the number of open requests.

An ASGI middleware around the application. It also counts responses, and keeps an error in one connection from affecting
others.
"""

import base64
import hmac
import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from zipasr.serve.limits import Admission, ServerBusy
from zipasr.serve.metrics import Metrics
from zipasr.serve.openai_api import error_body
from zipasr.serve.pages import PAGE_PATHS
from zipasr.serve.upload import linger

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
    """Counts open requests and WebSockets."""
    metrics: Metrics
    """Counts responses."""
    api_key: str | None
    """The key that clients must send; None: no key is needed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request or WebSocket on to the application, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        has_answered = False

        async def counted(message: Message) -> None:
            nonlocal has_answered
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                has_answered = True
                self.metrics.answers.labels(str(message.get("status", 101))).inc()
            await send(message)

        try:
            if not self._has_key(scope, headers):
                message = "A request must carry the API key of this server, but has none or a wrong one."
                await refuse(scope, receive, counted, 401, message)
            elif _changes_something(scope) and not _is_own_page(headers):
                await refuse(scope, receive, counted, 403, "Pages of other sites may not use this server.")
            elif scope["type"] == "http" and scope["path"] in _UNCOUNTED:
                await self.app(scope, receive, counted)
            else:
                await self._counted(scope, receive, counted)
        except (ClientDisconnected, WebSocketDisconnect):
            return  # before the response was sent
        except Exception as error:  # top level of a connection: other connections must not be affected
            _log.exception("error in a connection")
            if not has_answered:
                message = f"Internal server error: unexpected {type(error).__name__}; please report it."
                await refuse(scope, receive, counted, 500, message, is_unread=False)
            else:
                raise  # uvicorn closes the connection

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.admission.admitted():
                self.metrics.open.set(self.admission.num_open)
                await self.app(scope, receive, send)
        except ServerBusy as error:
            await refuse(scope, receive, send, 503, str(error), retry_after_s=error.retry_after_s)
        finally:
            self.metrics.open.set(self.admission.num_open)

    def _has_key(self, scope: Scope, headers: Headers) -> bool:
        if self.api_key is None or (scope["type"] == "http" and scope["path"] in _PUBLIC):
            return True
        kind, _, key = headers.get("authorization", "").partition(" ")
        found = [key.strip()] if kind.lower() == "bearer" else []
        for name in scope.get("subprotocols", ()):
            if name.startswith(KEY_SUBPROTOCOL):
                encoded = name.removeprefix(KEY_SUBPROTOCOL)
                try:
                    found.append(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())
                except ValueError:
                    continue
        return any(hmac.compare_digest(key.encode(), self.api_key.encode()) for key in found)


def _changes_something(scope: Scope) -> bool:
    """Whether a page of another site could do harm with the request, although the browser hides the response from it."""
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")


def _is_own_page(headers: Headers) -> bool:
    """Whether a request comes from our own page, or from a program, which sends no origin."""
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":  # the latter also works behind a proxy
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # not a URL
        return False


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str,
    *,
    retry_after_s: int | None = None,
    is_unread: bool = True,
) -> None:
    """Answer a request or a handshake with an error in OpenAI's form.

    Args:
        scope, receive, send: as ASGI has them.
        status: HTTP status of the response.
        message: what is wrong and what to do, in a sentence.
        retry_after_s: when the client may try again.
        is_unread: whether the body is unread; it is then read first, for a limited time, since many clients read a response
            only after they have sent everything.
    """
    headers = {"connection": "close"}
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    elif is_unread and "expect" not in Headers(scope=scope):  # such a client waits for permission to send the body
        await linger(receive)
    await JSONResponse(error_body(message, status=status), status, headers)(scope, receive, send)
