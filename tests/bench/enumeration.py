"""Measures whether the time that a login takes reveals if the account exists.

Run by hand on an idle machine: `python -m tests.bench.enumeration [logins of each kind]`. The
database is durable, and hashing costs what it costs by default.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import structlog

from authsvc.config import PasswordSettings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.accounts import CALL, CLI, IP, PASSWORD, WRONG, Service, unlimited
from tests.support.clock import FakeClock
from tests.support.databases import settings_for

KINDS = ("wrong", "unknown", "locked", "disabled")


async def measure(dsn: str, logins: int) -> dict[str, list[float]]:
    """Return the seconds of each failing login by kind of account; the kinds take turns."""
    database = await Database.open(settings_for(dsn))
    service = await Service(database, FakeClock(), unlimited(), PasswordSettings()).start()
    for kind in ("wrong", "locked", "disabled"):
        await service.register(f"{kind}@example.test")
    await service.accounts.disable(CLI, "disabled@example.test")
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(logins):
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE users SET failed_logins = CASE WHEN email_canonical LIKE 'locked@%' "
                "THEN 100 ELSE 0 END"
            )
        for place in range(len(KINDS)):
            kind = KINDS[(turn + place) % len(KINDS)]
            times[kind].append(await _time_of(service, kind))
    service.hasher.close()
    await database.close()
    return times


async def _time_of(service: Service, kind: str) -> float:
    password = WRONG if kind == "wrong" else PASSWORD
    start = time.perf_counter()
    try:
        await service.log_in(CALL, f"{kind}@example.test", password, ClientContext(IP))
    except ServiceError:
        return time.perf_counter() - start
    raise AssertionError("a login that had to fail did not")


def probability_of_longer(one: list[float], other: list[float]) -> float:
    """Return the probability that `other` took longer than `one`: 0.5 if time reveals nothing."""
    return statistics.fmean((b > a) + (b == a) / 2 for a in one for b in other)


def main() -> None:
    """Print the medians."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    logins = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(migrate(server.dsn()))
            times = asyncio.run(measure(server.dsn(), logins))
        finally:
            server.stop()
    print(f"{'account':10} {'median':>10} {'10 %':>10} {'90 %':>10}  longer than wrong")
    for kind, seconds in times.items():
        tenths = statistics.quantiles(seconds, n=10)
        numbers = (statistics.median(seconds), tenths[0], tenths[-1])
        print(
            f"{kind:10}",
            *(f"{number * 1000:7.3f} ms" for number in numbers),
            f" {probability_of_longer(times['wrong'], seconds):.3f}",
        )


if __name__ == "__main__":
    main()
