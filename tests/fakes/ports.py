"""Ports for servers that are started by their command line, and so cannot be given an open socket."""

import secrets
import socket

#: Below what systems give to outgoing connections, so that a port stays its server's over a restart.
RANGE = range(10_000, 32_000)


def free_port() -> int:
    """Drawn at random: test processes that run at once hardly ever draw the same."""
    while True:
        port = secrets.choice(RANGE)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:  # the port is in use
            continue
