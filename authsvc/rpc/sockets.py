"""Owns the view of the server's sockets: what the kernel and gRPC know of each connection.

grpc.aio says nothing of a connection until its first call. So the connections are found among the
descriptors of this process, and the certificates of their peers in gRPC's own statistics (channelz,
gRFC A14), which name the peer of each connection from the end of its handshake on.
"""

import base64
import ctypes
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from grpc._cython import cygrpc

_DESCRIPTORS = Path("/proc/self/fd")
# `tcpi_bytes_received` in `struct tcp_info` (linux/tcp.h), as a 64-bit integer.
_RECEIVED_OFFSET = 128
_RECEIVED_SIZE = _RECEIVED_OFFSET + 8
# `struct sockaddr` with the family AF_UNSPEC.
_NO_ADDRESS = bytes(16)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Socket:
    """An open connection; `peer` is spelled as `ServicerContext.peer()` spells it.

    The file id tells it from other files that had the same descriptor before, or get it later.
    """

    descriptor: int
    file_id: tuple[int, int]
    peer: str
    network: str


class Sockets:
    """Finds the connections of one server, reads how much they received, and ends them."""

    def __init__(self, server_id: int, port: int) -> None:
        self._server_id = server_id
        self._port = port
        self._next_id = 0
        self._known: dict[int, tuple[tuple[int, int], Socket | None]] = {}

    @staticmethod
    def are_visible() -> bool:
        """Return whether this system shows a process its own sockets: Linux does."""
        return _DESCRIPTORS.is_dir() and hasattr(socket, "TCP_INFO") and hasattr(os, "eventfd")

    def connections(self) -> list[Socket]:
        """Return all open connections, those in their handshake included."""
        found: dict[int, tuple[tuple[int, int], Socket | None]] = {}
        for name in os.listdir(_DESCRIPTORS):
            descriptor = int(name)
            try:
                status = os.fstat(descriptor)
            except OSError:
                continue  # closed in the meantime
            file_id = (status.st_dev, status.st_ino)
            known = self._known.get(descriptor)
            if known is None or known[0] != file_id:
                is_socket = stat.S_ISSOCK(status.st_mode)
                known = (file_id, self._look_at(descriptor, file_id) if is_socket else None)
            found[descriptor] = known
        self._known = found
        return [connection for _, connection in found.values() if connection]

    def listeners(self) -> Iterator[int]:
        """Yield the descriptors on which the server listens."""
        for descriptor in list(self._known):
            copy = _copy(descriptor)
            if copy is None:
                continue
            with copy:
                try:
                    listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    ours = copy.getsockname()[1] == self._port
                except (OSError, IndexError):
                    continue
            if listens and ours:
                yield descriptor

    def certificates(self) -> Iterator[tuple[str, bytes]]:
        """Yield peer and certificate of each connection whose handshake ended since last time."""
        while True:
            page = json.loads(
                cygrpc.channelz_get_server_sockets(self._server_id, self._next_id, 0)
            )
            references = page.get("socketRef", ())
            for reference in references:
                number = int(reference["socketId"])
                self._next_id = max(self._next_id, number + 1)
                try:
                    found = json.loads(cygrpc.channelz_get_socket(number))["socket"]
                except ValueError:
                    continue  # closed in the meantime
                tls = found.get("security", {}).get("tls", {})
                peer = str(reference["name"]).rpartition(" ")[2]
                yield peer, base64.b64decode(tls.get("remoteCertificate", ""))
            if not references or page.get("end"):
                return

    def received(self, connection: Socket) -> int:
        """Return how many bytes a connection has received so far; 0 if it is closed."""
        copy = _copy(connection.descriptor, connection.file_id)
        if copy is None:
            return 0
        with copy:
            try:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_SIZE)
            except OSError:
                return 0
        if len(info) < _RECEIVED_SIZE:
            return 0
        return int(struct.unpack_from("=Q", info, _RECEIVED_OFFSET)[0])

    def end(self, connection: Socket) -> bool:
        """Reset a connection; return False if it is closed already.

        The socket is disconnected, not shut down: gRPC would go on reading what the kernel has
        already received.
        """
        copy = _copy(connection.descriptor, connection.file_id)
        if copy is None:
            return False
        with copy:
            return bool(_libc.connect(copy.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)) == 0)

    def _look_at(self, descriptor: int, file_id: tuple[int, int]) -> Socket | None:
        copy = _copy(descriptor, file_id)
        if copy is None:
            return None
        with copy:
            try:
                if copy.family not in {socket.AF_INET, socket.AF_INET6}:
                    return None
                if copy.getsockname()[1] != self._port:
                    return None
                host, port = copy.getpeername()[:2]
            except OSError:
                return None  # it listens, or is closed
        address = ip_address(host.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.version == 4:
            peer, prefix = f"ipv4:{address}:{port}", 24
        else:
            peer, prefix = f"ipv6:%5B{address}%5D:{port}", 64
        network = str(ip_network((address, prefix), strict=False))
        return Socket(descriptor, file_id, peer, network)


def newest_server_id() -> int:
    """Return the id of the server that was created last in this process, as channelz counts."""
    newest = 0
    while True:
        page = json.loads(cygrpc.channelz_get_servers(newest + 1))
        servers = page.get("server", ())
        newest = max([newest, *(int(server["ref"]["serverId"]) for server in servers)])
        if not servers or page.get("end"):
            return newest


def _copy(descriptor: int, file_id: tuple[int, int] | None = None) -> socket.socket | None:
    """Return a descriptor's socket under a descriptor of its own, or None if it isn't this file.

    gRPC may close the descriptor at any time, and the next connection may get it: what is done to
    the copy can't reach another connection.
    """
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    status = os.fstat(copy)
    if not stat.S_ISSOCK(status.st_mode) or file_id not in {None, (status.st_dev, status.st_ino)}:
        os.close(copy)
        return None
    return socket.socket(fileno=copy)
