"""Measures the cost of lending a connection: our pool beside asyncpg's, on the embedded PostgreSQL.

Run by hand: `python -m tests.bench.pools [seconds of each stretch] [rounds]`. Each loan runs one
SELECT by primary key. The kinds take turns within a round, and ratios are taken round by round, as
the machine's speed drifts. CPU is that of this process, without PostgreSQL.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop
from pydantic import SecretStr

from authsvc.config import DatabaseSettings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate

_SELECT = "SELECT user_id, status FROM users WHERE user_id = $1"
_NOBODY = UUID(int=0)
_SIZE = 16
_CALLERS = (1, 64)

Loan = Callable[[], Awaitable[object]]


async def _keep_session(_connection: Any) -> None:
    """Reset nothing, so that asyncpg's pool makes no round trip at each return."""


async def measure(loan: Loan, callers: int, seconds: float) -> tuple[float, float]:
    """Return the CPU time per loan in µs and the loans per second."""
    done = 0
    deadline = time.perf_counter() + seconds

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await loan()
            done += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(loop() for _ in range(callers)))
    used, took = time.process_time() - cpu, time.perf_counter() - began
    return used / done * 1_000_000, done / took


async def compare(dsn: str, seconds: float, rounds: int) -> None:
    """Print a line for each kind of pool and number of callers."""
    settings = DatabaseSettings(url=SecretStr(dsn), pool_min=_SIZE, pool_max=_SIZE)
    database = await Database.open(settings)
    alike = partial(
        asyncpg.create_pool,
        dsn,
        min_size=_SIZE,
        max_size=_SIZE,
        command_timeout=settings.command_timeout.total_seconds(),
        statement_cache_size=settings.statement_cache_size,
    )
    plain, kept = await alike(), await alike(reset=_keep_session)

    async def ours() -> None:
        async with database.connection() as connection:
            await connection.fetchrow(_SELECT, _NOBODY)

    async def theirs() -> None:
        async with plain.acquire(timeout=3) as connection:
            await connection.fetchrow(_SELECT, _NOBODY)

    async def theirs_kept() -> None:
        async with kept.acquire(timeout=3) as connection:
            await connection.fetchrow(_SELECT, _NOBODY)

    kinds: dict[str, Loan] = {
        "ours": ours,
        "asyncpg.Pool": theirs,
        "asyncpg.Pool, no reset": theirs_kept,
    }
    for callers in _CALLERS:
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for loan in kinds.values():
            await measure(loan, callers, 0.3)
        for _ in range(rounds):
            for name, loan in kinds.items():
                seen[name].append(await measure(loan, callers, seconds))
        for name, samples in seen.items():
            cpu, rate = (statistics.median(sample[side] for sample in samples) for side in (0, 1))
            pairs = list(zip(samples, seen["ours"], strict=True))
            cpu_ratio = statistics.median(other[0] / own[0] for other, own in pairs)
            rate_ratio = statistics.median(other[1] / own[1] for other, own in pairs)
            print(
                f"{callers:3} callers  {name:24} {cpu:6.0f} µs CPU ({cpu_ratio:.2f} ×)"
                f"  {rate:8,.0f} loans/s ({rate_ratio:.2f} ×)"
            )
    await database.close()
    await plain.close()
    await kept.close()


def main() -> None:
    """Run the comparison on a database of its own."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(migrate(server.dsn()))
            uvloop.run(compare(server.dsn(), seconds, rounds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
