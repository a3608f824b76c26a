"""The audit log as an operator reads it: by page, and as it grows."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from authsvc.core.audit import listing
from authsvc.core.audit.listing import AuditListing
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row, record_event
from authsvc.core.lib.clock import SystemClock
from authsvc.models.audit import AuditRow
from authsvc.models.calls import Call
from authsvc.store import audit
from authsvc.store.postgres.database import Database

SECOND = timedelta(seconds=1)


@pytest.fixture
def audit_log(database: Database, monkeypatch: pytest.MonkeyPatch) -> AuditListing:
    monkeypatch.setattr(listing, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(listing, "_BATCH", 2)
    return AuditListing(database, SystemClock())


def row(number: int, age: float = 0.0) -> AuditRow:
    """Return a new event that was made some seconds ago."""
    event = AuditEvent(
        AuditType.LOGIN, Call(f"r{number}", "test"), detail={"methods": [str(number)]}
    )
    return event_row(SystemClock().now() - age * SECOND, event)


async def store(database: Database, *rows: AuditRow) -> None:
    async with database.transaction() as connection:
        for each in rows:
            await audit.insert(connection, each)


async def test_newest_events_are_read_by_page(audit_log: AuditListing, database: Database) -> None:
    assert await audit_log.newest(2) == []
    rows = [row(number, age=3_600 * (5 - number)) for number in range(5)]
    await store(database, *rows)
    page = await audit_log.newest(2)
    assert [each.event_id for each in page] == [each.event_id for each in rows[3:]]
    before = await audit_log.newest(10, page[0].event_id)
    assert [each.event_id for each in before] == [each.event_id for each in rows[:3]]


async def test_event_is_read_as_it_was_recorded(
    audit_log: AuditListing, database: Database
) -> None:
    event = AuditEvent(AuditType.LOGIN, Call("r", "test"))
    async with database.transaction() as connection:
        await record_event(connection, SystemClock().now(), event)
    (found,) = await audit_log.newest(1)
    assert (found.type, found.call, found.user_id, found.detail) == (
        *("user.login", event.call, None, "{}"),
    )


async def test_new_events_follow_the_newest_and_come_once(
    audit_log: AuditListing, database: Database, database_dsn: str
) -> None:
    """Also one whose transaction ends after that of a later event, and more than fit a batch."""
    old = [row(number, age=10 - number) for number in range(5)]
    await store(database, *old)
    late = row(5, age=1)
    slow = await asyncpg.connect(database_dsn)
    try:
        transaction = slow.transaction()
        await transaction.start()
        await audit.insert(slow, late)
        following = audit_log.follow(2)
        async with asyncio.timeout(60):
            seen = [await anext(following) for _ in range(2)]
            assert [each.event_id for each in seen] == [each.event_id for each in old[3:]]
            new = [row(number) for number in range(6, 11)]
            await store(database, *new)
            seen = [await anext(following) for _ in range(5)]
            assert [each.event_id for each in seen] == [each.event_id for each in new]
            await transaction.commit()
            assert (await anext(following)).event_id == late.event_id
            await store(database, last := row(11))
            assert (await anext(following)).event_id == last.event_id
    finally:
        await slow.close()
