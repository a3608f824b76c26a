"""Retention: all due rows are removed in batches, concurrently, and despite failures."""

import asyncio
import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from authsvc.config import RetentionSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.retention.cleanup import Retention
from authsvc.models.calls import Call
from authsvc.models.limits import Charge, Policy
from authsvc.models.retention import Plan
from authsvc.store import revocations, token_validities
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.codes import Coded
from tests.support.logs import caught

_SETTINGS = RetentionSettings(batch_size=3, interval=timedelta(milliseconds=10))


async def _fill(database: Database, clock: FakeClock, count: int) -> None:
    async with database.transaction() as connection:
        for number in range(count):
            await revocations.append(connection, clock.now(), key_id=str(number))
            await record_event(connection, clock.now(), AuditEvent(AuditType.LOGIN, Call("", "")))


async def _count(database: Database, table: str) -> int:
    async with database.connection() as connection:
        count: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return count


async def _forbid(database: Database, table: str) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'not now'; END $$"
        )
        await connection.execute(
            f"CREATE TRIGGER forbid BEFORE DELETE ON {table} EXECUTE FUNCTION forbid()"
        )


async def test_removes_due_rows_in_batches_and_keeps_the_rest(
    database: Database, clock: FakeClock
) -> None:
    retention = Retention(database=database, settings=_SETTINGS, clock=clock)
    await _fill(database, clock, 10)
    clock.advance(_SETTINGS.revocations)
    await _fill(database, clock, 2)
    removed = await retention.run_once()
    assert (removed["revocations"], removed["audit_events"]) == (0, 0)

    clock.advance(timedelta(seconds=1))
    assert (await retention.run_once())["revocations"] == 10
    assert await _count(database, "revocations") == 2

    clock.advance(_SETTINGS.audit_events)
    assert (await retention.run_once())["audit_months"] > 0
    assert await _count(database, "audit_events") == 0


async def test_keeps_revocations_while_tokens_of_other_settings_are_valid(
    database: Database, clock: FakeClock
) -> None:
    settings = RetentionSettings(revocations=timedelta(hours=2))
    retention = Retention(database=database, settings=settings, clock=clock)
    async with database.connection() as connection:
        await token_validities.note(connection, timedelta(days=5), clock.now())
    await _fill(database, clock, 3)
    for _ in range(5):
        plans = {plan.kind: plan for plan in await retention.plan()}
        assert (plans["revocations"].due, plans["revocations"].period) == (0, timedelta(days=5))
        assert (await retention.run_once())["revocations"] == 0
        clock.advance(timedelta(days=1))
    clock.advance(timedelta(minutes=3))
    assert (await retention.run_once())["revocations"] == 3


@pytest.mark.slow
async def test_expired_codes_are_removed(coded: Coded) -> None:
    for purpose in Purpose:
        await coded.issue(purpose)
    retention = Retention(database=coded.database, settings=_SETTINGS, clock=coded.clock)
    assert (await retention.run_once())["one_time_codes"] == 0
    coded.clock.advance(timedelta(minutes=10, seconds=1))
    assert (await retention.run_once())["one_time_codes"] == 3
    coded.clock.advance(timedelta(hours=24))
    assert (await retention.run_once())["one_time_codes"] == 1


@pytest.mark.slow
async def test_removes_fully_replenished_rate_limits(database: Database, clock: FakeClock) -> None:
    hourly = {"hourly": Policy("hourly", 1, timedelta(hours=1))}
    limiter = RateLimiter(database=database, policies=hourly, rejected_cache_size=10)
    await limiter.check([Charge("hourly", "in use")])
    long_ago = RateLimiter(
        database=database, policies=hourly, rejected_cache_size=10, clock=lambda: 0
    )
    for number in range(10):
        await long_ago.check([Charge("hourly", str(number))])
    removed = await Retention(database=database, settings=_SETTINGS, clock=clock).run_once()
    assert removed["rate_limits"] == 10
    assert not (await limiter.get("hourly", "in use")).allowed


