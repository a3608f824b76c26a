"""Ports of a test's own, at which nobody listens."""

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def unheard() -> Iterator[socket.socket]:
    """A port that is kept from others; connections are refused until somebody listens on it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


def port_of(held: socket.socket) -> int:
    """Return the port of a socket."""
    return int(held.getsockname()[1])
