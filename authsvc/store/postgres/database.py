"""Owns the use of PostgreSQL: connections, transactions, and the meaning of their failures."""

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType

import asyncpg
import structlog

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable
from authsvc.measures import Histogram
from authsvc.store.postgres.connector import (
    FAILURES,
    Connection,
    Connector,
    NotWritableError,
    PoolConnection,
    probe,
)
from authsvc.store.postgres.pool import Pool, Usage
from authsvc.store.postgres.shares import Shares
from authsvc.store.postgres.timeouts import Timeouts
from authsvc.tracing import SPAN

__all__ = ["Connection", "Database"]

log = structlog.get_logger(__name__)

# The statement met another session than the one that it was prepared in.
_ELSEWHERE = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
# Failures that are not the statement's own; it may succeed later (SQLSTATE classes and codes).
_TRANSIENT = (
    OSError,  # includes TimeoutError
    asyncpg.PostgresConnectionError,  # 08
    asyncpg.InvalidAuthorizationSpecificationError,  # 28
    asyncpg.InvalidCatalogNameError,  # 3D000
    asyncpg.TransactionRollbackError,  # 40: deadlock, serialization
    asyncpg.InsufficientResourcesError,  # 53: disk full, too many connections
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.OperatorInterventionError,  # 57: shutdown, cancelled, starting up
    asyncpg.PostgresSystemError,  # 58: input or output failed
    asyncpg.ReadOnlySQLTransactionError,  # 25006: the primary has become a standby
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.InvalidCachedStatementError,  # a migration changed a table in between
    *_ELSEWHERE,
)
# The part of the connections that may be lent for one key: one in four.
_SHARE = 4
_READ_ONLY = (NotWritableError, asyncpg.ReadOnlySQLTransactionError)


class Database:
    """PostgreSQL through a pool of connections.

    Every failure that is not the statement's own is raised as StoreUnavailable: the server is
    unreachable, shuts down, is read-only or does not answer within `command_timeout`, somebody
    held a lock for longer than `lock_timeout`, no connection is free within `acquire_timeout`, or
    the server resolved a deadlock. A caller may then retry, but a transaction that failed while it
    committed may have been committed.

    Borrowers must leave no session state: no SET, LISTEN, temporary table or advisory lock.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shares = Shares(max(1, pool.maximum // _SHARE), pool.acquire_timeout)
        self._on_commit: Callable[[frozenset[str]], None] = _ring_nobody

    @classmethod
    async def open(cls, settings: DatabaseSettings) -> "Database":
        """Open `pool_min` connections, at least one; raises StoreUnavailable if that fails."""
        for note in settings.notes:
            log.warning("database_address", note=note)
        connector = Connector(
            address=settings.url.get_secret_value(),
            timeout=settings.connect_timeout.total_seconds(),
            command_timeout=settings.command_timeout.total_seconds(),
            statement_cache_size=settings.statement_cache_size,
            timeouts=Timeouts.of(settings),
        )
        pool = Pool(
            connector=connector,
            minimum=settings.pool_min,
            maximum=settings.pool_max,
            acquire_timeout=settings.acquire_timeout.total_seconds(),
        )
        try:
            await pool.fill()
        except BaseException:
            await pool.close()
            raise
        return cls(pool)

    def connection(self, key: Hashable = None) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection on which each statement is its own transaction.

        `key` is what a statement may have to wait for, such as an account whose row is locked. At
        most a quarter of the connections is lent for one key at a time, so that others stay free.
        """
        return self._lend(key)

    @asynccontextmanager
    async def transaction(self, key: Hashable = None) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction: committed at the end, rolled back on an exception.

        `key` is as for `connection`.
        """
        async with self._lend(key) as connection:
            await connection.execute(connection.begin)
            yield connection
            # After a failed statement, COMMIT is answered by ROLLBACK, which is not an error.
            if await connection.execute("COMMIT") != "COMMIT":
                raise RuntimeError("a failed statement was ignored within a transaction")

    def _lend(self, key: Hashable) -> "_Loan":
        return _Loan(pool=self._pool, shares=self._shares, key=key, on_commit=self._on_commit)

    async def ping(self) -> None:
        """Return if the database answers and is writable; raises StoreUnavailable otherwise."""
        async with self.connection() as connection:
            await probe(connection)

    async def connect(self) -> PoolConnection:
        """Return a new connection outside the pool, for long use; the caller closes it.

        Raises StoreUnavailable.
        """
        try:
            return await self._pool.connect()
        except (*FAILURES, ValueError) as error:
            raise StoreUnavailable from error

    def on_commit(self, callback: Callable[[frozenset[str]], None]) -> None:
        """Call `callback` with the channels to ring, after what rings them has been committed.

        It must not raise; it replaces the one before.
        """
        self._on_commit = callback

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the server is left; it must not raise.

        Whatever was read from that server may be stale.
        """
        self._pool.on_leave(callback)

    def leave_server(self, cause: str, connection: PoolConnection | None = None) -> None:
        """Discard all connections, lent ones when they are returned; `cause` is logged.

        For a server that is not what the address asks for: read-only, in recovery or replaced. The
        pool does it by itself when a statement or a new connection shows that. Does nothing if
        `connection` is given and its server has been left before.
        """
        if connection is None or self._pool.is_current(connection):
            self._pool.leave(cause)

    def usage(self) -> Usage:
        """Return the current usage of the pool."""
        return self._pool.usage()

    @property
    def maximum(self) -> int:
        """How many connections the pool may have."""
        return self._pool.maximum

    @property
    def waits(self) -> Histogram:
        """The times for which callers waited for a connection of the pool."""
        return self._pool.waits

    async def close(self) -> None:
        """Close the connections; callers that hold or request one get StoreUnavailable."""
        await self._pool.close()


