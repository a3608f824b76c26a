"""Owns the bounds on connections: how many, how idle, and how much strangers may send.

gRPC bounds only the sum of all connections, and its own defence against large headers begins when
the peer has acknowledged the server's settings, which a hostile one never does: 1 MB of header
references can cost 60 MB of memory. So a thread watches the connections and resets those that
break a rule. It is a thread because the event loop is what such an attack keeps busy, and it is
woken by the kernel: by a new connection, and by whatever arrives from one that is not yet trusted.
"""

import os
import select
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address, ip_network
from threading import Event, Thread
from time import monotonic
from urllib.parse import unquote

import structlog

from authsvc.config import GrpcSettings
from authsvc.errors import CallerNotAllowed
from authsvc.metrics import Metrics
from authsvc.rpc.callers import Callers
from authsvc.rpc.sockets import Socket, Sockets

log = structlog.get_logger("authsvc.connections")

# What a caller without a role may send: enough for a handshake and fifty health checks a second.
_STRANGER_BURST = 65_536
_STRANGER_RATE = 16_384
# How long a stranger that sent more is refused.
_REFUSAL_SECONDS = 60.0
# How often connections are looked at: always, and while a handshake is in progress.
_LAZY_SECONDS = 1.0
_BUSY_SECONDS = 0.02
# The pause after each look, at least, and as a multiple of the time that it took.
_PAUSE_SECONDS = 0.005
_PAUSE_FACTOR = 4
_LOG_SECONDS = 10.0
_MAX_LINES = 5


@dataclass(slots=True)
class _Connection:
    """A connection, whose `key` is empty until its handshake has ended.

    `level` is what it sent, less what it may send in the time that has passed.
    """

    socket: Socket
    opened: float
    network: str
    key: str = ""
    identity: str = ""
    received: int = 0
    measured: float = 0.0
    level: float = 0.0


