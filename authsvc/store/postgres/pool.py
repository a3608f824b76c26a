"""Owns the pool: its connections, the callers that wait for one, and discarding broken ones.

asyncpg's own pool spends a round trip, a task and two timers on each use, makes a cancelled caller
wait for the server, and connects within the time that a caller has for waiting. Here a connection
is acquired and released without a round trip; everything that may block (connecting, rolling back,
closing) happens in the pool's own tasks and is bounded in time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import asyncpg
import structlog

from authsvc.errors import StoreUnavailable
from authsvc.measures import Histogram
from authsvc.store.postgres.connector import (
    FAILURES,
    Connector,
    NotWritableError,
    PoolConnection,
    Server,
)
from authsvc.store.postgres.failures import describe

log = structlog.get_logger(__name__)

# Seconds that a connection may stay idle while there are more than the minimum.
_IDLE_LIMIT = 300.0
# Seconds that the server gets to confirm a cancelled statement, a rollback or a close.
_PATIENCE = 1.0
# The messages of other failures may quote the address with its password.
_QUOTABLE = (OSError, asyncpg.PostgresError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class Usage:
    """The numbers of connections, of free ones among them, and of waiting callers."""

    connections: int
    idle: int
    waiting: int


class Pool:
    """Up to `maximum` connections, each lent to one borrower at a time.

    Callers wait up to `acquire_timeout` seconds, first come, first served; `waits` says for how
    long, in vain or not.
    """

    def __init__(
        self, *, connector: Connector, minimum: int, maximum: int, acquire_timeout: float
    ) -> None:
        self._connector = connector
        self._minimum = minimum
        self.maximum = maximum
        self.acquire_timeout = acquire_timeout
        self._loop = asyncio.get_running_loop()
        # The most recently used connection is at the right and lent first, so that others can age.
        self._idle: deque[tuple[PoolConnection, float]] = deque()
        self._waiters: deque[asyncio.Future[PoolConnection]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[PoolConnection] = set()
        self._connecting = 0
        self._closed = False
        self._reachable = True
        self._failure: Exception | None = None
        # Connections of an earlier generation belong to a server that the pool has left.
        self._generation = 0
        self._server: Server | None = None
        self._on_leave: list[Callable[[], None]] = []
        self.waits = Histogram()

    async def connect(self) -> PoolConnection:
        """Return a new connection that is not the pool's, to the server that the pool uses.

        The caller closes it. Raises as `Connector.connect`.
        """
        generation = self._generation
        try:
            connection = await self._connector.connect()
        except NotWritableError as error:
            if self._connections:
                # They lead to the same server: the one that accepted last is asked first.
                self.leave(str(error))
            raise
        connection.generation = generation
        if self.is_current(connection):
            self._meet(connection)
        return connection

    async def fill(self) -> None:
        """Open the minimum of connections; raises StoreUnavailable if not even one opens."""
        missing = max(1, self._minimum) - len(self._connections)
        self._connecting += missing
        await asyncio.gather(*(self._add() for _ in range(missing)))
        if not self._idle:
            raise StoreUnavailable from self._failure

    async def acquire(self) -> PoolConnection:
        """Return a connection, to be returned by `release`, `recover` or `discard`.

        Raises StoreUnavailable if none can be opened or none becomes free in time.
        """
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                self.waits.record(0.0)
                return connection
            self.discard(connection)
        return await self._wait()

    def release(self, connection: PoolConnection) -> None:
        """Take back a connection that is ready for the next borrower."""
        if not self._is_usable(connection):
            self.discard(connection)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append((connection, self._loop.time()))
        self._let_go_of_oldest()

    def recover(self, connection: PoolConnection) -> None:
        """Take back a connection that may be in a transaction or cancelling; returns at once."""
        if not self._is_usable(connection):
            self.discard(connection)
        else:
            self._start(self._recover(connection))

    def discard(self, connection: PoolConnection) -> None:
        """Take back a connection that can't be used any more."""
        connection.terminate()
        self._connections.discard(connection)
        self._grow()

    def expire(self) -> None:
        """Discard the idle connections: their server is gone or has changed its role."""
        while self._idle:
            self.discard(self._idle.pop()[0])

    def on_leave(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the pool leaves a server; it must not raise."""
        self._on_leave.append(callback)

    def leave(self, cause: str) -> None:
        """Discard all connections, lent ones when they are returned: the server is the wrong one.

        `cause` is logged.
        """
        log.warning("database_server_left", cause=cause)
        self._generation += 1
        self.expire()
        for callback in self._on_leave:
            callback()

    def distrust_names(self) -> None:
        """Discard all connections, and name no statement of later ones."""
        self._connector.distrust_names()
        self.leave("a statement was prepared in another session: a pooler is in between")

    def is_current(self, connection: PoolConnection) -> bool:
        """Return whether the connection's server has not been left."""
        return connection.generation == self._generation

    def usage(self) -> Usage:
        """Return the current usage of the pool."""
        return Usage(len(self._connections), len(self._idle), len(self._waiters))

    async def close(self) -> None:
        """Close every connection, including lent ones; takes at most a second."""
        self._closed = True
        self._refuse()
        for task in self._tasks:
            task.cancel()
        farewells = [self._hang_up(connection) for connection, _ in self._idle]
        self._idle.clear()
        await asyncio.gather(*self._tasks, *farewells, return_exceptions=True)
        for connection in tuple(self._connections):
            self.discard(connection)

    async def _wait(self) -> PoolConnection:
        if self._closed:
            raise StoreUnavailable
        waiter: asyncio.Future[PoolConnection] = self._loop.create_future()
        self._waiters.append(waiter)
        began = self._loop.time()
        self._grow()
        timer = self._loop.call_later(self.acquire_timeout, self._give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise
        finally:
            timer.cancel()
            self.waits.record(self._loop.time() - began)

    def _give_up(self, waiter: asyncio.Future[PoolConnection]) -> None:
        if not waiter.done():
            self._waiters.remove(waiter)
            waiter.set_exception(StoreUnavailable("All connections to the database are busy."))

    def _refuse(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                refusal = StoreUnavailable()
                refusal.__cause__ = self._failure
                waiter.set_exception(refusal)

    def _grow(self) -> None:
        while (
            not self._closed
            and self._connecting < len(self._waiters)
            and len(self._connections) + self._connecting < self.maximum
        ):
            self._connecting += 1
            self._start(self._add())

    def _is_usable(self, connection: PoolConnection) -> bool:
        return not self._closed and not connection.is_closed() and self.is_current(connection)

    async def _add(self) -> None:
        try:
            connection = await self.connect()
        except Exception as error:  # noqa: BLE001 - whatever it was, waiting callers must be notified
            self._connecting -= 1
            self._say_unreachable(error)
            # While there are connections, one of them may still become free for waiting callers.
            if not self._connections:
                self._refuse()
            return
        self._connecting -= 1
        self._connections.add(connection)
        self._say_reachable()
        self.release(connection)

    def _meet(self, connection: PoolConnection) -> None:
        if connection.server is None:
            return
        before, self._server = self._server, connection.server
        if before is not None and before != connection.server:
            same = before.system == connection.server.system
            self.leave(f"the address leads to another {'timeline' if same else 'server'}")
            connection.generation = self._generation

    async def _recover(self, connection: PoolConnection) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                # asyncpg makes this wait for a cancel request in flight.
                await connection.execute("")
                if connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
        except BaseException as error:
            self.discard(connection)
            if not isinstance(error, Exception):
                raise
            self.expire()
        else:
            self.release(connection)

    def _let_go_of_oldest(self) -> None:
        connection, since = self._idle[0]
        if len(self._connections) > self._minimum and self._loop.time() - since > _IDLE_LIMIT:
            self._idle.popleft()
            self._start(self._hang_up(connection))

    async def _hang_up(self, connection: PoolConnection) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await connection.close()
        except FAILURES as error:
            log.debug("database_close_failed", error=type(error).__name__)
        finally:
            self.discard(connection)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say_unreachable(self, error: Exception) -> None:
        self._failure = error if isinstance(error, _QUOTABLE) else None
        if self._reachable:
            self._reachable = False
            log.error("database_unreachable", error=type(error).__name__, detail=describe(error))

    def _say_reachable(self) -> None:
        if not self._reachable:
            self._reachable = True
            log.info("database_reachable")