class _Loan:
    """One loan of a connection; returns it in a usable state and translates failures."""

    __slots__ = ("_connection", "_key", "_on_commit", "_pool", "_shares")
    _connection: PoolConnection

    def __init__(
        self,
        *,
        pool: Pool,
        shares: Shares,
        key: Hashable,
        on_commit: Callable[[frozenset[str]], None],
    ) -> None:
        self._pool = pool
        self._shares = shares
        self._key = key
        self._on_commit = on_commit

    async def __aenter__(self) -> PoolConnection:
        if self._key is None:
            self._connection = await self._pool.acquire()
        else:
            await self._shares.enter(self._key)
            try:
                self._connection = await self._pool.acquire()
            except BaseException:
                self._shares.leave(self._key)
                raise
        if SPAN.get() is not None:
            self._connection.trace_statements(traced=True)
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._key is not None:
            self._shares.leave(self._key)
        connection, pool = self._connection, self._pool
        connection.revoked = None
        if connection.is_traced:
            connection.trace_statements(traced=False)
        if connection.rings:
            # After a failure too: whether the transaction was committed may be unknown.
            self._on_commit(connection.rings)
            connection.rings = frozenset()
        if connection.is_read_only() and (error is None or isinstance(error, Exception)):
            # Even if the statements succeeded: what they read may be stale.
            error = NotWritableError("the server is read-only")
        if error is None and not connection.is_closed() and not connection.is_in_transaction():
            pool.release(connection)
            return
        failed = _is_transient(error, connection)
        if isinstance(error, asyncpg.PostgresError):
            # It would log the whole row that violated a constraint, including hashes.
            error.detail = None
        self._give_back(error)
        if failed:
            log.warning("database_failure", error=type(error).__name__)
            raise StoreUnavailable from error

    def _give_back(self, error: BaseException | None) -> None:
        connection, pool = self._connection, self._pool
        if isinstance(error, _READ_ONLY):
            if pool.is_current(connection):
                pool.leave(str(error))
            pool.discard(connection)
        elif isinstance(error, _ELSEWHERE):
            if pool.is_current(connection):
                pool.distrust_names()
            pool.discard(connection)
        elif connection.is_closed():
            # The others go to the same server; new ones find the new primary.
            pool.discard(connection)
            pool.expire()
        else:
            pool.recover(connection)


def _ring_nobody(_channels: frozenset[str]) -> None:
    """Ring nobody: no doorbell has been installed."""


def _is_transient(error: BaseException | None, connection: PoolConnection) -> bool:
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return connection.is_closed()
    return isinstance(error, _TRANSIENT)