class Connections:
    """Watches the connections of a server from `start` to `stop`, and ends those beyond bounds."""

    def __init__(self, settings: GrpcSettings, callers: Callers, metrics: Metrics) -> None:
        self._settings = settings
        self._callers = callers
        self._sockets: Sockets
        self._open: dict[tuple[int, int], _Connection] = {}
        # The peers of which a call was permitted; the event loop adds to it.
        self._permitted: set[str] = set()
        # The certificates of connections that were not found yet.
        self._unmatched: dict[str, bytes] = {}
        self._refused: dict[str, float] = {}
        self._watched: dict[int, tuple[int, int]] = {}
        self._not_logged: Counter[tuple[str, str]] = Counter()
        self._next_log = 0.0
        self._thread: Thread | None = None
        self._stopping = Event()
        self._ended = metrics.add_counter(
            "authsvc_connections_ended",
            "Connections that the service ended, by reason.",
            ("reason",),
        )
        metrics.add_gauge(
            "authsvc_connections_open", "Open connections.", lambda: float(len(self._open))
        )

    def start(self, server_id: int, port: int) -> None:
        """Start watching the server with this number in channelz, which listens on `port`."""
        if not Sockets.are_visible():
            log.warning("connections_not_watched")
            return
        self._sockets = Sockets(server_id, port)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; does nothing if it was never started."""
        if self._thread is None:
            return
        self._stopping.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._thread = None
        os.close(self._wake)

    def permitted(self, peer: str) -> None:
        """Note that a call was permitted; health checks don't count."""
        self._permitted.add(peer)

    def _run(self) -> None:
        with select.epoll() as events:
            events.register(self._wake, select.EPOLLIN)
            for listener in self._sockets.listeners():
                events.register(listener, select.EPOLLIN | select.EPOLLET)
            while not self._stopping.is_set():
                started = monotonic()
                try:
                    busy = self._look(started)
                    self._watch(events)
                except Exception:
                    log.exception("connections_not_checked")
                    busy = False
                pause = max(_PAUSE_SECONDS, _PAUSE_FACTOR * (monotonic() - started))
                self._stopping.wait(pause)
                events.poll(_BUSY_SECONDS if busy else _LAZY_SECONDS)

    def _look(self, now: float) -> bool:
        """End what is beyond the bounds; return whether any handshake is in progress."""
        self._find(now)
        self._refused = {key: until for key, until in self._refused.items() if now < until}
        for connection, reason in list(self._beyond_bounds(now)):
            if self._sockets.end(connection.socket):
                self._ended.labels(reason).inc()
                self._not_logged[reason, connection.key or connection.network] += 1
            self._open.pop(connection.socket.file_id, None)
        if self._not_logged and now >= self._next_log:
            self._next_log = now + _LOG_SECONDS
            self._write_log()
        return not all(connection.key for connection in self._open.values())

    def _find(self, now: float) -> None:
        # A call that was permitted before the connections are listed is one of theirs, or over.
        permitted = self._permitted.copy()
        found = {}
        for socket in self._sockets.connections():
            found[socket.file_id] = self._open.get(socket.file_id) or _Connection(
                socket, now, _network(socket.peer), measured=now
            )
        self._open = found
        by_peer = {connection.socket.peer: connection for connection in found.values()}
        self._permitted -= permitted.difference(by_peer)
        certificates = self._unmatched | dict(self._sockets.certificates())
        self._unmatched = {}
        for peer, certificate in certificates.items():
            connection = by_peer.get(peer)
            if connection is None:
                if peer not in self._unmatched:
                    self._unmatched[peer] = certificate
            else:
                connection.key, connection.identity = self._identify(certificate)

    def _identify(self, certificate: bytes) -> tuple[str, str]:
        try:
            found = self._callers.identify(certificate)
        except CallerNotAllowed:
            return sha256(certificate).hexdigest(), ""
        return found.key, found.caller.identity

    def _beyond_bounds(self, now: float) -> Iterator[tuple[_Connection, str]]:
        """Yield connections to be ended and why; of too many, the newest."""
        settings = self._settings
        first_call_seconds = settings.first_call_timeout.total_seconds()
        crowded = 2 * len(self._open) > settings.max_connections
        of_key: Counter[str] = Counter()
        of_network: Counter[str] = Counter()
        waiting: set[str] = set()
        for connection in sorted(self._open.values(), key=lambda found: found.opened):
            key = connection.key
            stranger = bool(key) and not self._callers.has_role(connection.identity)
            if stranger and (key in self._refused or self._floods(connection, now)):
                self._refused[key] = now + _REFUSAL_SECONDS
                yield connection, "flood"
                continue
            if key:
                of_key[key] += 1
                limit = (
                    settings.max_connections_per_stranger
                    if stranger
                    else settings.max_connections_per_caller
                )
                if of_key[key] > limit:
                    yield connection, "caller_limit"
                    continue
            if connection.socket.peer in self._permitted:
                continue
            of_network[connection.network] += 1
            if of_network[connection.network] > settings.max_new_connections_per_network:
                yield connection, "network_limit"
            elif key and (stranger or crowded) and now - connection.opened > first_call_seconds:
                if key in waiting:
                    yield connection, "no_call"
                waiting.add(key)

    def _floods(self, connection: _Connection, now: float) -> bool:
        received = self._sockets.received(connection.socket)
        allowed = (now - connection.measured) * _STRANGER_RATE
        sent = max(0, received - connection.received)
        connection.level = max(0.0, connection.level - allowed) + sent
        connection.received, connection.measured = received, now
        return connection.level > _STRANGER_BURST

    def _watch(self, events: select.epoll) -> None:
        """Be woken by what arrives over connections that are not trusted; not by the others."""
        wanted = {
            connection.socket.descriptor: connection.socket.file_id
            for connection in self._open.values()
            if not self._callers.has_role(connection.identity)
        }
        for descriptor, file_id in self._watched.items():
            if wanted.get(descriptor) != file_id:
                with suppress(OSError):  # it is closed
                    events.unregister(descriptor)
        for descriptor, file_id in wanted.items():
            if self._watched.get(descriptor) != file_id:
                with suppress(OSError):
                    events.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._watched = wanted

    def _write_log(self) -> None:
        for (reason, whose), count in self._not_logged.most_common(_MAX_LINES):
            log.warning("connections_ended", reason=reason, whose=whose, count=count)
        self._not_logged.clear()


def _network(peer: str) -> str:
    """Return the network of a peer, written as gRPC writes it: its /24, or /64 of IPv6."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]
    address = ip_address(host)
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
