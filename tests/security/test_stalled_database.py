"""A database that stands still locks nobody out who knew the password."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from authsvc.config import Settings
from authsvc.core.attempts import refunds
from authsvc.v1.auth_service_pb2 import LoginRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL, PASSWORD, WRONG
from tests.support.databases import until
from tests.support.probe import outcome, with_changes
from tests.support.service import Service, StartService
from tests.support.ways import affordable

FAILURES = """
SELECT coalesce(sum((state).used), 0) + (SELECT sum(failed_logins) FROM users)
FROM rate_limits WHERE policy ~ 'login'
"""


async def log_in(service: Service, ip: str, password: str = PASSWORD) -> str:
    request = LoginRequest(email=EMAIL, password=password, client=ClientContext(ip=ip))
    return await outcome(service.auth().Login(request))


async def test_right_passwords_that_exceed_time_limit_lock_nobody_out(
    start_service: StartService, live_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refunds, "_INTERVAL", 0.0)
    limit = timedelta(seconds=1)
    service = await start_service(
        affordable(with_changes(live_settings, "grpc", call_timeout=limit))
    )
    await service.register()

    async def failures() -> int:
        [[count]] = await service.fetch(FAILURES)
        return int(count)

    async def forgotten() -> bool:
        return await failures() == 0

    stall = await asyncpg.connect(live_settings.database.url.get_secret_value())
    try:
        async with stall.transaction():
            await stall.execute("LOCK TABLE sessions")
            ends = [log_in(service, f"10.0.0.{n}") for n in range(18)]
            assert set(await asyncio.gather(*ends)) == {"STORE_UNAVAILABLE"}
        await until(forgotten)
    finally:
        await stall.close()
    assert await log_in(service, "10.0.0.1") == "OK"
    # A wrong one counts.
    assert await log_in(service, "10.0.0.1", WRONG) == "CREDENTIALS_INVALID"
    assert await failures() > 0
