"""Owns the ports of a developer's service: what the state folder says, and who has them.

`make run` runs this file as a script before anything is installed, so it needs only Python's own
library.
"""

import argparse
import errno
import os
import re
import socket
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEFAULTS = {"grpc": "127.0.0.1:8443", "http": "127.0.0.1:8081"}
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "127.0.0.1"}  # noqa: S104 - dialled, not bound
_LISTENING = "0A"


def addresses(folder: Path, given: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return where `grpc` and `http` listen: as given, or as the environment or the folder says."""
    in_file = _settings(folder / "config.toml")
    found = {}
    for name, default in DEFAULTS.items():
        section = in_file.get(name)
        stored = section.get("address") if isinstance(section, dict) else None
        chosen = (given or {}).get(name) or os.environ.get(f"AUTHSVC_{name.upper()}__ADDRESS")
        found[name] = chosen or (stored if isinstance(stored, str) else default)
    return found


def dialled(address: str) -> str:
    """Return the address under which a client on this machine reaches a listener."""
    host, colon, port = address.rpartition(":")
    return address if address.startswith("unix:") else f"{_EVERYWHERE.get(host, host)}{colon}{port}"


def free(address: str) -> str:
    """Return an address with a free port in place of port 0."""
    host, _, port = address.rpartition(":")
    if port != "0":
        return address
    with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
        probe.bind((host.strip("[]"), 0))
        return f"{host}:{probe.getsockname()[1]}"


def reserve() -> tuple[socket.socket, str]:
    """Return a socket that keeps a free port, and the address; it has to be closed.

    It does not listen, so a server that sets SO_REUSEADDR, as both of the service do, gets it.
    """
    holder = socket.socket(socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder, f"127.0.0.1:{holder.getsockname()[1]}"


def problems(listened: Mapping[str, str]) -> list[str]:
    """Return a line for each address that is taken: by whom, and what to do about it."""
    found = []
    if len(set(listened.values())) < len(listened) and not listened["grpc"].endswith(":0"):
        found.append("gRPC and HTTP need different addresses: choose another for one of them")
    for name, address in listened.items():
        host, _, port = address.rpartition(":")
        # What is no address, the service reports; port 0 is always free.
        is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65_536
        if address.startswith("unix:") or not is_port:
            continue
        if not _is_taken(host.strip("[]"), int(port)):
            continue
        other = f"{host}:{int(port) + 1000 if int(port) < 64_000 else 0}"
        found.append(
            f"{address} is taken{_owner(int(port))}; choose another with"
            f" `authsvc dev --{name} {other}` or `make run {name.upper()}={other}`"
        )
    return found


def _is_taken(host: str, port: int) -> bool:
    try:
        places = socket.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM)
        for family, kind, _, _, place in places[:1]:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                probe.listen()
    except OSError as error:
        # Anything else is for the service to report.
        return error.errno == errno.EADDRINUSE
    except UnicodeError:
        # No name of a host.
        return False
    return False


def _owner(port: int) -> str:
    """Return which process listens, in words, if this one may see it (on Linux)."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        try:
            names = set(map(_link, (process / "fd").iterdir()))
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, UnicodeDecodeError):
            continue
        if names & sockets:
            return f" by process {process.name} ({command[:80]})"
    return ""


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        # It has been closed meanwhile.
        return ""


def _inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _settings(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        # What is wrong with it, the service reports.
        return {}


def main() -> None:
    """Exit with a line for each address that is taken."""
    parser = argparse.ArgumentParser(description="Are the ports of `authsvc dev` free?")
    parser.add_argument("--state", type=Path, default=Path(".authsvc"))
    for name in DEFAULTS:
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    taken = problems(addresses(options.state, vars(options)))
    if taken:
        sys.exit("\n".join(f"error: {line}" for line in taken))


if __name__ == "__main__":
    main()
