"""A reverse proxy for tests, as nginx is one: it serves a server below a path, and may change the Host header."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator

from tests.serve.running import Reachable

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def proxied(
    service: Reachable,
    *,
    prefix: str = "",
    host: str | None = None,
    max_bytes: int | None = None,
    is_abrupt: bool = False,
) -> Iterator[str]:
    """The URL of a page behind a proxy that runs during the block.

    Args:
        service: the server.
        prefix: the path below which it is served; requests for other paths get 404.
        host: the Host header that the server gets; None: that of the browser. With another one the header that says that a
            request comes from the same site is dropped too, as browsers send it only over https or to this machine.
        max_bytes: a larger request gets 413 with a page of HTML; None: no limit.
        is_abrupt: the connection of a request that is too large is broken instead.
    """

    def answer(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head, _, rest = _read_head(client)
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if max_bytes is not None and length and int(length[1]) > max_bytes:
                if is_abrupt:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                body = b"<html>413 Request Entity Too Large</html>"
                client.sendall(
                    b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                while client.recv(65536):
                    pass
                return
            method, path, version = head.split(b"\r\n")[0].split(b" ")
            if not path.startswith(prefix.encode() + b"/"):
                client.sendall(_NOT_FOUND)
                return
            lines = [b" ".join((method, path.removeprefix(prefix.encode()), version)), *head.split(b"\r\n")[1:]]
            if b"upgrade: websocket" not in head.lower():
                lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
            if host is not None:
                lines = [line for line in lines if not line.lower().startswith((b"host:", b"sec-fetch-site:"))]
                lines.append(b"Host: " + host.encode())
            with socket.create_connection(("127.0.0.1", service.port)) as server:
                server.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + rest)
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}/"


def _read_head(client: socket.socket) -> tuple[bytes, bytes, bytes]:
    read = b""
    while b"\r\n\r\n" not in read:
        received = client.recv(65536)
        if not received:
            raise OSError("the client disconnected")
        read += received
    return read.partition(b"\r\n\r\n")


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while received := source.recv(65536):
            target.sendall(received)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
