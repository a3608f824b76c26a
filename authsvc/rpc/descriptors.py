"""Owns the descriptors of the gRPC server's connections, which gRPC itself gives no access to."""

import os
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import quote

_OPEN = Path("/dev/fd")


def stop_listening(local: int | str) -> None:
    """Refuse new connections, and reset those that were not accepted yet.

    `local` is the port, or the path of the Unix socket.
    """

    def stop(found: socket.socket) -> None:
        if listens(found):
            found.shutdown(socket.SHUT_RDWR)

    _for_each(local, stop)


def half_close(local: int | str, keep: Collection[str] = ()) -> None:
    """Tell clients that nothing more will come, except over connections whose peer is in `keep`.

    Whatever was written before still arrives. A client ends such a connection, and each call that
    it has sent meanwhile as UNAVAILABLE.
    """

    def close(found: socket.socket) -> None:
        if not listens(found) and peer_of(found) not in keep:
            found.shutdown(socket.SHUT_WR)

    _for_each(local, close)


def is_connected(local: int | str) -> bool:
    """Return whether there are connections to `local`."""
    peers: list[str] = []

    def note(found: socket.socket) -> None:
        if not listens(found):
            peers.append(peer_of(found))

    _for_each(local, note)
    return bool(peers)


def listens(found: socket.socket) -> bool:
    """Return whether a socket accepts connections, rather than being one."""
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _for_each(local: int | str, act: Callable[[socket.socket], None]) -> None:
    """Act on all sockets bound to `local`, but those that are closed or reset meanwhile."""
    for number in descriptors():
        with suppress(OSError), duplicate(number) as found:
            name = found.getsockname()
            if local == (name[1] if isinstance(name, tuple) else name):
                act(found)


def descriptors() -> list[int]:
    """Return the numbers of all open files of this process; some may be closed in the meantime."""
    return [int(name) for name in os.listdir(_OPEN)]  # noqa: PTH208 - only the names


def duplicate(number: int) -> socket.socket:
    """Return a duplicate of a socket; OSError if it is none.

    It stays what it is, while the original may be closed and its number used again.
    """
    copy = os.dup(number)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
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
