"""Free ports for servers that cannot choose one themselves, safe beside other tests."""

import contextlib
import secrets
import socket


def free_port() -> int:
    """A port that is free, and so are the next two.

    Drawn below 32768, where systems begin to hand out ports, so that nobody who asks for any port gets these meanwhile.
    """
    while True:
        port = 20_000 + 4 * secrets.randbelow(3_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for offset in range(3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port
