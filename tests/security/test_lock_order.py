"""Transactions never deadlock, whatever is done concurrently to one account."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from authsvc.app.build import Parts, open_parts
from authsvc.config import Settings
from authsvc.store.postgres.database import Connection
from tests.support.accounts import cheap_passwords, unlimited
from tests.support.clock import FakeClock
from tests.support.codes import unlimited_codes
from tests.support.crowd import WAYS, Crowd, Steady
from tests.support.databases import until, waits_for_a_lock
from tests.support.oauth_requests import oauth_settings
from tests.support.probe import with_changes
from tests.support.provider import LocalProvider
from tests.support.tries import outcome

_THINGS = 250
_AT_ONCE = 24
_MANY = 10
_PATIENCE = timedelta(seconds=60)
_OF_USERS = (
    *("sessions", "devices", "factors", "recovery_codes", "one_time_codes"),
    *("challenges", "identities", "oauth_states", "api_keys", "outbox", "session_keys"),
)


@pytest_asyncio.fixture
async def parts(
    live_settings: Settings, provider: LocalProvider, clock: FakeClock
) -> AsyncIterator[Parts]:
    """All use cases, without limits, with a connection for each of them."""
    changes = {
        "brute_force": unlimited(),
        "codes": unlimited_codes(),
        "passwords": cheap_passwords(),
        "oauth": oauth_settings(provider),
    }
    settings = with_changes(
        live_settings.model_copy(update=changes),
        "database",
        acquire_timeout=_PATIENCE,
        command_timeout=_PATIENCE,
        pool_max=_AT_ONCE,
    )
    async with open_parts(settings, clock) as parts:
        await parts.use.signing_keys.load()
        yield parts


@pytest.mark.parametrize("seed", range(2))
async def test_concurrent_actions_on_one_account_never_deadlock(
    seed: int, parts: Parts, provider: LocalProvider, clock: FakeClock
) -> None:
    crowd = Crowd(parts, provider, clock, random.Random(seed))
    with capture_logs() as logs:
        await crowd.act(_THINGS, _AT_ONCE)
    # From the log, as some use cases retry.
    assert [entry for entry in logs if entry["event"] == "database_failure"] == []
    # Otherwise there was too little concurrency.
    assert len({name for name, came in crowd.outcomes if came == "OK"}) >= _MANY


async def _held(connection: Connection) -> list[str]:
    """Return the tables in which another transaction has locked a row."""
    held = []
    for table in _OF_USERS:
        rows = await connection.fetch(f"SELECT FROM {table} FOR UPDATE SKIP LOCKED")
        if len(rows) < await connection.fetchval(f"SELECT count(*) FROM {table}"):
            held.append(table)
    return held


@pytest.mark.parametrize("way", WAYS)
async def test_transaction_waiting_for_user_row_holds_no_other_lock(
    way: str, parts: Parts, provider: LocalProvider, clock: FakeClock
) -> None:
    crowd = Crowd(parts, provider, clock, Steady())
    await crowd.settle()
    database = parts.database
    async with database.connection() as looking, database.transaction() as blocking:
        await blocking.execute("SELECT FROM users FOR UPDATE")
        trying = asyncio.create_task(outcome(WAYS[way](crowd)))

        async def waits() -> bool:
            return trying.done() or await waits_for_a_lock(looking)

        await until(waits)
        assert await _held(looking) == []
    assert await trying in ("OK", "EMAIL_TAKEN")
