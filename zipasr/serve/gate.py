"""What every request and WebSocket passes first: is there room, does it know the key, does it come from our own page.

An ASGI middleware around the application. It also counts answers, and keeps an error from ending more than its connection.
"""

import base64
import hmac
import json
import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.utils import ClientDisconnected

from zipasr.serve.limits import Admission, ServerBusy
from zipasr.serve.metrics import Metrics
from zipasr.serve.openai_api import error_body
from zipasr.serve.pages import PAGE_PATHS
from zipasr.serve.upload import linger

KEY_SUBPROTOCOL = "zipasr.key."
"""A browser cannot name a key in the header of a WebSocket: it offers this with the key in base64url as a subprotocol, and
`SUBPROTOCOL` beside it, which is what the server chooses."""
SUBPROTOCOL = "zipasr"
_PUBLIC = ("/health", *PAGE_PATHS)
"""Paths that need no key."""
_UNCOUNTED = ("/metrics", *_PUBLIC)
"""Paths that answer when the server is full too: its page can then say so."""
_log = logging.getLogger("zipasr.serve")


class Gate:
    """The middleware."""

    def __init__(self, app: ASGIApp, admission: Admission, metrics: Metrics, *, api_key: str | None) -> None:
        """Guard an application.

        Args:
            app: what is behind the gate.
            admission: counts what is open.
            metrics: counts answers.
            api_key: what clients must name; None: nothing.
        """
        self.app, self.admission, self.metrics, self.api_key = app, admission, metrics, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass or refuse it."""
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
                await refuse(scope, receive, counted, 401, "Expected the API key of this server, got none or another.")
            elif _changes_something(scope) and not _is_own_page(headers):
                await refuse(scope, receive, counted, 403, "Pages of other sites may not use this server.")
            elif scope["type"] == "http" and scope["path"] in _UNCOUNTED:
                await self.app(scope, receive, counted)
            else:
                await self._counted(scope, receive, counted)
        except (ClientDisconnected, WebSocketDisconnect):
            return  # before it had its answer
        except Exception as error:  # the top of a connection: no other may suffer
            _log.exception("error in a connection")
            if not has_answered:
                message = f"Something in the server went wrong: unexpected {type(error).__name__}; please report it."
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
    """Whether a page of another site could do harm with it though a browser keeps the answer from it."""
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")


def _is_own_page(headers: Headers) -> bool:
    """Whether it comes from our page, or from a program, which names no origin."""
    origin = headers.get("origin")
    if (
        origin is None or headers.get("sec-fetch-site") == "same-origin"
    ):  # the latter behind a proxy that changes the host too
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # no address at all
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
        status: of the HTTP answer.
        message: a sentence.
        retry_after_s: when to try again.
        is_unread: whether nothing has been received; a body is then read first, for a while, since many clients look for an
            answer only when they have sent all.
    """
    body = json.dumps(error_body(message, status=status), ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    elif is_unread and "expect" not in Headers(scope=scope):  # who expects leave to send a body waits for it
        await linger(receive)
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
