"""Free ports for servers that cannot choose one themselves, safe when tests run in parallel."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """A port that is free, like the next two.

    Drawn below 32768, where systems start assigning ports, so that no process that asks for any free port gets these in the
    meantime.
    """
    while True:
        port = 20_000 + 4 * secrets.randbelow(3_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for offset in range(3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port
