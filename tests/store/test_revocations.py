"""The revocation log: what is appended, and when listeners are notified."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from authsvc.core.lib.ids import uuid7
from authsvc.errors import StoreUnavailable, email_taken
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.store import revocations
from authsvc.store.postgres.database import Database
from authsvc.store.revocations import PoolerError, Subscription
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.proxy import Proxy


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
async def subscription(database_dsn: str, heard: list[str]) -> AsyncIterator[Subscription]:
    opened = await Subscription.open(settings_for(database_dsn), heard.append, patience=10)
    yield opened
    opened.close()


async def test_batch_of_revocations_is_received_in_order(
    database: Database, clock: FakeClock, subscription: Subscription, heard: list[str]
) -> None:
    sessions = [SessionId(uuid7(clock.now())) for _ in range(100)]
    user, api_key = UserId(uuid7(clock.now())), ApiKeyId(uuid7(clock.now()))
    async with database.transaction() as connection:
        await revocations.append(
            connection,
            clock.now(),
            session_ids=sessions,
            user_id=user,
            key_id="key-1",
            api_key_id=api_key,
        )
        await subscription.confirm()
        assert heard == []
    await subscription.confirm()
    assert heard == [
        *(f"session:{session}" for session in sessions),
        f"user:{user}",
        "key:key-1",
        f"api_key:{api_key}",
    ]


async def test_log_keeps_revocations(database: Database, clock: FakeClock) -> None:
    session, user = SessionId(uuid7(clock.now())), UserId(uuid7(clock.now()))
    async with database.transaction() as connection:
        await revocations.append(connection, clock.now(), session_ids=[session], user_id=user)
        await revocations.append(connection, clock.now(), key_id="key-1")
        await revocations.append(connection, clock.now())
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT session_id, user_id, key_id, revoke_time FROM revocations "
            "ORDER BY revocation_id"
        )
    assert [tuple(row) for row in rows] == [
        (session, None, None, clock.now()),
        (None, user, None, clock.now()),
        (None, None, "key-1", clock.now()),
    ]


async def test_rolled_back_revocation_sends_no_notification(
    database: Database, clock: FakeClock, subscription: Subscription, heard: list[str]
) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await revocations.append(connection, clock.now(), key_id="undone")
            raise email_taken()

    with pytest.raises(type(email_taken())):
        await fail()
    async with database.transaction() as connection:
        await revocations.append(connection, clock.now(), key_id="done")
    await subscription.confirm()
    assert heard == ["key:done"]


async def test_acknowledged_revocation_arrives_before_confirmation(
    database: Database, clock: FakeClock, subscription: Subscription, heard: list[str]
) -> None:
    for number in range(200):
        async with database.connection() as connection:
            await revocations.append(connection, clock.now(), key_id=str(number))
        await subscription.confirm()
        assert heard[-1] == f"key:{number}"


async def test_unreachable_server_is_an_outage(heard: list[str]) -> None:
    settings = settings_for("postgresql://user@nowhere.invalid/none")
    with pytest.raises(StoreUnavailable):
        await Subscription.open(settings, heard.append, patience=1)


async def test_terminated_subscription_is_an_outage(
    database: Database, subscription: Subscription
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with pytest.raises(StoreUnavailable):
        await subscription.confirm()


@pytest.mark.slow
async def test_silent_server_is_an_outage(database_dsn: str, heard: list[str]) -> None:
    async with Proxy(database_dsn) as proxy:
        opened = await Subscription.open(settings_for(proxy.dsn), heard.append, patience=1)
        await opened.confirm()
        proxy.hold()
        with pytest.raises(StoreUnavailable):
            await opened.confirm()
        opened.close()


async def test_connection_through_pooler_is_rejected(database_dsn: str, heard: list[str]) -> None:
    async with Proxy(database_dsn, process_id=4711) as proxy:
        opened = await Subscription.open(settings_for(proxy.dsn), heard.append, patience=10)
        with pytest.raises(PoolerError):
            await opened.confirm()
        opened.close()


async def test_listener_url_takes_precedence(database_dsn: str, heard: list[str]) -> None:
    settings = settings_for("postgresql://user@nowhere.invalid/none", listener_url=database_dsn)
    opened = await Subscription.open(settings, heard.append, patience=10)
    await opened.confirm()
    opened.close()


async def test_row_has_exactly_one_subject(database: Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "INSERT INTO revocations (user_id, key_id, revoke_time) VALUES ($1, 'k', now())",
                UUID(int=1),
            )
