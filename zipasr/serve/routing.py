"""Routes that refuse with OpenAI's error objects: unknown paths with 404, wrong methods with 405, both with a hint."""

from collections.abc import Sequence
from typing import Any

from starlette.routing import BaseRoute, Match, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send

from zipasr.serve.proxy import route_path
from zipasr.serve.refusal import refuse

_SOCKET = "this path is for WebSockets; if the client sent one, a proxy must pass on the headers Upgrade and Connection"


class Endpoint(Route):
    """A route for some methods; others get 405 in OpenAI's form, where Starlette's routes send a text."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request to the path of this route."""
        assert self.methods is not None
        if scope["method"] in self.methods:
            await super().handle(scope, receive, send)
            return
        allowed = ", ".join(sorted(self.methods))
        message = f"The method of {route_path(scope)[:100]} must be {allowed}, but is {scope['method']}."
        await refuse(scope, receive, send, 405, message, code="method_not_supported", headers={"allow": allowed})


def router(routes: Sequence[BaseRoute]) -> Router:
    """The application that has these routes."""

    async def unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method", "WebSocket")
        hint = _hint(scope, routes)
        message = f"This server has no {method} {route_path(scope)[:100]}; {hint}."
        await refuse(scope, receive, send, 404, message, code="unknown_url")

    return Router(routes=routes, default=unknown_path)


def _hint(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """What a client that asks for an unknown path should do."""
    if scope["type"] == "websocket":
        paths = dict.fromkeys(route.path for route in routes if isinstance(route, WebSocketRoute))
        return f"its WebSockets are {', '.join(paths)}"
    as_socket: dict[str, Any] = {**scope, "type": "websocket"}
    if any(isinstance(route, WebSocketRoute) and route.matches(as_socket)[0] is Match.FULL for route in routes):
        return _SOCKET
    return f"OpenAI's API is at {scope.get('root_path', '')}/v1, and the base URL of a client must end with /v1, once"
