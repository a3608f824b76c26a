"""Owns the view of the server's connections: what the kernel and gRPC know of each.

grpc.aio says nothing of a connection before its first call. So connections are looked up among the
descriptors of this process, and the certificates of their peers in gRPC's own statistics, channelz
(gRFC A14), which know a connection from the end of its handshake on.
"""

import base64
import ctypes
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The same functions that the package grpcio-channelz builds on.
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it is not described

from authsvc.rpc.descriptors import descriptors, duplicate, peer_of

# The offset of `tcpi_bytes_received`, a 64-bit integer, in `struct tcp_info` (linux/tcp.h).
_RECEIVED_OFFSET = 128
_RECEIVED_SIZE = _RECEIVED_OFFSET + 8
# A `struct sockaddr` of the family AF_UNSPEC.
_NO_ADDRESS = bytes(16)
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Socket:
    """An open connection; `peer` is written as gRPC writes it.

    The file id tells it apart from others that have had, or will get, the same descriptor.
    """

    descriptor: int
    file_id: tuple[int, int]
    peer: str


class Sockets:
    """Finds the connections of the server that listens on `port`, measures and ends them."""

    def __init__(self, server_id: int, port: int) -> None:
        self._server_id = server_id
        self._port = port
        self._next_id = 0
        self._known: dict[int, tuple[tuple[int, int], Socket | None]] = {}

    @staticmethod
    def are_visible() -> bool:
        """Return whether the system shows a process its sockets, as Linux does."""
        return Path("/proc/self/fd").is_dir() and hasattr(socket, "TCP_INFO")

    def connections(self) -> list[Socket]:
        """Return all open connections, including those in their handshake."""
        known = {}
        for descriptor in descriptors():
            try:
                status = os.fstat(descriptor)
            except OSError:
                continue  # closed in the meantime
            file_id = (status.st_dev, status.st_ino)
            entry = self._known.get(descriptor)
            if entry is None or entry[0] != file_id:
                found = self._find(descriptor, file_id) if stat.S_ISSOCK(status.st_mode) else None
                entry = (file_id, found)
            known[descriptor] = entry
        self._known = known
        return [connection for _, connection in known.values() if connection is not None]

    def certificates(self) -> Iterator[tuple[str, bytes]]:
        """Yield peer and certificate of each connection whose handshake ended since last time."""
        while True:
            page = json.loads(cygrpc.channelz_get_server_sockets(self._server_id, self._next_id, 0))
            references = page.get("socketRef", ())
            for reference in references:
                number = int(reference["socketId"])
                self._next_id = number + 1
                try:
                    found = json.loads(cygrpc.channelz_get_socket(number))["socket"]
                except ValueError:
                    continue  # closed in the meantime
                certificate = found.get("security", {}).get("tls", {}).get("remoteCertificate", "")
                # The name is "chttp2 ipv4:192.0.2.1:443".
                yield reference["name"].rpartition(" ")[2], base64.b64decode(certificate)
            if page.get("end") or not references:
                return

    def received(self, connection: Socket) -> int:
        """Return how many bytes a connection has received, or 0 if it is closed."""
        with suppress(OSError), duplicate(connection.descriptor) as found:
            if _file_id(found) == connection.file_id:
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_SIZE)
                return int(struct.unpack_from("=Q", info, _RECEIVED_OFFSET)[0])
        return 0

    def end(self, connection: Socket) -> bool:
        """Reset a connection; return False if it is closed already.

        It is disconnected rather than shut down, as gRPC would still read what the kernel has
        received.
        """
        with suppress(OSError), duplicate(connection.descriptor) as found:
            if _file_id(found) == connection.file_id:
                return bool(_libc.connect(found.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)) == 0)
        return False

    def _find(self, descriptor: int, file_id: tuple[int, int]) -> Socket | None:
        with suppress(OSError), duplicate(descriptor) as found:
            if self._is_ours(found) and _file_id(found) == file_id:
                return Socket(descriptor, file_id, peer_of(found))
        return None  # it listens, is closed, or is not the server's

    def _is_ours(self, found: socket.socket) -> bool:
        name = found.getsockname()
        return isinstance(name, tuple) and name[1] == self._port


def newest_server_id() -> int:
    """Return the number that channelz gave to the server created last in this process."""
    newest = 0
    while True:
        page = json.loads(cygrpc.channelz_get_servers(newest + 1))
        for server in page.get("server", ()):
            newest = max(newest, int(server["ref"]["serverId"]))
        if page.get("end") or not page.get("server"):
            return newest


def _file_id(found: socket.socket) -> tuple[int, int]:
    status = os.fstat(found.fileno())
    return status.st_dev, status.st_ino
