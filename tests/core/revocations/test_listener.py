"""The listener: what it passes on, and that it never wrongly claims to be fresh."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from authsvc.core.revocations.listener import Revocation, RevocationListener
from structlog.testing import capture_logs

from authsvc.core.lib.ids import uuid7
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.store import revocations
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.clock import FakeClock
from tests.support.databases import freeze, kill, opened, resume, settings_for
from tests.support.proxy import Proxy

# Only bounds a failing test; nothing is measured by it.
_PATIENCE = 30.0


class Cache:
    """A cache's view of a listener: records the calls in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.listener: RevocationListener | None = None

    def on_event(self, revocation: Revocation) -> None:
        self.heard.append(f"{revocation.kind}:{revocation.id}")

    def on_gap(self) -> None:
        assert self.listener
        assert not self.listener.is_fresh()
        self.heard.append("gap")


@pytest.fixture
def cache() -> Cache:
    return Cache()


@asynccontextmanager
async def _listening(
    dsn: str, cache: Cache, staleness: float = 10
) -> AsyncIterator[RevocationListener]:
    listener = RevocationListener(
        database=settings_for(dsn),
        staleness=timedelta(seconds=staleness),
        on_event=cache.on_event,
        on_gap=cache.on_gap,
    )
    cache.listener = listener
    assert not listener.is_fresh()
    task = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not listener.is_fresh()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not condition():  # noqa: ASYNC110 - caches are notified by calls, not by events
            await asyncio.sleep(0.005)


async def _revoke(database: Database, clock: FakeClock, key_id: str) -> None:
    async with database.connection() as connection:
        await revocations.append(connection, clock.now(), key_id=key_id)


async def test_events_are_dispatched_by_kind(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    session, user = SessionId(uuid7(clock.now())), UserId(uuid7(clock.now()))
    api_key = ApiKeyId(uuid7(clock.now()))
    async with _listening(database_dsn, cache) as listener:
        await _until(listener.is_fresh)
        async with database.transaction() as connection:
            await revocations.append(
                connection,
                clock.now(),
                session_ids=[session],
                user_id=user,
                key_id="key-1",
                api_key_id=api_key,
            )
        await _until(lambda: len(cache.heard) == 5)
    assert cache.heard == [
        *("gap", f"session:{session}", f"user:{user}", "key:key-1", f"api_key:{api_key}")
    ]


@pytest.mark.slow
async def test_freshness_is_not_renewed_past_undelivered_event(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with _listening(database_dsn, cache, staleness=0.1) as listener:
        await _until(listener.is_fresh)
        for number in range(50):
            before = len(cache.heard)
            await _revoke(database, clock, str(number))
            acknowledged = time.monotonic()
            # Observes every iteration of the loop.
            while listener._complete_until < acknowledged:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            assert {f"key:{number}", "gap"} & set(cache.heard[before:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hurt", "mend"), [(kill, EmbeddedPostgres.start), (freeze, resume)], ids=["killed", "frozen"]
)
async def test_lost_server_is_detected_and_its_return_reported_as_gap(
    own_server: EmbeddedPostgres,
    clock: FakeClock,
    cache: Cache,
    hurt: Callable[[EmbeddedPostgres], None],
    mend: Callable[[EmbeddedPostgres], None],
) -> None:
    await migrate(own_server.dsn())
    async with _listening(own_server.dsn(), cache, staleness=1) as listener:
        await _until(listener.is_fresh)
        with capture_logs() as logs:
            hurt(own_server)
            await _until(lambda: "revocation_listener_down" in [entry["event"] for entry in logs])
        assert not listener.is_fresh()
        await asyncio.to_thread(mend, own_server)
        await _until(listener.is_fresh)
        assert cache.heard[:2] == ["gap", "gap"]

        before = len(cache.heard)
        async with opened(own_server.dsn()) as database:
            await _revoke(database, clock, "after")
        # On a busy machine the connection may just have been given up again.
        await _until(lambda: bool({"key:after", "gap"} & set(cache.heard[before:])))


@pytest.mark.slow
async def test_silent_network_is_detected(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    async with Proxy(database_dsn) as proxy, _listening(proxy.dsn, cache, 0.5) as listener:
        await _until(listener.is_fresh)
        proxy.hold()
        await _revoke(database, clock, "not heard")
        await _until(lambda: not listener.is_fresh())
        assert set(cache.heard) == {"gap"}
        before = len(cache.heard)
        proxy.release()
        await _until(listener.is_fresh)
        # Either received late on the same connection, or everything is dropped on a new one.
        assert cache.heard[before] in {"gap", "key:not heard"}


async def test_freshness_expires(
    database_dsn: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _listening(database_dsn, cache) as listener:
        await _until(listener.is_fresh)
        later = time.monotonic() + 10
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: later)
            assert not listener.is_fresh()
        assert listener.is_fresh()


async def test_unknown_events_are_ignored_and_logged(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    hostile = ["", ":", "session", "session:", "session:1", "user:x'; DROP", "device:1", "key:"]
    with capture_logs() as logs:
        async with _listening(database_dsn, cache) as listener:
            await _until(listener.is_fresh)
            async with database.connection() as connection:
                for payload in hostile:
                    await connection.execute("SELECT pg_notify('authsvc_revocations', $1)", payload)
            await _revoke(database, clock, "good")
            await _until(lambda: len(cache.heard) == 2)
    assert cache.heard == ["gap", "key:good"]
    assert [entry["event"] for entry in logs].count("revocation_malformed") == len(hostile)


async def test_failed_eviction_clears_whole_cache(
    database: Database, database_dsn: str, clock: FakeClock, cache: Cache
) -> None:
    def fail(revocation: Revocation) -> None:
        raise RuntimeError

    gaps: list[None] = []
    listener = RevocationListener(
        database=settings_for(database_dsn),
        staleness=timedelta(seconds=10),
        on_event=fail,
        on_gap=lambda: gaps.append(None),
    )
    task = asyncio.create_task(listener.run())
    await _until(listener.is_fresh)
    with capture_logs() as logs:
        await _revoke(database, clock, "key")
        await _until(lambda: len(gaps) == 2)
    assert [entry["event"] for entry in logs] == ["revocation_handler_failed"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.slow
async def test_listener_behind_pooler_is_never_fresh(database_dsn: str, cache: Cache) -> None:
    async with Proxy(database_dsn, process_id=4711) as proxy:
        with capture_logs() as logs:
            async with _listening(proxy.dsn, cache) as listener:
                await _until(lambda: cache.heard.count("gap") >= 3)
                assert not listener.is_fresh()
    assert [(entry["event"], entry["error"]) for entry in logs] == [
        ("revocation_listener_down", "PoolerError")
    ]
