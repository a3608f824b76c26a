"""Owns the turn-taking of migrators: one works, and reports its progress; the others wait.

The concurrent build of an index waits for the end of every transaction that has a snapshot, and a
session that waits for an advisory lock has one. So migrators try the lock again and again instead
of waiting for it. As poolers allow, it belongs to a transaction, on a connection of its own, which
has no snapshot once it has the lock.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.connector import FAILURES, Connector, PoolConnection
from authsvc.store.postgres.timeouts import NO_TRANSACTION_TIMEOUT

# Any fixed number that nobody else uses in the database: "authmig" in ASCII.
_LEASE = 0x617574686D6967
_TRY_LEASE = "SELECT pg_try_advisory_xact_lock($1)"
# A migrator that freezes loses its turn.
_LIMIT_SILENCE = f"""
SELECT set_config('idle_in_transaction_session_timeout', '5s', true), {NO_TRANSACTION_TIMEOUT}
"""
_PAUSE = 0.5
_REPORT_SECONDS = 5.0
# Needs no snapshot. Also ends the one of the statement before it, which the server keeps until the
# next statement without parameters.
_TOUCH = "SHOW lock_timeout"
_SELECT_PROGRESS = """
SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_done, lockers_total
FROM pg_stat_progress_create_index WHERE datname = current_database() LIMIT 1
"""

_Result = TypeVar("_Result")


class Lease:
    """Held by the one migrator that works on a database; entering waits for it.

    Raises what connecting raises, and StoreUnavailable in `guard` if the lease is lost.
    """

    def __init__(self, connector: Connector, say: Callable[[str], object]) -> None:
        self._connector = connector
        self._say = say
        self._connection: PoolConnection | None = None
        self._work: str | None = None
        self._detail = ""
        self._began = 0.0

    async def __aenter__(self) -> Self:
        connection = await self._connector.connect()
        try:
            waits = False
            while not await self._try(connection):
                if not waits:
                    self._say("Another migrator is at work; this one waits for its end.")
                waits = True
                await asyncio.sleep(_PAUSE)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            # Ends the transaction, and with it the lease.
            await self._connection.close()

    @staticmethod
    async def _try(connection: PoolConnection) -> bool:
        await connection.execute("BEGIN")
        await connection.execute(_LIMIT_SILENCE)
        if await connection.fetchval(_TRY_LEASE, _LEASE):
            await connection.execute(_TOUCH)
            return True
        await connection.execute("ROLLBACK")
        return False

    def working_on(self, work: str | None) -> None:
        """Set what the reports of progress speak of; None while there is nothing to report."""
        self._work, self._detail = work, ""
        self._began = asyncio.get_running_loop().time()

    def got_to(self, detail: str) -> None:
        """Set how far the work is, for the reports."""
        self._detail = detail

    async def guard(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return what `work` returns; it is cancelled when the lease is lost."""
        task, keeper = asyncio.ensure_future(work), asyncio.ensure_future(self._keep())
        try:
            await asyncio.wait({task, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            try:
                keeper.result()
            except FAILURES as error:
                raise StoreUnavailable from error
            raise AssertionError("the lease is kept until it is lost")
        finally:
            task.cancel()
            keeper.cancel()
            await asyncio.gather(task, keeper, return_exceptions=True)

    async def _keep(self) -> None:
        assert self._connection is not None  # noqa: S101 - entered, as `guard` requires
        loop = asyncio.get_running_loop()
        reported = loop.time()
        while True:
            await asyncio.sleep(min(_REPORT_SECONDS, 1.0))
            await self._connection.execute(_TOUCH)
            if self._work and loop.time() >= max(reported, self._began) + _REPORT_SECONDS:
                reported = loop.time()
                seconds = reported - self._began
                where = self._detail or await self._progress_of_build()
                self._say(
                    f"{self._work} has been running for {seconds:.0f} s"
                    f"{f': {where}' if where else ''}."
                )

    async def _progress_of_build(self) -> str:
        """Return how far the build of an index is; "" if none is being built."""
        try:
            connection = await self._connector.connect()
            try:
                progress = await connection.fetchrow(_SELECT_PROGRESS)
            finally:
                await connection.close()
        except FAILURES:
            # The work itself will notice.
            return ""
        return _in_words(progress) if progress else ""


def _in_words(progress: asyncpg.Record) -> str:
    for unit in ("blocks", "tuples", "lockers"):
        done, total = progress[f"{unit}_done"], progress[f"{unit}_total"]
        if total and unit == "lockers":
            return f"{progress['phase']}, {total - done} to go; `authsvc upgrade check` lists them"
        if total and done < total:
            return f"{progress['phase']}, {done / total:.0%} of the {unit}"
    return str(progress["phase"])
