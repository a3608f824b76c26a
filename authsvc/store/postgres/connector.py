"""Owns connecting to PostgreSQL: host after host, until one is writable."""

import asyncio
import itertools
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg

from authsvc import __version__
from authsvc.config.database_address import DatabaseAddress
from authsvc.conventions import DB_SUMMARY, DB_SYSTEM
from authsvc.models.revocations import RevocationCursor
from authsvc.store.postgres.summary import summary
from authsvc.store.postgres.timeouts import Timeouts
from authsvc.tracing import SpanKind, span

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# The errors of connecting and of a broken connection. asyncpg also reports misuse by the last two;
# on a connection that nobody else uses, they mean that the server has closed it.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# `authsvc upgrade check` reads each replica's version from it; that of 0.1.0 is just "authsvc".
APPLICATION_NAME = f"authsvc {__version__}"

_DEFAULT_TIMEOUT = 5.0

_PROBE = """
SELECT pg_is_in_recovery() AS in_recovery,
    current_setting('transaction_read_only')::boolean AS read_only,
    pg_backend_pid() AS process,
    current_setting('transaction_timeout', true) IS NOT NULL AS has_transaction_timeout
"""
# The first eight digits of the name of the current WAL file are the timeline.
_IDENTIFY = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline
"""
_SET = (
    "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)"
)


class NotWritableError(ConnectionError):
    """The server answers, but it is in recovery or read-only; the message says which."""


@dataclass(frozen=True, slots=True)
class Server:
    """Which server this is: `system` identifies it, and a promotion changes its timeline."""

    system: int
    timeline: str


class PoolConnection(Connection):
    """A connection to a server that was writable when it was opened, or to a pooler before it.

    A pooler may execute each statement in another session of the server. So without `is_direct`,
    statements have no name: each is sent together with its text and its parameters, in one message
    to the server, and nothing of it remains. A named statement belongs to one session; the names
    are random, so that they mean nothing in another one, even if a pooler was not recognised.

    `server` is None if the role may not ask for the server's identity. `begin` begins a
    transaction. `generation` belongs to the pool, and `rings` to `store/doorbell.py`: the channels
    to ring after the commit. `revoked` belongs to `store/revocations.py`: what names the
    revocations of the transaction.
    """

    is_direct = False
    begin = "BEGIN"
    server: Server | None = None
    generation = 0
    rings: frozenset[str] = frozenset()
    revoked: RevocationCursor | None = None
    _names: Iterator[str] | None = None
    is_traced = False

    def _get_unique_id(self, prefix: str) -> str:
        if not self.is_direct and prefix == "stmt":
            return ""
        if self._names is None:
            token = secrets.token_hex(8)
            self._names = (f"authsvc_{token}_{number}" for number in itertools.count())
        return next(self._names)

    async def _get_statement(self, *arguments: Any, **options: Any) -> Any:
        # asyncpg's base class keeps the description of a statement, by its text.
        statement = await super()._get_statement(  # type: ignore[misc] # the stubs leave it out
            *arguments, **options
        )
        if not statement.name:
            # Otherwise it would be executed without being sent again.
            statement.mark_unprepared()
        return statement

    def trace_statements(self, *, traced: bool) -> None:
        """Record the statements as parts of the current call from now on, or no more."""
        # asyncpg times statements only for listeners.
        (self.add_query_logger if traced else self.remove_query_logger)(_listen)
        self.is_traced = traced

    @contextmanager
    def _time_and_log(self, query: str, arguments: Any, timeout: Any) -> Iterator[None]:
        name = summary(query)
        # asyncpg's own tells the other listeners, if there are any.
        with (
            span(name, SpanKind.CLIENT, {DB_SYSTEM: "postgresql", DB_SUMMARY: name}),
            super()._time_and_log(query, arguments, timeout),  # type: ignore[misc] # the stubs leave it out
        ):
            yield

    def is_read_only(self) -> bool:
        """Return whether the server has said so by the end of the last statement.

        A server reports a change of its setting with the answer to the next statement. Poolers
        don't pass that on.
        """
        if self.is_closed():
            return False
        # asyncpg's type has the attributes of what was reported, and no others.
        reported: Any = self.get_settings()
        return "on" in (
            getattr(reported, "default_transaction_read_only", None),
            getattr(reported, "in_hot_standby", None),
        )


def _listen(_query: object) -> None:
    """Do nothing: `PoolConnection._time_and_log` records the statement itself."""


def as_pool_connection(connection: Connection) -> PoolConnection | None:
    """Return the connection if it is one that a `Connector` opened."""
    # For asyncpg, each of its connections is an instance of each of their classes.
    if PoolConnection in type(connection).__mro__:
        return cast("PoolConnection", connection)
    return None


def known_timeline(connection: Connection) -> str | None:
    """Return the timeline that the server had when the connection was opened, if it is known."""
    own = as_pool_connection(connection)
    return own.server.timeline if own and own.server else None


class Connector:
    """Connects to the first host of `address` that accepts and is writable.

    Raises ValueError if the address is malformed, which settings never contain.

    `timeout` is in seconds, for each host: asyncpg's own is for all of them together, so that a
    silent host would keep it from ever trying the next. The host that worked last is tried first.
    """

    def __init__(
        self,
        *,
        address: str,
        timeout: float = _DEFAULT_TIMEOUT,
        command_timeout: float | None = None,
        statement_cache_size: int = 0,
        timeouts: Timeouts | None = None,
    ) -> None:
        read = DatabaseAddress.parse(address)
        self._hosts = list(read.hosts)
        self._timeout = read.connect_timeout or timeout
        self._session = {"application_name": APPLICATION_NAME, **read.session}
        self._tls = ssl.create_default_context() if read.trusts_system else None
        self._command_timeout = command_timeout
        self._statement_cache_size = statement_cache_size
        self._timeouts = timeouts
        self._distrusts_names = not read.names_statements

    async def connect(self) -> PoolConnection:
        """Return a new connection.

        Raises the first host's failure, with a note of where that is: OSError (which includes
        TimeoutError and NotWritableError), asyncpg.PostgresError, asyncpg.InterfaceError or
        asyncpg.InternalClientError.
        """
        failure: Exception | None = None
        for host in tuple(self._hosts):
            try:
                connection = await self._connect(host)
            except FAILURES as error:
                error.add_note(place(host))
                failure = failure or error
                continue
            self._hosts.remove(host)
            self._hosts.insert(0, host)
            return connection
        raise failure or ValueError("the address names no host")

    def distrust_names(self) -> None:
        """Name no statements of later connections: there is a pooler that was not recognised."""
        self._distrusts_names = True

    async def _connect(self, host: str) -> PoolConnection:
        connection: PoolConnection = await asyncpg.connect(
            host,
            timeout=self._timeout,
            command_timeout=self._command_timeout,
            statement_cache_size=self._statement_cache_size,
            server_settings=self._session,
            ssl=self._tls,
            connection_class=PoolConnection,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _prepare(self, connection: PoolConnection) -> None:
        found = await probe(connection)
        # A pooler gives its clients an invented process id.
        same = found["process"] == connection.get_server_pid()
        connection.is_direct = same and not self._distrusts_names
        connection.server = await _identify(connection)
        if self._timeouts is None:
            return
        newer: bool = found["has_transaction_timeout"]
        if connection.is_direct:
            # What the address says goes first.
            settings = self._timeouts.session(whole_transaction=newer)
            own = [name for name in settings if name not in self._session]
            await connection.execute(_SET, own, [settings[name] for name in own])
        else:
            # What a session is told would hold for other clients, too.
            connection.begin = self._timeouts.begin(whole_transaction=newer)


def place(url: str) -> str:
    """Return the host and port, or the folder of the socket, of one of `DatabaseAddress.hosts`."""
    query = parse_qs(urlsplit(url).query)
    host, port = query.get("host", ["localhost"])[0], query.get("port", ["5432"])[0]
    return host if host.startswith("/") else f"{host}:{port}"


async def probe(connection: Connection) -> asyncpg.Record:
    """Return what the server says of itself; raises NotWritableError if it is not writable."""
    (row,) = await connection.fetch(_PROBE)
    if row["in_recovery"]:
        raise NotWritableError("the server is in recovery")
    if row["read_only"]:
        raise NotWritableError("the server is read-only")
    return row


async def _identify(connection: Connection) -> Server | None:
    try:
        row = await connection.fetchrow(_IDENTIFY)
    except asyncpg.PostgresError:
        # Some providers keep these functions to themselves.
        return None
    return None if row is None else Server(row["system"], row["timeline"])
