"""Addresses of sessions and audit events are truncated after a while, and nothing else changes."""

import asyncio
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import pytest
from pydantic import ValidationError

from authsvc.config import RetentionSettings, SessionSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.ids import uuid7
from authsvc.core.retention.addresses import AddressTruncation
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from authsvc.store import deletion
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.stored import add_user

PERIOD = timedelta(days=7)
ADDRESSES = {
    "192.0.2.77": "192.0.2.0",
    "2001:db8:1:2:3::4": "2001:db8:1::",
    "::ffff:192.0.2.77": "::",
}


def truncation(
    database: Database,
    clock: FakeClock,
    *,
    period: timedelta | None = PERIOD,
    ip_binding: Literal["off", "exact", "subnet"] = "off",
    batch_size: int = 3,
) -> AddressTruncation:
    return AddressTruncation(
        database=database,
        settings=RetentionSettings(addresses=period, batch_size=batch_size),
        sessions=SessionSettings(ip_binding=ip_binding),
        clock=clock,
    )


async def add_session(
    database: Database, user_id: UUID, opened: datetime, ends: datetime, ip: str | None
) -> UUID:
    session_id = uuid7(opened)
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO sessions (session_id, user_id, token_hash, csrf_hash, create_time,"
            " last_use_time, authentication_time, idle_expire_time, absolute_expire_time, ip,"
            " authentication_methods, refresh_time) VALUES ($1, $2, $6, '', $3, $3, $3, $4, $4, $5,"
            " '{pwd}', $3)",
            session_id,
            user_id,
            opened,
            ends,
            ip,
            session_id.bytes,
        )
    return session_id


async def add_events(database: Database, clock: FakeClock, *ips: str | None) -> None:
    async with database.transaction() as connection:
        for ip in ips:
            client = ClientContext(ip, "Browser/1")
            event = AuditEvent(
                AuditType.LOGIN, Call("r", "c"), client=client, detail={"methods": ("pwd",)}
            )
            await record_event(connection, clock.now(), event)


async def stored(database: Database, table: str, key: str) -> list[str | None]:
    async with database.connection() as connection:
        rows = await connection.fetch(f"SELECT host(ip) AS ip FROM {table} ORDER BY {key}")
    return [row["ip"] for row in rows]


def events(database: Database) -> "asyncio.Future[list[str | None]]":
    return asyncio.ensure_future(stored(database, "audit_events", "event_id"))


def sessions(database: Database) -> "asyncio.Future[list[str | None]]":
    return asyncio.ensure_future(stored(database, "sessions", "session_id"))


async def test_addresses_of_old_events_are_truncated(database: Database, clock: FakeClock) -> None:
    work = truncation(database, clock)
    await add_events(database, clock, *ADDRESSES, None, *ADDRESSES)
    clock.advance(PERIOD)
    await add_events(database, clock, "198.51.100.9")
    assert await work.truncate_events() == 0
    clock.advance(timedelta(seconds=1))
    async with database.connection() as connection:
        before = await connection.fetch(
            "SELECT event_id, occur_time, type, user_agent, detail FROM audit_events ORDER BY 1"
        )
    plan = await work.plan_events()
    assert (plan.due, plan.next_time) == (6, clock.now() - timedelta(seconds=1) + PERIOD)
    assert await work.truncate_events() == 6
    expected = [*ADDRESSES.values(), None, *ADDRESSES.values(), "198.51.100.9"]
    assert await events(database) == expected
    async with database.connection() as connection:
        after = await connection.fetch(
            "SELECT event_id, occur_time, type, user_agent, detail FROM audit_events ORDER BY 1"
        )
    assert before == after
    # Later events are found by the next run, and only these.
    assert await work.truncate_events() == 0
    clock.advance(PERIOD)
    assert await work.truncate_events() == 1
    assert (await work.plan_events()).due == 0


