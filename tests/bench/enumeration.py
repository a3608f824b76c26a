"""Measures whether the time that an attempt takes reveals if the account, or a code, exists.

Run by hand on an idle machine: `python -m tests.bench.enumeration [attempts of each kind]`. The
database is durable, and hashing costs what it costs by default.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from authsvc.config import PasswordSettings
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import ServiceError
from authsvc.models.calls import ClientContext
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.accounts import CALL, CLI, IP, PASSWORD, WRONG, Service, unlimited
from tests.support.clock import FakeClock
from tests.support.codes import WRONG_CODE, Coded, unlimited_codes
from tests.support.databases import settings_for

# The first of each is what the others are compared with.
LOGINS = ("wrong", "unknown", "locked", "disabled")
VERIFICATIONS = ("live code", "unknown", "decoy code", "no code", "verified", "locked", "disabled")

_RESET = """
UPDATE users SET failed_logins = CASE WHEN email_canonical LIKE 'locked@%' THEN 100 ELSE 0 END
"""


async def measure(dsn: str, attempts: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each failing attempt by way and kind of account."""
    database = await Database.open(settings_for(dsn))
    service = await Service(
        database, FakeClock(), unlimited(), PasswordSettings(), code_settings=unlimited_codes()
    ).start()
    coded = Coded(service)
    kinds = {*LOGINS, *VERIFICATIONS} - {"unknown", "decoy code"}
    for kind in kinds:
        await service.register(_email(kind))
    await service.accounts.disable(CLI, _email("disabled"))
    await coded.request(Purpose.VERIFY_EMAIL, _email("decoy code"))
    await coded.fetch("DELETE FROM one_time_codes WHERE email_canonical ~ '^(no|verified)'")
    await coded.fetch("UPDATE users SET email_verify_time = now() WHERE email ~ '^verified'")

    async def log_in(kind: str) -> None:
        password = WRONG if kind == "wrong" else PASSWORD
        await service.log_in(CALL, _email(kind), password, ClientContext(IP))

    async def verify(kind: str) -> None:
        await coded.verify(WRONG_CODE, _email(kind))

    times = {
        "Login": await _take_turns(coded, log_in, LOGINS, attempts),
        "VerifyEmail": await _take_turns(coded, verify, VERIFICATIONS, attempts),
    }
    service.hasher.close()
    await database.close()
    return times


async def _take_turns(
    coded: Coded, attempt: Callable[[str], Awaitable[None]], kinds: Sequence[str], attempts: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(attempts):
        await coded.fetch(_RESET)
        await coded.fetch("UPDATE one_time_codes SET attempts = 0, network_attempts = '{}'")
        for place in range(len(kinds)):
            kind = kinds[(turn + place) % len(kinds)]
            times[kind].append(await _time_of(attempt(kind)))
    return times


async def _time_of(attempt: Awaitable[None]) -> float:
    start = time.perf_counter()
    try:
        await attempt
    except ServiceError:
        return time.perf_counter() - start
    raise AssertionError("an attempt that had to fail did not")


def _email(kind: str) -> str:
    return f"{kind.replace(' ', '.')}@example.test"


def probability_of_longer(one: list[float], other: list[float]) -> float:
    """Return the probability that `other` took longer than `one`: 0.5 if time reveals nothing."""
    return statistics.fmean((b > a) + (b == a) / 2 for a in one for b in other)


def main() -> None:
    """Print the medians."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    attempts = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(migrate(server.dsn()))
            times = asyncio.run(measure(server.dsn(), attempts))
        finally:
            server.stop()
    for way, by_kind in times.items():
        first = next(iter(by_kind))
        print(f"{way:12} {'median':>10} {'10 %':>10} {'90 %':>10}  longer than {first}")
        for kind, seconds in by_kind.items():
            tenths = statistics.quantiles(seconds, n=10)
            numbers = (statistics.median(seconds), tenths[0], tenths[-1])
            print(
                f"{kind:12}",
                *(f"{number * 1000:7.3f} ms" for number in numbers),
                f" {probability_of_longer(by_kind[first], seconds):.3f}",
            )


if __name__ == "__main__":
    main()
