"""Owns the descriptors of the gRPC server's connections, which gRPC itself gives no access to."""

import os
import socket
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import quote

_OPEN = Path("/dev/fd")


def half_close(local: int | str, keep: Collection[str] = ()) -> None:
    """Tell clients that nothing more will come, except over connections whose peer is in `keep`.

    `local` is the port, or the path of the Unix socket, at which they were accepted. Whatever was
    written before still arrives. A client ends such a connection, and each call that it has sent
    meanwhile as UNAVAILABLE.
    """
    for entry in os.listdir(_OPEN):  # noqa: PTH208 - only the names
        with suppress(OSError), duplicate(int(entry)) as connection:
            name = connection.getsockname()
            if local != (name[1] if isinstance(name, tuple) else name):
                continue
            # It fails, as it should, for the socket that listens.
            if peer_of(connection) not in keep:
                connection.shutdown(socket.SHUT_WR)


def duplicate(number: int) -> socket.socket:
    """Return a duplicate of a socket; OSError if it is none.

    It stays what it is, while the original may be closed and its number used again.
    """
    duplicate = os.dup(number)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def peer_of(connection: socket.socket) -> str:
    """Return the peer of a connection as gRPC writes it."""
    peer = connection.getpeername()
    if not isinstance(peer, tuple):
        return "unix:"
    host, port = peer[:2]
    if connection.family == socket.AF_INET:
        return f"ipv4:{host}:{port}"
    mapped = IPv6Address(host.partition("%")[0]).ipv4_mapped
    if mapped is not None:
        return f"ipv4:{mapped}:{port}"
    return f"ipv6:{quote(f'[{host}]', safe=':')}:{port}"
