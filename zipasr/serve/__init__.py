"""The server: recordings and live sound over HTTP and WebSockets, and a page to try it with."""

from zipasr.serve.limits import ServeConfig
from zipasr.serve.server import Service, serve

__all__ = ["ServeConfig", "Service", "serve"]
