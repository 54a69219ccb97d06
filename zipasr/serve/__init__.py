"""The server: transcription of recordings and live audio over HTTP and WebSockets, and a web page to try it."""

from zipasr.serve.limits import ServeConfig
from zipasr.serve.server import Service, serve

__all__ = ["ServeConfig", "Service", "serve"]
