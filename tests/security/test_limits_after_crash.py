"""The limits on guessing while PostgreSQL is killed in the middle of an attack."""

import asyncio

import pytest

from authsvc.config import PolicySettings, Settings
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.migrator import migrate
from authsvc.v1.auth_service_pb2 import LoginRequest
from tests.support.accounts import EMAIL
from tests.support.databases import kill, settings_for, until
from tests.support.probe import outcome, with_changes
from tests.support.service import Service, StartService

_ALLOWANCE = 8
_FLUSHED = "SELECT pg_current_wal_flush_lsn() >= $1"


async def _guess(service: Service) -> str:
    """Try a wrong password; return the reason of the answer."""
    request = LoginRequest(email=EMAIL, password="A wrong guess, 1")
    return await outcome(service.auth().Login(request))


async def _guesses(service: Service, count: int) -> int:
    """Try so many passwords at once; return how many were evaluated."""
    answers = await asyncio.gather(*(_guess(service) for _ in range(count)))
    assert set(answers) <= {"CREDENTIALS_INVALID", "TOO_MANY_ATTEMPTS"}
    return answers.count("CREDENTIALS_INVALID")


async def _is_flushed(service: Service) -> None:
    """Wait until what was committed so far would survive a crash."""
    ((end,),) = await service.fetch("SELECT pg_current_wal_insert_lsn()")

    async def flushed() -> bool:
        ((done,),) = await service.fetch(_FLUSHED, end)
        return bool(done)

    await until(flushed)


async def test_crash_of_the_database_gives_no_new_guesses(
    own_server: EmbeddedPostgres, start_service: StartService, settings: Settings
) -> None:
    await migrate(own_server.dsn())
    database = settings_for(own_server.dsn(), pool_min=2)
    policy = PolicySettings.model_validate({"requests": _ALLOWANCE, "window": "1h"})
    settings = with_changes(settings, "brute_force", per_account=policy)
    service = await start_service(settings.model_copy(update={"database": database}))
    await service.register()
    evaluated = await _guesses(service, _ALLOWANCE // 2)
    assert evaluated == _ALLOWANCE // 2
    await _is_flushed(service)
    # What is charged from here on may be lost.
    at_risk = await _guesses(service, 4)
    attack = [asyncio.create_task(_guess(service)) for _ in range(4)]
    await asyncio.wait(attack, return_when=asyncio.FIRST_COMPLETED)
    kill(own_server)
    at_risk += [await task for task in attack].count("CREDENTIALS_INVALID")
    await asyncio.to_thread(own_server.start)

    async def answers() -> bool:
        return await _guess(service) != "STORE_UNAVAILABLE"

    await until(answers)
    after = 1 + await _guesses(service, 2 * _ALLOWANCE)
    assert evaluated + at_risk + after <= _ALLOWANCE + at_risk
    assert await _guess(service) == "TOO_MANY_ATTEMPTS"
