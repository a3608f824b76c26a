"""Checks and logins while another session holds the row of a limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from authsvc.v1 import rate_limit_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import LoginRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.databases import until
from tests.support.probe import outcome
from tests.support.service import Service


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let held keys and hashes be waited for on a busy machine."""
    monkeypatch.setattr("authsvc.core.limits.held_keys._PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr("authsvc.core.passwords.hashing._MAX_SECONDS", 60.0)


@asynccontextmanager
async def _holding(service: Service, policy: str) -> AsyncIterator[None]:
    """Hold every row of a policy in an open transaction."""
    connection = await asyncpg.connect(service.settings.database.url.get_secret_value())
    try:
        async with connection.transaction():
            rows = "SELECT FROM rate_limits WHERE policy = $1 FOR UPDATE"
            assert await connection.fetch(rows, policy)
            yield
    finally:
        await connection.close()


async def _check(service: Service, key: str) -> pb.CheckRateLimitResponse:
    charge = pb.Charge(policy="login", key=key)
    return await service.limits().CheckRateLimit(pb.CheckRateLimitRequest(charges=[charge]))


async def _login(service: Service, email: str, password: str = PASSWORD) -> str:
    return await outcome(service.auth().Login(LoginRequest(email=email, password=password)))


async def test_held_row_delays_checks_of_its_key_alone(service: Service) -> None:
    await _check(service, "held")
    await service.register()
    async with _holding(service, "login"):
        waiting = asyncio.create_task(_check(service, "held"))
        for number in range(3):
            assert (await _check(service, f"free-{number}")).allowed
            assert await _login(service, EMAIL) == "OK"
        assert not waiting.done()
    assert (await waiting).verdicts[0].remaining == 3


async def test_held_row_of_one_account_delays_its_logins_alone(service: Service) -> None:
    await service.register()
    await service.register("other@example.com")
    assert await _login(service, EMAIL, "Wrong password 1") == "CREDENTIALS_INVALID"
    async with _holding(service, "authsvc.login.account"):
        logins = [asyncio.create_task(_login(service, EMAIL)) for _ in range(20)]
        held = service.app._parts.brute_force._limiter._held

        async def all_wait() -> bool:
            return held._waiting == 20

        await until(all_wait)
        # More than the pool has connections, one after another.
        for _ in range(3):
            assert await _login(service, "other@example.com") == "OK"
            assert (await _check(service, "free")).allowed
        assert not any(login.done() for login in logins)
    # Of the twenty that are allowed one has failed, and the others are refunded as they succeed.
    answers = await asyncio.gather(*logins)
    assert set(answers) <= {"OK", "TOO_MANY_ATTEMPTS"}
    assert answers.count("OK") >= 19


async def test_held_row_is_unavailable_after_some_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.limits.held_keys._PATIENCE_SECONDS", 0.1)
    await _check(service, "held")
    async with _holding(service, "login"):
        assert await outcome(_check(service, "held")) == "STORE_UNAVAILABLE"
        assert (await _check(service, "free")).allowed
    assert (await _check(service, "held")).allowed
