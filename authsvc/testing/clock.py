"""Owns the clock that tests move: the service's, and with it that of its database.

The service goes by the database's clock, in SQL too. So the session's own functions for the time
stand before PostgreSQL's in the search path of the test database, and add how far the clock was
moved. Only the holder of a `TestClock` can move it: no call of the service reaches it.
"""

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

# The path ends with pg_catalog, which is otherwise searched first; new tables are made in public.
_SHADOW = """
CREATE SCHEMA authsvc_testing;
CREATE TABLE authsvc_testing.clock (shift interval NOT NULL);
INSERT INTO authsvc_testing.clock VALUES ('0');
CREATE FUNCTION authsvc_testing.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT pg_catalog.now() + (SELECT shift FROM authsvc_testing.clock)';
CREATE FUNCTION authsvc_testing.transaction_timestamp() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT pg_catalog.now() + (SELECT shift FROM authsvc_testing.clock)';
CREATE FUNCTION authsvc_testing.statement_timestamp() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT pg_catalog.statement_timestamp() + (SELECT shift FROM authsvc_testing.clock)';
CREATE FUNCTION authsvc_testing.clock_timestamp() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE AS
    'SELECT pg_catalog.clock_timestamp() + (SELECT shift FROM authsvc_testing.clock)';
DO $$ BEGIN
    EXECUTE format(
        'ALTER DATABASE %I SET search_path TO public, authsvc_testing, pg_catalog',
        current_database());
END $$
"""
_MOVE = "UPDATE authsvc_testing.clock SET shift = $1"
# Counted by a time that is then in the future.
_FORGET_LIMITS = "DELETE FROM rate_limits"


class ShiftedClock:
    """The machine's clock, which the embedded database shares, moved on by `shift`."""

    def __init__(self) -> None:
        self.shift = timedelta()

    def now(self) -> datetime:
        """Return the moved time, in UTC."""
        return datetime.now(UTC) + self.shift


class TestClock:
    """The service's clock: it goes on by itself, and further when a test moves it."""

    __test__ = False  # pytest would take it for a class of tests

    def __init__(
        self,
        *,
        clock: ShiftedClock,
        dsn: str,
        run: Callable[[Coroutine[Any, Any, None]], None],
        on_move: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._dsn = dsn
        self._run = run
        self._on_move = on_move

    def now(self) -> datetime:
        """Return the service's time, in UTC."""
        return self._clock.now()

    def move(self, seconds: float) -> None:
        """Let `seconds` pass for the service and its database; return once both go by it.

        Work in the background keeps its pace: it notices when it looks next.

        Raises:
            RuntimeError: The database is gone.
        """
        if seconds < 0:
            raise ValueError("time does not go back: use reset()")
        self._run(self._set(self._clock.shift + timedelta(seconds=seconds), _MOVE))

    def reset(self) -> None:
        """Return to the real time. What the service counted for limits is forgotten, if it moved.

        The fixture does this after each test.
        """
        if self._clock.shift:
            self._run(self._set(timedelta(), _MOVE, _FORGET_LIMITS))

    async def _set(self, shift: timedelta, move: str, *more: str) -> None:
        try:
            connection = await asyncpg.connect(self._dsn)
        except OSError as error:
            raise RuntimeError("the clock can't be moved while the database is gone") from error
        try:
            async with connection.transaction():
                await connection.execute(move, shift)
                for statement in more:
                    await connection.execute(statement)
        finally:
            await connection.close()
        self._clock.shift = shift
        await self._on_move()


async def install(dsn: str) -> None:
    """Make later connections to this database go by a clock that can be moved."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_SHADOW)
    finally:
        await connection.close()
