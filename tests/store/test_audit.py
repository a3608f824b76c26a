"""Audit events: what is stored and logged, and that a rollback removes them."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.ids import uuid7
from authsvc.errors import email_taken
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

_CALL = Call("request-1", "spiffe://authsvc.dev/app")


@pytest.fixture
def event(clock: FakeClock) -> AuditEvent:
    return AuditEvent(
        AuditType.LOGIN,
        _CALL,
        UserId(uuid7(clock.now())),
        SessionId(uuid7(clock.now())),
        ClientContext("2001:db8::1", "Browser/1.0\n", "device"),
        {"methods": ["pwd"], "new_device": False, "replaced": []},
    )


async def _stored(database: Database) -> list[asyncpg.Record]:
    async with database.connection() as connection:
        return await connection.fetch("SELECT * FROM audit_events ORDER BY event_id")


async def test_event_is_stored_with_all_fields(
    database: Database, clock: FakeClock, event: AuditEvent
) -> None:
    async with database.transaction() as connection:
        await record_event(connection, clock.now(), event)
    [row] = await _stored(database)
    assert isinstance(row["event_id"], UUID)
    assert row["occur_time"] == clock.now()
    assert (row["type"], row["caller"], row["request_id"]) == (
        "user.login",
        "spiffe://authsvc.dev/app",
        "request-1",
    )
    assert (row["user_id"], row["session_id"]) == (event.user_id, event.session_id)
    assert (str(row["ip"]), row["user_agent"]) == ("2001:db8::1", "Browser/1.0\n")
    assert json.loads(row["detail"]) == {"methods": ["pwd"], "new_device": False, "replaced": []}


async def test_event_without_user_or_client_is_stored(database: Database, clock: FakeClock) -> None:
    async with database.transaction() as connection:
        await record_event(connection, clock.now(), AuditEvent(AuditType.KEY_ROTATE, _CALL))
    [row] = await _stored(database)
    absent = ("user_id", "session_id", "ip")
    assert [row[name] for name in absent] == [None, None, None]
    assert row["detail"] == "{}"


async def test_event_is_rolled_back_with_its_transaction(
    database: Database, clock: FakeClock, event: AuditEvent
) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await record_event(connection, clock.now(), event)
            raise email_taken()

    with pytest.raises(type(email_taken())):
        await fail()
    assert await _stored(database) == []


async def test_event_is_logged_once_with_its_identifiers(
    database: Database, clock: FakeClock, event: AuditEvent
) -> None:
    with capture_logs() as logs:
        async with database.transaction() as connection:
            await record_event(connection, clock.now(), event)
    assert logs == [
        {
            "event": "audit",
            "log_level": "info",
            "type": "user.login",
            "caller": "spiffe://authsvc.dev/app",
            "request_id": "request-1",
            "user_id": str(event.user_id),
            "session_id": str(event.session_id),
            "ip": "2001:db8::1",
            "detail": {"methods": ["pwd"], "new_device": False, "replaced": []},
        }
    ]


@pytest.mark.parametrize("years", [-5, 0, 5, 50])
async def test_event_of_any_time_has_a_partition(
    database: Database, event: AuditEvent, years: int
) -> None:
    now = datetime.now(UTC) + timedelta(days=365 * years)
    async with database.transaction() as connection:
        await record_event(connection, now, event)
    assert len(await _stored(database)) == 1


async def test_simultaneous_events_keep_their_order(database: Database, clock: FakeClock) -> None:
    async with database.transaction() as connection:
        for number in range(20):
            event = AuditEvent(AuditType.LOGIN_FAILURE, _CALL, detail={"cause": str(number)})
            await record_event(connection, clock.now(), event)
    rows = await _stored(database)
    assert [int(json.loads(row["detail"])["cause"]) for row in rows] == list(range(20))
