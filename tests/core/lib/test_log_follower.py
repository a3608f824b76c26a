"""The follower: what it passes on, and that it never wrongly claims to be fresh."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from authsvc.core.lib import log_follower as module
from authsvc.core.lib.clock import ClockSample, elapsed
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import LoggedRevocation, Revocation
from authsvc.store import revocations
from authsvc.store.doorbell import Channel
from authsvc.store.log_reading import Position
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.clock import FakeClock
from tests.support.databases import freeze, kill, opened, resume, settings_for
from tests.support.jobs import running
from tests.support.proxy import Proxy

# Only bounds a failing test; nothing is measured by it.
_PATIENCE = 30.0
_LOSE_READERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%server_run()%' AND pid <> pg_backend_pid()
"""


class Cache:
    """A cache's view of a reader: records the calls in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.positions: list[Position] = []

    def on_event(self, revocation: Revocation) -> None:
        self.heard.append(f"{revocation.kind}:{revocation.id}")

    def on_gap(self) -> None:
        self.heard.append("gap")


@pytest.fixture
def cache() -> Cache:
    return Cache()


def _reader(
    database: Database, cache: Cache, staleness: float = 10
) -> LogFollower[LoggedRevocation]:
    return LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=timedelta(seconds=staleness),
        on_event=cache.on_event,
        on_gap=cache.on_gap,
    )


@asynccontextmanager
async def _reading(
    dsn: str, cache: Cache, staleness: float = 10
) -> AsyncIterator[LogFollower[LoggedRevocation]]:
    """Start a replica that reads, but hears no doorbell."""
    async with opened(dsn) as database:
        reader = _reader(database, cache, staleness)
        assert not reader.is_fresh()
        async with running(reader):
            await _until(reader.is_fresh)
            yield reader


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not condition():  # noqa: ASYNC110 - caches are notified by calls, not by events
            await asyncio.sleep(0.005)


async def _revoke(database: Database, clock: FakeClock, key_id: str) -> None:
    async with database.connection() as connection:
        await revocations.append(connection, clock.now(), key_id=key_id)


async def test_revocations_are_passed_on_by_kind(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    session, user = SessionId(uuid7(clock.now())), UserId(uuid7(clock.now()))
    api_key = ApiKeyId(uuid7(clock.now()))
    async with _reading(database_dsn, cache) as reader:
        async with database.transaction() as connection:
            await revocations.append(
                connection,
                clock.now(),
                session_ids=[session],
                user_id=user,
                key_id="key-1",
                api_key_id=api_key,
            )
        reader.ring()
        await _until(lambda: len(cache.heard) == 5)
    assert cache.heard[0] == "gap"
    assert set(cache.heard[1:]) == {
        *(f"session:{session}", f"user:{user}", "key:key-1", f"api_key:{api_key}")
    }


@pytest.mark.parametrize("heard", [True, False], ids=["doorbell", "polling only"])
async def test_two_replicas_know_within_the_bound(
    database: Database, database_dsn: str, clock: FakeClock, heard: bool
) -> None:
    """A lost doorbell, or a pooler that has none, costs only speed: polling holds the bound."""
    caches = Cache(), Cache()
    # With a doorbell, polling alone would take longer than the test waits.
    staleness = 8 * _PATIENCE if heard else 1
    async with (
        _reading(database_dsn, caches[0], staleness) as here,
        _reading(database_dsn, caches[1], staleness) as there,
        opened(database_dsn) as third,
    ):
        writers = [Doorbell(each, settings_for(database_dsn)) for each in (database, third)]
        if heard:
            for bell, reader in zip(writers, (here, there), strict=True):
                bell.answer(Channel.REVOCATIONS, reader.ring)
        async with running(*(writers if heard else ())):
            if heard:
                await _until(lambda: all(bell.is_listening for bell in writers))
            for number in range(5):
                await _revoke(database, clock, str(number))
                acknowledged = elapsed()
                key = f"key:{number}"
                for cache, reader in zip(caches, (here, there), strict=True):
                    # Until the replica knows, it says so once the bound has passed.
                    while key not in cache.heard:
                        if reader.is_fresh():
                            assert elapsed() - acknowledged <= reader._staleness
                        await asyncio.sleep(0)
        for bell in writers:
            await bell.close()


@pytest.mark.slow
async def test_freshness_is_not_renewed_past_unread_revocation(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with _reading(database_dsn, cache, staleness=0.1) as reader:
        for number in range(50):
            before = len(cache.heard)
            await _revoke(database, clock, str(number))
            acknowledged = elapsed()
            # Observes every iteration of the loop.
            while reader._complete_until < acknowledged:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            assert {f"key:{number}", "gap"} & set(cache.heard[before:])


async def test_late_commit_is_passed_on(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with _reading(database_dsn, cache) as reader:
        async with database.transaction() as late:
            await revocations.append(late, clock.now(), key_id="late")
            await _revoke(database, clock, "early")
            reader.ring()
            await _until(lambda: "key:early" in cache.heard)
        reader.ring()
        await _until(lambda: "key:late" in cache.heard)
    assert cache.heard == ["gap", "key:early", "key:late"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hurt", "mend"), [(kill, EmbeddedPostgres.start), (freeze, resume)], ids=["killed", "frozen"]
)
async def test_lost_server_is_noticed_and_what_it_revoked_is_read_later(
    own_server: EmbeddedPostgres,
    clock: FakeClock,
    cache: Cache,
    hurt: Callable[[EmbeddedPostgres], None],
    mend: Callable[[EmbeddedPostgres], None],
) -> None:
    await migrate(own_server.dsn())
    async with _reading(own_server.dsn(), cache, staleness=1) as reader:
        with capture_logs() as logs:
            hurt(own_server)
            await _until(lambda: "log_follower_down" in [entry["event"] for entry in logs])
        await _until(lambda: not reader.is_fresh())
        assert cache.heard == ["gap"]
        await asyncio.to_thread(mend, own_server)
        async with opened(own_server.dsn()) as database:
            await _revoke(database, clock, "after")
        await _until(reader.is_fresh)
        # After a crash everything is dropped: transaction ids may be given out again.
        await _until(lambda: len(cache.heard) > 1)
        assert cache.heard[1] == ("gap" if hurt is kill else "key:after")


async def test_lost_connection_is_no_gap(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with _reading(database_dsn, cache) as reader:
        async with database.connection() as connection:
            assert await connection.fetch(_LOSE_READERS)
        await _revoke(database, clock, "meanwhile")
        reader.ring()
        await _until(lambda: len(cache.heard) > 1)
    assert cache.heard == ["gap", "key:meanwhile"]


async def test_long_outage_is_a_gap(
    database: Database,
    database_dsn: str,
    clock: FakeClock,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _reading(database_dsn, cache) as reader:
        later = elapsed() + 3_600
        monkeypatch.setattr(module, "elapsed", lambda: later)
        assert not reader.is_fresh()
        await _revoke(database, clock, "meanwhile")
        reader.ring()
        await _until(reader.is_fresh)
    assert cache.heard == ["gap", "gap"]


@pytest.mark.slow
async def test_silent_network_is_noticed(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with Proxy(database_dsn) as proxy, _reading(proxy.dsn, cache, 0.5) as reader:
        proxy.hold()
        await _revoke(database, clock, "not heard")
        await _until(lambda: not reader.is_fresh())
        assert set(cache.heard) == {"gap"}
        proxy.release()
        await _until(reader.is_fresh)
        assert "key:not heard" in cache.heard


async def test_freshness_expires(
    database_dsn: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _reading(database_dsn, cache) as reader:
        assert reader.age() < 10
        later = reader._complete_until + 10.001
        with monkeypatch.context() as patch:
            patch.setattr(module, "elapsed", lambda: later)
            assert not reader.is_fresh()
            assert reader.age() > 10
        assert reader.is_fresh()


async def test_more_than_is_worth_reading_is_a_gap(
    database: Database,
    database_dsn: str,
    clock: FakeClock,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LIMIT", 3)
    monkeypatch.setattr(module, "_SLICE", 2)
    async with _reading(database_dsn, cache) as reader:
        for count, heard in ((4, 2), (3, 5)):
            async with database.transaction() as connection:
                for number in range(count):
                    await revocations.append(connection, clock.now(), key_id=str(number))
            reader.ring()
            await _until(lambda: len(cache.heard) == heard)  # noqa: B023 - awaited here
    assert cache.heard[:2] == ["gap", "gap"]
    assert set(cache.heard[2:]) == {"key:0", "key:1", "key:2"}


async def test_failed_eviction_clears_whole_cache(
    database: Database, clock: FakeClock, cache: Cache
) -> None:
    def fail(_: Revocation) -> None:
        raise RuntimeError

    reader = LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=timedelta(seconds=10),
        on_event=fail,
        on_gap=cache.on_gap,
    )
    async with running(reader):
        await _until(reader.is_fresh)
        with capture_logs() as logs:
            await _revoke(database, clock, "key")
            reader.ring()
            await _until(lambda: len(cache.heard) == 2)
    assert [entry["event"] for entry in logs] == ["log_handler_failed"]


async def test_left_server_drops_everything_and_another_connection_reads_on(
    database: Database, clock: FakeClock, cache: Cache
) -> None:
    reader = _reader(database, cache)
    async with running(reader):
        await _until(reader.is_fresh)
        database.leave_server("a test")
        assert not reader.is_fresh()
        assert cache.heard == ["gap", "gap"]
        await _until(reader.is_fresh)
        await _revoke(database, clock, "later")
        reader.ring()
        await _until(lambda: "key:later" in cache.heard)
    assert cache.heard == ["gap", "gap", "gap", "key:later"]


async def test_read_that_was_under_way_when_the_server_was_left_does_not_count(
    database: Database, cache: Cache, clock: FakeClock
) -> None:
    def leave_and_record(revocation: Revocation) -> None:
        database.leave_server("a test")
        assert not reader.is_fresh()
        cache.on_event(revocation)

    reader = LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=timedelta(seconds=10),
        on_event=leave_and_record,
        on_gap=cache.on_gap,
    )
    async with running(reader):
        await _until(reader.is_fresh)
        await _revoke(database, clock, "last words")
        reader.ring()
        await _until(lambda: len(cache.heard) == 4)
        # Only the read on the next connection makes it fresh: it takes a new position.
        assert cache.heard == ["gap", "gap", "key:last words", "gap"]


async def test_each_read_tells_the_database_time(database: Database, cache: Cache) -> None:
    samples: list[ClockSample] = []
    reader = LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=timedelta(seconds=0.1),
        on_event=cache.on_event,
        on_gap=cache.on_gap,
        observe=samples.append,
    )
    async with running(reader):
        await _until(lambda: len(samples) >= 3)
    assert all(sample.sent < sample.received for sample in samples)
    times: list[datetime] = [sample.database_time for sample in samples]
    assert times == sorted(times)


def _paged(
    database: Database, cache: Cache, position: Position | None
) -> LogFollower[LoggedRevocation]:
    return LogFollower(
        database=database,
        source=revocations.LOG,
        staleness=timedelta(seconds=10),
        on_event=cache.on_event,
        on_gap=cache.on_gap,
        on_position=lambda position, _: cache.positions.append(position),
        position=position,
        in_pages=True,
    )


async def test_follower_in_pages_goes_on_from_its_position(
    database: Database, clock: FakeClock, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much was committed meanwhile; a restart may fall between two pages."""
    monkeypatch.setattr(module, "_LIMIT", 3)
    first = _paged(database, cache, None)
    async with running(first):
        await _until(first.is_fresh)
    assert cache.heard == ["gap"]
    async with database.transaction() as connection:
        for number in range(5):
            await revocations.append(connection, clock.now(), key_id=str(number))
    second = _paged(database, cache, cache.positions[-1])
    async with running(second):
        await _until(second.is_fresh)
    assert cache.heard == ["gap", *(f"key:{number}" for number in range(5))]
    third = _paged(database, cache, cache.positions[-2])
    async with running(third):
        await _until(third.is_fresh)
    assert cache.heard[6:] == ["key:3", "key:4"]


async def test_follower_in_pages_reads_on_after_its_server_was_left(
    database: Database, clock: FakeClock, cache: Cache
) -> None:
    follower = _paged(database, cache, None)
    async with running(follower):
        await _until(follower.is_fresh)
        database.leave_server("a test")
        assert not follower.is_fresh()
        await _revoke(database, clock, "meanwhile")
        await _until(follower.is_fresh)
    assert cache.heard == ["gap", "key:meanwhile"]


async def test_follower_in_pages_begins_anew_in_another_run(
    database: Database, clock: FakeClock, cache: Cache
) -> None:
    first = _paged(database, cache, None)
    async with running(first):
        await _until(first.is_fresh)
    other_run = replace(cache.positions[-1], run_id=uuid4())
    await _revoke(database, clock, "meanwhile")
    second = _paged(database, cache, other_run)
    async with running(second):
        await _until(second.is_fresh)
        await _revoke(database, clock, "later")
        second.ring()
        await _until(lambda: len(cache.heard) == 3)
    assert cache.heard == ["gap", "gap", "key:later"]
