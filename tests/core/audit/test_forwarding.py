"""Forwarding: every event at least once, whatever fails, and one replica at a time."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from authsvc.config import AuditForwardSettings, SyslogSettings
from authsvc.core.audit import forwarding as module
from authsvc.core.audit.forwarding import AuditForwarding, NotForwarded
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.core.lib.clock import SystemClock
from authsvc.models.audit import AuditRow
from authsvc.models.calls import Call
from authsvc.outbound.syslog import SyslogTarget
from authsvc.store import audit
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.databases import opened
from tests.support.syslog_server import SyslogServer

# Only bounds a failing test.
_PATIENCE = 60.0


class Recorder:
    """A target that keeps what it gets; it refuses as many batches as `failures` says."""

    name = "recorder"
    limit = timedelta(seconds=10)

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failures = 0
        self.tried = 0

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    async def send(self, rows: Sequence[AuditRow]) -> None:
        self.tried += 1
        if self.failures:
            self.failures -= 1
            raise NotForwarded("down")
        self.batches.append([row.call.request_id for row in rows])

    async def close(self) -> None:
        pass


def _forwarding(database: Database, target: Any, **changes: Any) -> AuditForwarding:
    quick = {"first_retry": "1ms", "longest_retry": "10ms"}
    return AuditForwarding(
        database=database,
        target=target,
        settings=AuditForwardSettings.model_validate(quick | changes),
        clock=SystemClock(),
    )


async def _write(connection: Connection, name: str) -> None:
    event = AuditEvent(AuditType.LOGOUT, Call(name, "test"))
    await audit.insert(connection, event_row(SystemClock().now(), event))


async def _commit(database: Database, *names: str) -> None:
    async with database.transaction() as connection:
        for name in names:
            await _write(connection, name)


async def _all(forwarding: AuditForwarding) -> None:
    """Forward until there is nothing more, however often it fails."""
    for _ in range(100):
        if not await forwarding.forward_batch() and not forwarding._failures:
            return
    raise AssertionError("there is no end")


async def _begin(forwarding: AuditForwarding) -> None:
    """Make the row of the target, claim it, and take a position."""
    for _ in range(2):
        await forwarding.forward_batch()


async def test_events_are_forwarded_once_in_batches(database: Database) -> None:
    target = Recorder()
    forwarding = _forwarding(database, target, batch_size=2)
    await _begin(forwarding)
    await _commit(database, *"abcde")
    await _all(forwarding)
    assert sorted(target.names) == list("abcde")
    assert [len(batch) for batch in target.batches] == [2, 2, 1]
    await _all(forwarding)
    assert target.tried == 3
    assert forwarding.outcomes.read() == {("forwarded",): 5, ("failed",): 0}


async def test_late_commit_is_forwarded(database: Database) -> None:
    target = Recorder()
    forwarding = _forwarding(database, target)
    await _begin(forwarding)
    async with database.transaction() as late:
        await _write(late, "late")
        await _commit(database, "early")
        await _all(forwarding)
        assert target.names == ["early"]
    await _all(forwarding)
    assert target.names == ["early", "late"]


async def test_outage_of_the_target_loses_nothing_and_is_shown(database: Database) -> None:
    target = Recorder()
    forwarding = _forwarding(database, target, batch_size=3)
    await _begin(forwarding)
    await _commit(database, *"abcdefg")
    target.failures = 5
    with capture_logs() as logs:
        for _ in range(5):
            assert not await forwarding.forward_batch()
    assert target.names == []
    assert forwarding._failures == 5
    assert forwarding._pause() <= 0.01
    assert {entry["event"] for entry in logs} == {"audit_forward_failed"}
    assert forwarding.lag() > 0
    await _all(forwarding)
    assert sorted(target.names) == list("abcdefg")
    assert forwarding.outcomes.read() == {("forwarded",): 7, ("failed",): 15}


async def test_lag_is_warned_of_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    forwarding = _forwarding(database, Recorder(), warn_after="1s")
    await _begin(forwarding)
    with capture_logs() as logs:
        forwarding._warn()
        monkeypatch.setattr(forwarding, "lag", lambda: 2.0)
        forwarding._warn()
        forwarding._warn()
    assert [entry["event"] for entry in logs] == ["audit_forward_lags"]


@asynccontextmanager
async def _replicas(
    dsn: str, *targets: Any, **changes: Any
) -> AsyncIterator[list[AuditForwarding]]:
    databases = [opened(dsn) for _ in targets]
    opened_ones = [await each.__aenter__() for each in databases]
    try:
        yield [
            _forwarding(database, target, **changes)
            for database, target in zip(opened_ones, targets, strict=True)
        ]
    finally:
        for each in databases:
            await each.__aexit__(None, None, None)


async def test_one_replica_forwards_until_it_stops(database: Database, database_dsn: str) -> None:
    targets = Recorder(), Recorder()
    async with _replicas(database_dsn, *targets) as (first, second):
        await _begin(first)
        for number in range(5):
            await _commit(database, str(number))
            await asyncio.gather(first.forward_batch(), second.forward_batch())
        assert targets[0].names == list("01234")
        assert targets[1].tried == 0
        # A replica that doesn't forward shows the lag, too.
        assert second.lag() >= 0
        await first.stop()
        await _commit(database, "5")
        await _all(second)
        assert targets[1].names == ["5"]
        assert not await first.forward_batch()


async def test_expired_claim_is_taken_over_and_nothing_is_lost(
    database: Database, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that hangs while it sends: both send the batch, and only one goes on."""
    targets = Recorder(), Recorder()
    sending, go_on = asyncio.Event(), asyncio.Event()

    async def hang(rows: Sequence[AuditRow]) -> None:
        sending.set()
        await go_on.wait()
        await Recorder.send(targets[0], rows)

    async with _replicas(database_dsn, *targets) as (first, second):
        await _begin(first)
        await _commit(database, "a", "b")
        monkeypatch.setattr(targets[0], "send", hang)
        hanging = asyncio.create_task(first.forward_batch())
        await sending.wait()
        await second.forward_batch()
        assert targets[1].names == []
        async with database.connection() as connection:
            await connection.execute("UPDATE audit_forwards SET claim_until = '-infinity'")
        await _all(second)
        await _commit(database, "c")
        await _all(second)
        go_on.set()
        # Its outcome must not move the position of the other one back.
        assert not await hanging
        await _all(second)
    assert sorted(targets[1].names) == ["a", "b", "c"]
    assert sorted(targets[0].names) == ["a", "b"]


