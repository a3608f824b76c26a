"""Interruptions of a login: a full queue, a stuck database, a changed password."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from authsvc.core.attempts import refunds
from authsvc.core.lib.time_limit import expire
from authsvc.errors import Overloaded
from authsvc.store.postgres.database import Database
from tests.support.accounts import CLI, EMAIL, PASSWORD, WRONG, Service, cheap_passwords, unlimited
from tests.support.databases import giving_up_locks, opened, until
from tests.support.logins import ONE, PHONE, Replicas, causes, failures, failures_of_devices, value

pytestmark = pytest.mark.slow

NEW_PASSWORD = "Bernoulli-Numbers-1843"


async def _set_password(service: Service, password: str) -> None:
    replacement = await service.hasher.hash(password)
    async with service.database.connection() as conn:
        await conn.execute("UPDATE users SET password_hash = $1", replacement.phc)


# Failures other than a wrong password


async def test_full_hash_queue_costs_no_attempt(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(per_account=ONE, max_consecutive_failures=2))
    await service.register()

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    for _ in range(3):
        assert await service.login(WRONG) == "OVERLOADED"
    service.hasher.before = database.ping
    assert await failures(database) == 0
    assert await service.login() == "OK"


async def test_full_hash_queue_does_not_unlock_account(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=2))
    await service.register()
    await service.login(WRONG)

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    assert await service.login() == "OVERLOADED"
    assert await failures(database) == 1


async def test_full_hash_queue_refunds_known_device_attempt(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(per_known_device=ONE))
    await service.register()
    await service.login(device=PHONE)

    async def full() -> None:
        raise Overloaded

    service.hasher.before = full
    assert await service.login(device=PHONE) == "OVERLOADED"
    assert await failures_of_devices(database) == 0
    service.hasher.before = database.ping
    assert await service.login(device=PHONE) == "OK"


@pytest_asyncio.fixture
async def impatient(database_dsn: str) -> AsyncIterator[Database]:
    """A pool that fails at once if a table is locked."""
    async with opened(giving_up_locks(database_dsn, "1ms")) as database:
        yield database


async def test_database_failure_after_correct_password_costs_no_attempt(
    replicas: Replicas, database: Database, impatient: Database
) -> None:
    service = await replicas.start(unlimited(per_account=ONE), database=impatient)
    await service.register()
    async with database.transaction() as conn:
        await conn.execute("LOCK TABLE sessions")
        assert await service.login() == "STORE_UNAVAILABLE"
        assert await service.login() == "STORE_UNAVAILABLE"
    assert await failures(database) == 0
    assert await service.login() == "OK"


async def test_database_failure_after_wrong_password_keeps_failure(
    replicas: Replicas, database: Database, impatient: Database
) -> None:
    service = await replicas.start(unlimited(per_account=ONE), database=impatient)
    await service.register()
    async with database.transaction() as conn:
        await conn.execute("LOCK TABLE audit_events")
        assert await service.login(WRONG) == "STORE_UNAVAILABLE"
    assert await failures(database) == 1
    assert await service.login() == "TOO_MANY_ATTEMPTS"


async def test_cancelled_login_gets_no_refund(replicas: Replicas, database: Database) -> None:
    service = await replicas.start(unlimited(per_account=ONE))
    await service.register()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    service.hasher.after_verify = hang
    attempt = asyncio.create_task(service.login(WRONG))
    await reached.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    service.hasher.after_verify = database.ping
    assert await failures(database) == 1
    assert await service.login() == "TOO_MANY_ATTEMPTS"


# The service's own time limit


@pytest.fixture
def repeating_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat refunds without a pause."""
    monkeypatch.setattr(refunds, "_INTERVAL", 0.0)


async def _expire(attempt: asyncio.Task[str]) -> None:
    expire(attempt)
    with pytest.raises(asyncio.CancelledError):
        await attempt


async def _forgotten(database: Database) -> bool:
    """Return whether neither the limits nor the account hold a failure."""
    query = "SELECT coalesce(sum((state).used), 0) = 0 FROM rate_limits WHERE policy ~ 'login'"
    return bool(await value(database, query)) and await failures(database) == 0


@pytest.mark.parametrize("password", [PASSWORD, WRONG])
async def test_login_that_exceeds_time_limit_before_it_is_judged_costs_no_attempt(
    replicas: Replicas, database: Database, password: str
) -> None:
    service = await replicas.start(unlimited(per_account=ONE))
    await service.register()
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    service.hasher.before = hang
    attempt = asyncio.create_task(service.login(password))
    await reached.wait()
    assert await failures(database) == 1
    await _expire(attempt)
    service.hasher.before = database.ping
    await until(lambda: _forgotten(database))
    assert await service.login() == "OK"


# What stands still, and what a login with the right password waits for then.
STALLS = {
    "LOCK TABLE rate_limits": "charge",
    "SELECT FROM users FOR UPDATE": "claim",
    "LOCK TABLE sessions": "session",
    "LOCK TABLE audit_events": "event",
}


