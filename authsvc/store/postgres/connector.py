"""Owns connecting to PostgreSQL: host after host, until one is writable."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# The errors of connecting and of a broken connection. asyncpg also reports misuse by the last two;
# on a connection that nobody else uses, they mean that the server has closed it.
FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_DEFAULT_TIMEOUT = 5.0

_IS_WRITABLE = """
SELECT pg_is_in_recovery() AS in_recovery,
    current_setting('transaction_read_only')::boolean AS read_only
"""
# The first eight digits of the name of the current WAL file are the timeline.
_IDENTIFY = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline
"""


class NotWritableError(ConnectionError):
    """The server answers, but it is in recovery or read-only; the message says which."""


@dataclass(frozen=True, slots=True)
class Server:
    """Which server this is: its system identifier, and the timeline that a promotion changes."""

    system: int
    timeline: str


class PoolConnection(Connection):
    """A connection to a server that was writable when it was opened.

    `server` is None if the role may not ask for the server's identity. `generation` belongs to the
    pool, and `rings` to `store/doorbell.py`: the channels to ring after the commit.
    """

    server: Server | None = None
    generation = 0
    rings: frozenset[str] = frozenset()

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
    ) -> None:
        self._hosts = _single_hosts(address)
        self._timeout = timeout
        self._command_timeout = command_timeout
        self._statement_cache_size = statement_cache_size

    async def connect(self) -> PoolConnection:
        """Return a new connection.

        Raises the first host's failure: OSError (which includes TimeoutError and NotWritableError),
        asyncpg.PostgresError, asyncpg.InternalClientError if no host has the target_session_attrs
        of the address, or ValueError if the address is malformed.
        """
        failure: Exception | None = None
        for host in tuple(self._hosts):
            try:
                connection = await self._connect(host)
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                failure = failure or error
                continue
            self._hosts.remove(host)
            self._hosts.insert(0, host)
            return connection
        raise failure or ValueError("the address names no host")

    async def _connect(self, host: str) -> PoolConnection:
        connection: PoolConnection = await asyncpg.connect(
            host,
            timeout=self._timeout,
            command_timeout=self._command_timeout,
            statement_cache_size=self._statement_cache_size,
            server_settings={"application_name": "authsvc"},
            connection_class=PoolConnection,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await check_writable(connection)
                connection.server = await _identify(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


async def check_writable(connection: Connection) -> None:
    """Raise NotWritableError if the server is in recovery or read-only."""
    row = await connection.fetchrow(_IS_WRITABLE)
    if row is None or row["in_recovery"]:
        raise NotWritableError("the server is in recovery")
    if row["read_only"]:
        raise NotWritableError("the server is read-only")


async def _identify(connection: Connection) -> Server | None:
    try:
        row = await connection.fetchrow(_IDENTIFY)
    except asyncpg.PostgresError:
        # Some providers keep these functions to themselves.
        return None
    return None if row is None else Server(row["system"], row["timeline"])


def _single_hosts(address: str) -> list[str]:
    try:
        parts = urlsplit(address)
    except ValueError:
        # asyncpg rejects it when it is used, like every other malformed address.
        return [address]
    login, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{login}{at}{host}").geturl() for host in hosts.split(",")]