async def test_two_replicas_under_way_forward_each_event_at_least_once(
    database: Database, database_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a real server that dies in the middle of batches, while one replica stops."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    async with SyslogServer(tmp_path) as server:
        settings = SyslogSettings(host="localhost", port=server.port, ca_file=server.ca_file)
        targets = SyslogTarget(settings), SyslogTarget(settings)
        async with _replicas(database_dsn, *targets, batch_size=7) as (first, second):
            await _begin(first)
            running = [asyncio.create_task(each.run()) for each in (first, second)]
            for number in range(10):
                server.plan.append("kill")
                await _commit(database, *(f"{number}-{index}" for index in range(5)))
                if number == 5:
                    running[0].cancel()
                    await asyncio.gather(running[0], return_exceptions=True)
                    await first.stop()
            expected = {f"{number}-{index}" for number in range(10) for index in range(5)}
            async with asyncio.timeout(_PATIENCE):
                while _names(server) < expected:  # noqa: ASYNC110 - the server is a thread
                    await asyncio.sleep(0.01)
            running[1].cancel()
            await asyncio.gather(running[1], return_exceptions=True)
            await second.stop()
        assert _names(server) == expected
        ids = Counter(_bodies(server, "event_id"))
        assert len(ids) == len(expected)
        # A batch that was killed was sent again.
        assert server.connections > 10


def _bodies(server: SyslogServer, key: str) -> list[str]:
    return [json.loads(each[each.index(b"] {") + 2 :])[key] for each in list(server.messages)]


def _names(server: SyslogServer) -> set[str]:
    return set(_bodies(server, "request_id"))


async def test_new_run_of_the_server_repeats_and_loses_nothing(database: Database) -> None:
    """After a crash or a failover, positions mean nothing: events are found by their time."""
    target = Recorder()
    forwarding = _forwarding(database, target, batch_size=2)
    await _begin(forwarding)
    await _commit(database, *"abc")
    await _all(forwarding)
    target.failures = 1
    await _commit(database, *"de")
    assert not await forwarding.forward_batch()
    async with database.connection() as connection:
        await connection.execute("TRUNCATE server_runs")
    with capture_logs() as logs:
        await _all(forwarding)
    assert "audit_forward_position_lost" in [entry["event"] for entry in logs]
    await _commit(database, "f")
    await _all(forwarding)
    assert set(target.names) == set("abcdef")
    assert Counter(target.names)["f"] == 1
    await _all(forwarding)
    assert Counter(target.names)["f"] == 1


async def test_time_span_is_continued_where_it_failed(database: Database) -> None:
    target = Recorder()
    forwarding = _forwarding(database, target, batch_size=2)
    await forwarding.forward_batch()
    await _commit(database, *"abcd")
    sent = target.send

    async def fail_second(rows: Sequence[AuditRow]) -> None:
        if target.tried == 1:
            target.failures = 1
        await sent(rows)

    target.send = fail_second  # type: ignore[method-assign] # fails once
    assert not await forwarding.forward_batch()
    assert len(target.names) == 2
    await _all(forwarding)
    assert set(target.names) == set("abcd")
