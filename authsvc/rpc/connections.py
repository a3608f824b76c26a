"""Owns the bounds on connections: how many, how idle, and how much strangers may send.

gRPC bounds only the number of all connections together. And its bound on headers begins when the
peer has acknowledged the server's settings, which a hostile one never does: then, 1 MB of header
references costs 60 MB or more. So a thread watches the connections and resets those that break a
rule; the event loop is what such an attack keeps busy.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address, ip_network
from threading import Event, Thread
from time import monotonic, sleep
from typing import TypeAlias
from urllib.parse import unquote

import structlog

from authsvc.config import GrpcSettings
from authsvc.errors import CallerNotAllowed
from authsvc.measures import Counts
from authsvc.rpc.callers import Callers
from authsvc.rpc.sockets import Socket, Sockets

log = structlog.get_logger("authsvc.connections")

# What a caller without a role may send: enough for a handshake and fifty health checks a second.
_STRANGER_BURST = 65_536
_STRANGER_RATE = 16_384
# How long a stranger that sent more is refused.
_REFUSAL_SECONDS = 60.0
# How often all connections are listed without a handshake, and those of suspects are measured.
_LOOK_SECONDS = 1.0
_SUSPECT_SECONDS = 0.01
# The pause while a handshake is in progress, and after each look as a multiple of its time.
_PAUSE_SECONDS = 0.002
_PAUSE_FACTOR = 2
_LOG_SECONDS = 10.0
_MAX_LINES = 5
# Why connections are ended.
_REASONS = ("flood", "caller_limit", "no_call", "network_limit", "strangers_limit")


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


# Connections of strangers by their key, and those in their handshake by their address.
_Groups: TypeAlias = defaultdict[str, list[_Connection]]


class Connections:
    """Watches the connections of a server from `start` to `stop`, and ends those beyond bounds.

    `ended` counts those by reason.
    """

    def __init__(self, settings: GrpcSettings, callers: Callers) -> None:
        self._settings = settings
        self._callers = callers
        self._sockets: Sockets
        self._open: dict[tuple[int, int], _Connection] = {}
        self._by_peer: dict[str, _Connection] = {}
        self._handshakes = 0
        # Those of strangers that may not have acknowledged the server's settings.
        self._suspects: list[_Connection] = []
        # The peers of which a call was permitted; the event loop adds to it.
        self._permitted: set[str] = set()
        # The certificates of connections that were not found yet.
        self._unmatched: dict[str, bytes] = {}
        # Until when callers are refused that flooded the server.
        self._refused: dict[str, float] = {}
        self._not_logged: Counter[tuple[str, str]] = Counter()
        self._next_log = 0.0
        self._thread: Thread | None = None
        self._wake = Event()
        self._stopping = False
        self.ended = Counts(*((reason,) for reason in _REASONS))

    @property
    def open_count(self) -> int:
        """How many were open when they were last looked at."""
        return len(self._open)

    def start(self, server_id: int, port: int) -> None:
        """Start watching the server with this number in channelz, which listens on `port`."""
        if not Sockets.are_visible():
            log.warning("connections_not_watched")
            return
        self._sockets = Sockets(server_id, port)
        self._thread = Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; does nothing if it was never started."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def opened(self) -> None:
        """Note that a handshake has begun; any thread may call this."""
        self._wake.set()

    def permitted(self, peer: str) -> None:
        """Note that a call was permitted; health checks don't count."""
        self._permitted.add(peer)

    def _run(self) -> None:
        next_look = 0.0
        while not self._stopping:
            started = monotonic()
            complete = self._wake.is_set() or started >= next_look
            if complete:
                self._wake.clear()
                next_look = started + _LOOK_SECONDS
            try:
                self._look(started, complete=complete)
            except Exception:
                log.exception("connections_not_checked")
            sleep(max(_PAUSE_SECONDS, _PAUSE_FACTOR * (monotonic() - started)))
            if not self._handshakes:
                self._wake.wait(_SUSPECT_SECONDS if self._suspects else _LOOK_SECONDS)

    def _look(self, now: float, *, complete: bool) -> None:
        """End what is beyond the bounds; list the connections again only if `complete`."""
        if complete:
            self._list(now)
        if not self._match(complete=complete) and not complete:
            # One of them may have been given a role meanwhile.
            suspects = filter(self._is_stranger, self._suspects)
            self._end([found for found in suspects if self._is_flood(found, now)], "flood")
            return
        self._refused = {key: until for key, until in self._refused.items() if now < until}
        # Each is asked in its turn, about what those before it have left.
        for beyond in (self._beyond_bounds(now), self._beyond_networks(), self._beyond_strangers()):
            for connection, reason in list(beyond):
                self._end([connection], reason)
        self._write_log(now)
        # By then, gRPC has ended those that did not acknowledge its settings.
        trial_seconds = 2 * self._settings.handshake_timeout.total_seconds()
        self._suspects = [
            connection
            for connection in self._open.values()
            if self._is_stranger(connection) and now - connection.opened < trial_seconds
        ]
        self._handshakes = sum(not connection.key for connection in self._open.values())

    def _end(self, connections: Iterable[_Connection], reason: str) -> None:
        for connection in connections:
            if self._open.pop(connection.socket.file_id, None) is None:
                continue
            if self._sockets.end(connection.socket):
                self.ended.add(reason)
                self._not_logged[reason, connection.key or connection.network] += 1

    def _write_log(self, now: float) -> None:
        if self._not_logged and now >= self._next_log:
            self._next_log = now + _LOG_SECONDS
            for (reason, whose), count in self._not_logged.most_common(_MAX_LINES):
                log.warning("connections_ended", reason=reason, whose=whose, count=count)
            self._not_logged.clear()

    def _list(self, now: float) -> None:
        # A call that was permitted before the connections are listed is one of theirs, or over.
        permitted = self._permitted.copy()
        self._open = {
            found.file_id: self._open.get(found.file_id)
            or _Connection(found, now, _network(found.peer), measured=now)
            for found in self._sockets.connections()
        }
        self._by_peer = {found.socket.peer: found for found in self._open.values()}
        self._permitted -= permitted.difference(self._by_peer)

    def _match(self, *, complete: bool) -> bool:
        """Match certificates with connections; return whether there are any new ones."""
        fresh = dict(self._sockets.certificates())
        certificates = self._unmatched | fresh
        self._unmatched = {}
        for peer, certificate in certificates.items():
            connection = self._by_peer.get(peer)
            if connection is not None:
                connection.key, connection.identity = self._identify(certificate)
            elif peer in fresh or not complete:
                # It was accepted after the connections were listed.
                self._unmatched[peer] = certificate
        if self._unmatched:
            self._wake.set()
        return bool(certificates)

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
        waiting: set[str] = set()
        for connection in sorted(self._open.values(), key=lambda found: found.opened):
            key = connection.key
            stranger = self._is_stranger(connection)
            if stranger and self._is_flood(connection, now):
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
            if key and (stranger or crowded) and now - connection.opened > first_call_seconds:
                if key in waiting:
                    yield connection, "no_call"
                waiting.add(key)

    def _beyond_networks(self) -> Iterator[tuple[_Connection, str]]:
        """Yield newcomers to be ended: those of strangers, and those in their handshake."""
        networks: defaultdict[str, _Groups] = defaultdict(lambda: defaultdict(list))
        for connection in sorted(self._open.values(), key=lambda found: found.opened):
            key, peer = connection.key, connection.socket.peer
            if peer not in self._permitted and (not key or self._is_stranger(connection)):
                networks[connection.network][key or _host(peer)].append(connection)
        for groups in networks.values():
            for connection in _excess(groups, self._settings.max_new_connections_per_network):
                yield connection, "network_limit"

    def _beyond_strangers(self) -> Iterator[tuple[_Connection, str]]:
        """Yield connections of strangers to be ended, as all of these together are too many."""
        groups: _Groups = defaultdict(list)
        for connection in sorted(self._open.values(), key=lambda found: found.opened):
            if self._is_stranger(connection):
                groups[connection.key].append(connection)
        for connection in _excess(groups, self._settings.max_connections_of_strangers):
            yield connection, "strangers_limit"

    def _is_stranger(self, connection: _Connection) -> bool:
        return bool(connection.key) and not self._callers.has_role(connection.identity)

    def _is_flood(self, connection: _Connection, now: float) -> bool:
        """Return whether a stranger has sent too much over any connection within a minute."""
        received = self._sockets.received(connection.socket)
        allowed = (now - connection.measured) * _STRANGER_RATE
        sent = max(0, received - connection.received)
        connection.level = max(0.0, connection.level - allowed) + sent
        connection.received, connection.measured = received, now
        if connection.level > _STRANGER_BURST:
            self._refused[connection.key] = now + _REFUSAL_SECONDS
        return connection.key in self._refused


def _excess(groups: _Groups, limit: int) -> Iterator[_Connection]:
    """Yield what is beyond a limit, always one of whoever has most.

    Of strangers it is the newest. Of those in their handshake it is the oldest: anybody can open
    many and leave them so, while an honest handshake is soon over.
    """

    def rank(group: list[_Connection]) -> tuple[int, bool, float]:
        newest = group[-1]
        return len(group), not newest.key, newest.opened if newest.key else -newest.opened

    for _ in range(sum(map(len, groups.values())) - limit):
        largest = max(filter(None, groups.values()), key=rank)
        yield largest.pop(-1 if largest[0].key else 0)


def _host(peer: str) -> str:
    """Return the address of a peer, written as gRPC writes it."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").partition("%")[0]


def _network(peer: str) -> str:
    """Return the network of a peer: its /24, or /64 of IPv6."""
    address = ip_address(_host(peer))
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
