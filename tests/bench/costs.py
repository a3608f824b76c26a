"""Owns `python -m tests.bench.costs`: measures what `authsvc size` calculates with.

For each kind of call: the CPU that the service and PostgreSQL spend, the write-ahead log, and how
much the database grows. With --write it replaces the table in authsvc/cli/costs.toml.
"""

import argparse
import asyncio
import json
import platform
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import uvloop
from rich.console import Console

from authsvc.cli.sizing import COSTS
from authsvc.core.passwords import calibration
from authsvc.core.passwords.argon2id import Library
from authsvc.core.passwords.calibration import FLOOR
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import common_pb2
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1 import session_service_pb2 as sessions
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.bench.load import drive
from tests.bench.processes import Target, cpu_us, targets

_USERS = 256
_CONCURRENCY = 32
_BATCH = 100
_PASSWORD = f"Bench-{secrets.token_hex(8)}-A1"

Work = Callable[[int], Awaitable[object]]


class _Database:
    """What PostgreSQL has spent so far."""

    def __init__(self, connection: "asyncpg.Connection[Any]", postmaster: int) -> None:
        self._connection = connection
        self._postmaster = postmaster

    def cpu_us(self) -> float:
        """Return the CPU time of the server's processes, in microseconds."""
        children = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children")
        pids = [self._postmaster, *map(int, children.read_text().split())]
        return sum(map(cpu_us, pids))

    async def wal_bytes(self) -> int:
        """Return the position in the write-ahead log."""
        found = await self._connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'")
        return int(found)

    async def size(self) -> int:
        """Return the size of the database in bytes."""
        return int(await self._connection.fetchval("SELECT pg_database_size(current_database())"))


class Cost(NamedTuple):
    """The mean cost of a call."""

    service_us: float
    database_us: float
    wal_bytes: float
    stored_bytes: float


async def _measure(
    service: Target, database: _Database, work: Work, *, concurrency: int, seconds: float
) -> Cost:
    await drive(service, work, concurrency=concurrency, seconds=min(seconds, 1))
    cpu, wal, size = database.cpu_us(), await database.wal_bytes(), await database.size()
    sample = await drive(service, work, concurrency=concurrency, seconds=seconds)
    spent = (
        database.cpu_us() - cpu,
        await database.wal_bytes() - wal,
        max(0, await database.size() - size),
    )
    return Cost(sample.cpu_us, *(each / sample.calls for each in spent))


async def _run(service: Target, folder: Path, seconds: float) -> dict[str, Cost]:
    connection = await asyncpg.connect(EmbeddedPostgres(folder).dsn(user="postgres"))
    postmaster = (folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0]
    database = _Database(connection, int(postmaster))
    found: dict[str, Cost] = {}
    try:
        async with service.channel("app") as app, service.channel("edge") as edge:
            calls = _Calls(AuthServiceStub(app), AuthServiceStub(edge), edge)
            await calls.prepare()
            for name, (work, concurrency) in calls.kinds().items():
                found[name] = await _measure(
                    service, database, work, concurrency=concurrency, seconds=seconds
                )
    finally:
        await connection.close()
    batch = found.pop("batch")
    found["batched_check"] = Cost(*(each / _BATCH for each in batch))
    return found


class _Calls:
    """The kinds of calls."""

    def __init__(self, app: Any, edge: Any, channel: Any) -> None:
        self._app, self._edge = app, edge
        self._sessions, self._limits = SessionServiceStub(channel), RateLimitServiceStub(channel)
        self._tokens: list[common_pb2.Tokens] = []
        self._registered = 0

    async def prepare(self) -> None:
        """Register users and log them in."""
        for number in range(_USERS):
            await self._register(number)
            self._tokens.append((await self._log_in(number)).tokens)

    def kinds(self) -> Mapping[str, tuple[Work, int]]:
        """Return the work of each kind, and how many at once."""
        token = self._tokens[0]
        validation = auth.ValidateTokenRequest(access_token=token.access_token)
        session = sessions.ValidateSessionRequest(session_token=token.session_token)
        newest = {number: tokens.refresh_token for number, tokens in enumerate(self._tokens)}
        free = list(newest)

        async def refresh(_: int) -> None:
            number = free.pop()
            response = await self._app.RefreshTokens(
                auth.RefreshTokensRequest(refresh_token=newest[number])
            )
            newest[number] = response.tokens.refresh_token
            free.append(number)

        return {
            "validation": (lambda _: self._edge.ValidateToken(validation), _CONCURRENCY),
            "session_validation": (
                lambda _: self._sessions.ValidateSession(session),
                _CONCURRENCY,
            ),
            "check": (self._check, _CONCURRENCY),
            "batch": (self._batch, 4),
            "refresh": (refresh, _CONCURRENCY),
            "login": (self._log_in, 4),
            "registration": (lambda _: self._register(_USERS + self._next()), 4),
        }

    def _next(self) -> int:
        self._registered += 1
        return self._registered

    async def _register(self, number: int) -> None:
        await self._app.Register(
            auth.RegisterRequest(email=_email(number), password=_PASSWORD, client=_client(number))
        )

    async def _log_in(self, number: int) -> Any:
        number %= _USERS
        return await self._app.Login(
            auth.LoginRequest(email=_email(number), password=_PASSWORD, client=_client(number))
        )

    async def _check(self, number: int) -> None:
        charge = limits.Charge(policy="bench", key=f"key-{number % 10_000}")
        await self._limits.CheckRateLimit(limits.CheckRateLimitRequest(charges=[charge]))

    async def _batch(self, number: int) -> None:
        checks = [
            limits.CheckRateLimitRequest(
                charges=[limits.Charge(policy="bench", key=f"key-{number % 100}-{each}")]
            )
            for each in range(_BATCH)
        ]
        await self._limits.BatchCheckRateLimits(limits.BatchCheckRateLimitsRequest(checks=checks))


def _email(number: int) -> str:
    return f"user{number}@example.com"


def _client(number: int) -> common_pb2.ClientContext:
    """Return a client with a network of its own, so that the limits of networks aren't reached."""
    return common_pb2.ClientContext(ip=f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1")


def main() -> None:
    """Measure, and print the table or write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each kind's load")
    parser.add_argument("--write", action="store_true", help="replace the committed table")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Console(stderr=True).status("calls are measured …"),
        targets(Path(folder)) as (_, service, _start),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        at_rest = service.memory_mb()
        found = runner.run(_run(service, Path(folder), options.seconds))
        in_use = service.memory_mb()
    hash_seconds = min(calibration.cpu_seconds(FLOOR, each, 9) for each in Library)
    measured = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "python": platform.python_version(),
        "hash_us": round(hash_seconds * 1e6),
        "memory_at_rest_mb": round(at_rest),
        "memory_in_use_mb": round(in_use),
    }
    tables = {
        name: {key: round(value) for key, value in cost._asdict().items()}
        for name, cost in found.items()
    }
    text = "# Written by `python -m tests.bench.costs --write`.\n"
    for name, table in {"measured": measured, **tables}.items():
        # JSON's texts and numbers are TOML's, too.
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        text += f"\n[{name}]\n{''.join(lines)}"
    if options.write:
        COSTS.write_text(text)
    print(text, end="")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