@pytest.mark.slow
async def test_two_replicas_share_the_work(database: Database, clock: FakeClock) -> None:
    await _fill(database, clock, 50)
    clock.advance(timedelta(days=10_000))
    replicas = [Retention(database=database, settings=_SETTINGS, clock=clock) for _ in range(2)]
    with capture_logs() as logs:
        results = await asyncio.gather(*(replica.run_once() for replica in replicas))
    assert sum(result["revocations"] for result in results) == 50
    assert await _count(database, "revocations") == 0
    assert "retention_failed" not in [entry["event"] for entry in logs]


@pytest.mark.slow
async def test_failing_kind_is_logged_and_does_not_stop_others(
    database: Database, clock: FakeClock
) -> None:
    await _fill(database, clock, 5)
    await _forbid(database, "revocations")
    clock.advance(timedelta(days=10_000))
    retention = Retention(database=database, settings=_SETTINGS, clock=clock)
    with capture_logs() as logs:
        removed = await retention.run_once()
    assert "revocations" not in removed
    assert [(e["event"], e.get("kind")) for e in logs if e["log_level"] == "warning"] == [
        ("retention_failed", "revocations")
    ]
    assert await _count(database, "audit_events") == 0

    async with database.connection() as connection:
        await connection.execute("DROP FUNCTION forbid CASCADE")
    assert (await retention.run_once())["revocations"] == 5


@pytest.mark.slow
async def test_keeps_running_after_failures(database: Database, clock: FakeClock) -> None:
    await _forbid(database, "revocations")
    clock.advance(timedelta(days=10_000))
    task = asyncio.create_task(Retention(database=database, settings=_SETTINGS, clock=clock).run())
    with capture_logs() as logs:
        async with asyncio.timeout(30):
            while len(logs) < 2:  # noqa: ASYNC110 - only the log shows it
                await asyncio.sleep(0.01)
    assert {entry["event"] for entry in logs} <= {"retention_failed", "retention"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_counts_are_not_masked_in_the_log(database: Database, clock: FakeClock) -> None:
    await _fill(database, clock, 2)
    clock.advance(_SETTINGS.revocations + timedelta(seconds=1))
    with caught() as lines:
        await Retention(database=database, settings=_SETTINGS, clock=clock).run_once()
    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert line["event"] == "retention"
    counts = {name: value for name, value in line.items() if name.endswith("_count")}
    assert counts["revocations_count"] == 2
    assert {"api_keys_count", "one_time_codes_count"} <= set(counts)
    assert all(isinstance(count, int) for count in counts.values())


async def test_plan_tells_what_a_run_would_remove(database: Database, clock: FakeClock) -> None:
    retention = Retention(database=database, settings=_SETTINGS, clock=clock)
    start = clock.now()
    await _fill(database, clock, 4)
    clock.advance(timedelta(days=10))
    await _fill(database, clock, 2)
    clock.advance(timedelta(days=25))
    plans = {plan.kind: plan for plan in await retention.plan()}
    assert plans["revocations"] == Plan(
        "revocations",
        _SETTINGS.revocations,
        4,
        start,
        start + timedelta(days=10) + _SETTINGS.revocations,
    )
    assert plans["audit_events"] == Plan(
        "audit_events", _SETTINGS.audit_events, 0, start, start + _SETTINGS.audit_events
    )
    assert plans["sessions"] == Plan("sessions", _SETTINGS.sessions)
    removed = await retention.run_once()
    assert {kind: removed[kind] for kind in plans} == {
        kind: plan.due for kind, plan in plans.items()
    }
    # Months are part of the events.
    assert set(removed) - set(plans) == {"audit_months"}


async def test_plan_takes_times_without_end(database: Database, clock: FakeClock) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO challenges (challenge_id, kind, create_time, expire_time)"
            " VALUES (gen_random_uuid(), 'mfa', now(), 'infinity')"
        )
    plans = await Retention(database=database, settings=_SETTINGS, clock=clock).plan()
    assert Plan("challenges", timedelta(0)) in plans
