"""Refusals of requests and of WebSocket handshakes, in the form that OpenAI's clients expect."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from zipasr.serve.openai_api import error_body
from zipasr.serve.upload import linger


def failure_message(error: Exception) -> str:
    """What a client is told about an error that is a bug of ours."""
    return f"Internal server error: unexpected {type(error).__name__}; please report it."


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    is_unread: bool = True,
) -> None:
    """Answer a request or a handshake with an error in OpenAI's form.

    Args:
        scope, receive, send: as ASGI has them.
        status: HTTP status of the response.
        message: what is wrong and what to do, in a sentence.
        code: OpenAI's error code.
        headers: headers of the response, besides the usual ones.
        is_unread: whether the body is unread; it is then read first, for a limited time, since many clients read a response
            only after they have sent everything.
    """
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    elif is_unread and "expect" not in Headers(scope=scope):  # such a client waits for permission to send the body
        await linger(receive)
    body = error_body(message, code=code, status=status)
    await JSONResponse(body, status, {"connection": "close", **(headers or {})})(scope, receive, send)