async def test_nothing_is_truncated_by_default(database: Database, clock: FakeClock) -> None:
    assert RetentionSettings().addresses is None
    await add_events(database, clock, "192.0.2.77")
    clock.advance(timedelta(days=300))
    work = truncation(database, clock, period=None)
    assert (await work.truncate_events(), await work.truncate_sessions()) == (0, 0)
    assert await events(database) == ["192.0.2.77"]
    assert ((await work.plan_events()).period, (await work.plan_sessions()).period) == (None, None)


@pytest.mark.parametrize("period", ["0s", "23h"])
def test_period_is_at_least_one_day(period: str) -> None:
    with pytest.raises(ValidationError, match="expected a duration of at least 1d"):
        RetentionSettings.model_validate({"addresses": period})


async def test_event_that_somebody_holds_is_truncated_by_a_later_run(
    database: Database, clock: FakeClock
) -> None:
    await add_events(database, clock, *["192.0.2.77"] * 5)
    clock.advance(PERIOD + timedelta(seconds=1))
    work = truncation(database, clock)
    async with database.transaction() as holder:
        await holder.execute(
            "SELECT FROM audit_events WHERE event_id ="
            " (SELECT event_id FROM audit_events ORDER BY event_id LIMIT 1) FOR UPDATE"
        )
        # Neither waits for it nor forgets it.
        assert await work.truncate_events() == 2
    assert await work.truncate_events() == 3
    assert await events(database) == ["192.0.2.0"] * 5


async def test_replicas_and_deletions_at_the_same_time_truncate_all(
    database: Database, clock: FakeClock
) -> None:
    async with database.transaction() as connection:
        user_id = await add_user(connection)
        for _ in range(60):
            event = AuditEvent(
                AuditType.LOGIN, Call("r", "c"), user_id, client=ClientContext("192.0.2.77")
            )
            await record_event(connection, clock.now(), event)
    clock.advance(PERIOD + timedelta(seconds=1))

    async def scrub() -> None:
        async with database.transaction() as connection:
            await deletion.scrub_events(connection, UserId(user_id), ())

    replicas = [truncation(database, clock) for _ in range(3)]
    await asyncio.gather(*(each.truncate_events() for each in replicas), scrub())
    await replicas[0].truncate_events()
    assert set(await events(database)) <= {None, "192.0.2.0"}


async def test_addresses_of_old_sessions_are_truncated(
    database: Database, clock: FakeClock
) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
    opened, late = clock.now(), clock.now() + timedelta(days=30)
    for ip in (*ADDRESSES, None, *ADDRESSES):
        await add_session(database, user_id, opened, late, ip)
    async with database.connection() as connection:
        await connection.execute("UPDATE sessions SET other_ip = '203.0.113.5' WHERE ip IS NULL")
    clock.advance(PERIOD + timedelta(seconds=1))
    await add_session(database, user_id, clock.now(), late, "198.51.100.9")
    work = truncation(database, clock)
    plan = await work.plan_sessions()
    assert (plan.due, plan.oldest_time, plan.next_time) == (7, opened, clock.now() + PERIOD)
    assert await work.truncate_sessions() == 7
    expected = [*ADDRESSES.values(), None, *ADDRESSES.values(), "198.51.100.9"]
    assert await sessions(database) == expected
    async with database.connection() as connection:
        assert await connection.fetchval(
            "SELECT host(other_ip) FROM sessions WHERE other_ip IS NOT NULL"
        ) == ("203.0.113.0")
    assert await work.truncate_sessions() == 0


async def test_bound_session_keeps_its_address_until_it_ends(
    database: Database, clock: FakeClock
) -> None:
    async with database.connection() as connection:
        user_id = await add_user(connection)
    end = clock.now() + timedelta(days=30)
    await add_session(database, user_id, clock.now(), end, "192.0.2.77")
    clock.advance(timedelta(days=30))
    work = truncation(database, clock, ip_binding="subnet")
    assert await work.truncate_sessions() == 0
    clock.advance(timedelta(seconds=1))
    assert await work.truncate_sessions() == 1
