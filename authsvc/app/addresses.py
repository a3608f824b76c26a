"""Owns the addresses that the service listens on."""

import errno
import socket
from pathlib import Path
from typing import Any

from authsvc.errors import ServerError

_UNIX = "unix:"
IN_USE = "it is already in use"
_CAUSES = {
    errno.EADDRINUSE: IN_USE,
    errno.EADDRNOTAVAIL: "it is not an address of this machine",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EAFNOSUPPORT: "this machine does not support such addresses",
}


def with_port(address: str, port: int) -> str:
    """Return a listen address with the actual port in place of port 0."""
    return f"{address[:-1]}{port}" if address.endswith(":0") else address


def unix_path(address: str) -> str | None:
    """Return the path of a unix socket's address, "unix:path" or "unix:///path", otherwise None."""
    return address.removeprefix(_UNIX) if address.startswith(_UNIX) else None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of "host:port", "[::1]:port" or ":port" (every interface).

    Raises:
        ServerError: The address has none of these forms.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ServerError(f'"{address}" is not a valid address; expected "host:port"')
    return host or "::", int(port)


def why_unusable(address: str) -> str | None:
    """Return why a server can't listen on an address, or None if it can.

    It is tried out, because gRPC does not say why.
    """
    cause = None
    try:
        for family, place in _places(address):
            try:
                _bind(family, place)
            except OSError as error:
                cause = _CAUSES.get(error.errno or 0) or error.strerror or str(error)
            else:
                return None
    except socket.gaierror as error:
        return f"the name can't be resolved: {error.strerror}"
    except UnicodeError:
        return "it is not a valid name"
    return cause


def _places(address: str) -> list[tuple[socket.AddressFamily, Any]]:
    if (path := unix_path(address)) is not None:
        return [(socket.AF_UNIX, path)]
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, place) for family, _, _, _, place in found]


def _bind(family: socket.AddressFamily, place: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
        if family == socket.AF_UNIX:
            Path(place).unlink()
        else:
            probe.listen()
