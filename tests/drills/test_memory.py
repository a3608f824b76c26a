"""The service's memory under an hour of mixed load: it stops growing once the caches are full.

`DRILL_MINUTES` shortens or lengthens the run.
"""

import asyncio
import itertools
import os
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from authsvc.v1 import account_service_pb2 as account
from authsvc.v1 import auth_service_pb2 as auth
from authsvc.v1 import rate_limit_service_pb2 as limits
from authsvc.v1 import session_service_pb2 as sessions
from authsvc.v1.account_service_pb2_grpc import AccountServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext, Tokens
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.bench.processes import Target, targets

MINUTES = float(os.environ.get("DRILL_MINUTES", "60"))
# The caches are small: they are full, and entries are evicted, long before the middle of the run.
SETTINGS = {
    "AUTHSVC_SESSIONS__CACHE_SIZE": "500",
    "AUTHSVC_API_KEYS__CACHE_SIZE": "200",
    "AUTHSVC_RATE_LIMITS__REJECTED_CACHE_SIZE": "1000",
    "AUTHSVC_LOG__LEVEL": "error",
}
# How many there are before the load begins, and how many stay logged in.
FIRST_USERS, USERS = 20, 1_500
PASSWORD = f"Drill-{secrets.token_hex(8)}-A1"
SAMPLE_SECONDS = 5.0
# What allocators and the garbage collector may still add to the median of the last quarter.
TOLERANCE_MB = 6.0


class Crowd:
    """Users who come and go, each from a network of their own, as callers in closed loops."""

    def __init__(self, app: grpc.aio.Channel, edge: grpc.aio.Channel) -> None:
        self._auth, self._edge = AuthServiceStub(app), AuthServiceStub(edge)
        self._account = AccountServiceStub(app)
        self._sessions = SessionServiceStub(edge)
        self._limits = RateLimitServiceStub(edge)
        self._numbers = itertools.count()
        self._users: list[Tokens] = []
        self.calls = 0
        self.refused: dict[str, int] = {}

    async def live(self, work: Callable[[], Awaitable[object]], deadline: float) -> None:
        """Repeat `work` until the deadline; count the errors that such load may cause."""
        while time.monotonic() < deadline:
            try:
                await work()
            except grpc.aio.AioRpcError as error:
                name = error.code().name
                self.refused[name] = self.refused.get(name, 0) + 1
            self.calls += 1

    async def register_and_log_in(self) -> None:
        number = next(self._numbers)
        email, client = f"user{number}@example.com", _client(number)
        await self._auth.Register(
            auth.RegisterRequest(email=email, password=PASSWORD, client=client)
        )
        answer = await self._auth.Login(
            auth.LoginRequest(email=email, password=PASSWORD, client=client)
        )
        self._users.append(answer.tokens)
        if len(self._users) > USERS:
            oldest = self._users.pop(0)
            await self._auth.Logout(auth.LogoutRequest(refresh_token=oldest.refresh_token))

    async def guess(self) -> None:
        number = next(self._numbers)
        await self._auth.Login(
            auth.LoginRequest(
                email=f"user{number % 1_000}@example.com",
                password="Wrong-Password-1801",
                client=_client(number),
            )
        )

    async def validate(self) -> None:
        for user in secrets.SystemRandom().sample(self._users, FIRST_USERS):
            await self._edge.ValidateToken(
                auth.ValidateTokenRequest(access_token=user.access_token)
            )
            await self._sessions.ValidateSession(
                sessions.ValidateSessionRequest(session_token=user.session_token)
            )
            await self._edge.ValidateToken(
                auth.ValidateTokenRequest(access_token=f"{user.access_token}{secrets.token_hex(8)}")
            )

    async def refresh(self) -> None:
        user = secrets.choice(self._users)
        answer = await self._auth.RefreshTokens(
            auth.RefreshTokensRequest(refresh_token=user.refresh_token)
        )
        user.refresh_token = answer.tokens.refresh_token
        user.access_token = answer.tokens.access_token

    async def use_account(self) -> None:
        user = secrets.choice(self._users)
        bearer = (("authorization", f"Bearer {user.access_token}"),)
        await self._account.GetAccount(account.GetAccountRequest(), metadata=bearer)
        answer = await self._account.CreateApiKey(
            account.CreateApiKeyRequest(name="drill", scopes=["read"]), metadata=bearer
        )
        await self._edge.ValidateApiKey(auth.ValidateApiKeyRequest(api_key=answer.api_key))

    async def check_limits(self) -> None:
        number = next(self._numbers)
        for policy in ("bench", "once", "once"):
            await self._limits.CheckRateLimit(
                limits.CheckRateLimitRequest(
                    charges=[limits.Charge(policy=policy, key=f"key-{number}")]
                )
            )

    async def ask_for_code(self) -> None:
        number = next(self._numbers)
        await self._auth.RequestLoginCode(
            auth.RequestLoginCodeRequest(
                email=f"user{number % 1_000}@example.com", client=_client(number)
            )
        )


def _client(number: int) -> ClientContext:
    return ClientContext(ip=f"2001:db8:{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}::1")


@asynccontextmanager
async def crowd(service: Target) -> AsyncIterator[Crowd]:
    async with service.channel("app") as app, service.channel("edge") as edge:
        yield Crowd(app, edge)


async def load(service: Target, seconds: float) -> list[tuple[float, float]]:
    """Put mixed load on the service; return samples of (seconds since the start, MB)."""
    samples: list[tuple[float, float]] = []
    began = time.monotonic()
    deadline = began + seconds
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]:.0f} MB, {task.fields[calls]:,} calls"),
    )
    async with crowd(service) as people:
        for _ in range(FIRST_USERS):
            await people.register_and_log_in()
        works = (
            [people.register_and_log_in] * 2
            + [people.validate] * 2
            + [people.guess, people.refresh, people.use_account, people.check_limits]
            + [people.ask_for_code]
        )
        running = asyncio.gather(*(people.live(work, deadline) for work in works))
        with Progress(*columns) as progress:
            task = progress.add_task("memory", total=seconds, memory=0.0, calls=0)
            while not running.done():
                await asyncio.wait([running], timeout=SAMPLE_SECONDS)
                passed, memory = time.monotonic() - began, service.memory_mb()
                samples.append((passed, memory))
                progress.update(task, completed=passed, memory=memory, calls=people.calls)
        await running
        print(f"{people.calls:,} rounds of calls; refused: {people.refused}")
    return samples


def test_memory_stops_growing(tmp_path: Path) -> None:
    with targets(tmp_path, **SETTINGS) as (_, service, _start):
        samples = asyncio.run(load(service, MINUTES * 60))
    eighth = len(samples) // 8
    assert eighth, "the run was too short to tell"
    medians = [
        statistics.median(memory for _, memory in samples[i * eighth : (i + 1) * eighth])
        for i in range(8)
    ]
    print("median MB of each eighth of the run:", " ".join(f"{value:.1f}" for value in medians))
    growth = max(medians[6:]) - max(medians[2:6])
    if growth > TOLERANCE_MB:
        pytest.fail(f"memory still grew by {growth:.1f} MB in the last quarter: {medians}")