@pytest.mark.usefixtures("repeating_at_once")
@pytest.mark.parametrize("stall", STALLS)
async def test_right_passwords_cost_no_attempt_while_database_stands_still(
    replicas: Replicas, database: Database, stall: str
) -> None:
    service = await replicas.start()
    await service.register()

    async def waits() -> bool:
        query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(await value(database, query))

    for turn in range(3):
        async with database.transaction() as connection:
            await connection.execute(stall)
            logins = [asyncio.create_task(service.login(ip=f"10.0.{turn}.{n}")) for n in range(8)]
            await until(waits)
            for login in logins:
                await _expire(login)
        # As soon as it answers again, nothing is held against the user, who is not locked out.
        await until(lambda: _forgotten(database))
    assert await service.login() == "OK"


async def test_wrong_password_stays_charged_when_its_record_exceeds_time_limit(
    replicas: Replicas, database: Database
) -> None:
    service = await replicas.start(unlimited(per_account=ONE))
    await service.register()

    async def waits() -> bool:
        query = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(await value(database, query))

    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE audit_events")
        attempt = asyncio.create_task(service.login(WRONG))
        await until(waits)
        await _expire(attempt)
    assert await failures(database) == 1
    assert await service.login() == "TOO_MANY_ATTEMPTS"


# Changes during a login


async def test_login_holds_no_connection_while_comparing_hash(
    database_dsn: str, replicas: Replicas
) -> None:
    async with opened(database_dsn, pool_max=1) as only:
        service = await replicas.start(database=only)
        await service.register()
        newer = await replicas.start(peppers=("p2", "p1"), database=only)
        newer.hasher.before = only.ping
        assert await newer.login() == "OK"
        assert await newer.login(WRONG) == "CREDENTIALS_INVALID"


async def test_password_changed_during_login_rejects_old_one(
    free: Service, database: Database
) -> None:
    async def change() -> None:
        free.hasher.after_verify = database.ping
        await _set_password(free, NEW_PASSWORD)

    free.hasher.after_verify = change
    assert await free.login() == "CREDENTIALS_INVALID"
    assert await value(database, "SELECT count(*) FROM sessions") == 0
    assert await causes(database) == {"login_failure:password": 1}
    assert await free.login(NEW_PASSWORD) == "OK"


async def test_account_disabled_during_login_is_rejected(free: Service, database: Database) -> None:
    async def disable() -> None:
        await free.accounts.disable(CLI, EMAIL)

    free.hasher.after_verify = disable
    assert await free.login() == "CREDENTIALS_INVALID"
    assert await value(database, "SELECT count(*) FROM sessions") == 0
    assert await causes(database) == {"login_failure:disabled": 1}


@pytest.mark.parametrize("change", ["cost", "pepper"])
async def test_login_rehashes_outdated_hash(
    replicas: Replicas, database: Database, change: str
) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    if change == "cost":
        new = await replicas.start(unlimited(), cheap_passwords(argon2_time_cost=3))
    else:
        new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    query = "SELECT (password_hash, pepper_id)::text FROM users"
    before = await value(database, query)
    assert await new.login(WRONG) == "CREDENTIALS_INVALID"
    assert await value(database, query) == before
    assert await new.login() == "OK"
    after = str(await value(database, query))
    assert after != before
    assert ("t=3" in after) if change == "cost" else after.endswith("p2)")
    assert await new.login() == "OK"
    assert await value(database, query) == after


async def test_concurrent_rehash_rejects_no_login(replicas: Replicas, database: Database) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    async def log_in_beside() -> None:
        new.hasher.after_verify = database.ping
        assert await new.login() == "OK"

    new.hasher.after_verify = log_in_beside
    assert await new.login() == "OK"
    assert await value(database, "SELECT pepper_id FROM users") == "p2"


async def test_rehash_does_not_undo_password_change(replicas: Replicas, database: Database) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), cheap_passwords(argon2_time_cost=3))

    async def change_before_the_second_hash() -> None:
        async def change() -> None:
            new.hasher.before = database.ping
            await _set_password(old, NEW_PASSWORD)

        new.hasher.before = change

    new.hasher.before = change_before_the_second_hash
    assert await new.login() == "OK"
    assert await old.login(PASSWORD) == "CREDENTIALS_INVALID"
    assert await old.login(NEW_PASSWORD) == "OK"


async def test_failed_rehash_does_not_fail_login(replicas: Replicas, database: Database) -> None:
    old = await replicas.start(unlimited())
    await old.register()
    new = await replicas.start(unlimited(), peppers=("p2", "p1"))

    async def full_from_now_on() -> None:
        async def full() -> None:
            raise Overloaded

        new.hasher.before = full

    new.hasher.before = full_from_now_on
    assert await new.login() == "OK"
    assert await value(database, "SELECT pepper_id FROM users") == "p1"
