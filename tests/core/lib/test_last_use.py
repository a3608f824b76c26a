"""Recording last use when many times are waiting or the database is unavailable."""

import asyncio

import pytest

from authsvc.core.lib import last_use
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.last_use import LastUse
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import SessionId
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Database
from tests.support.databases import giving_up_locks, settings_for
from tests.support.sessions import DAY, SECOND, World

_WAITING = (
    "SELECT query_start FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def test_writes_exceeding_one_statement_are_split(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_use, "_ROWS_A_STATEMENT", 2)
    replica = world.replica()
    ids = [(await world.open(replica)).session_id for _ in range(5)]
    world.clock.advance(DAY)
    noting = LastUse(world.database, store.touch, SECOND)
    for session_id in ids:
        noting.note(session_id, world.clock.now())
    await noting.flush()
    times = {(await world.row(session_id))["last_use_time"] for session_id in ids}
    assert times == {world.clock.now()}


async def test_pending_writes_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_use, "_MAX_WAITING", 10)
    noting = LastUse(world.database, store.touch, SECOND)
    first = SessionId(uuid7(world.clock.now()))
    noting.note(first, world.clock.now())
    for _ in range(100):
        noting.note(SessionId(uuid7(world.clock.now())), world.clock.now())
    assert len(noting._waiting) == 10
    world.clock.advance(1)
    noting.note(first, world.clock.now())
    assert noting._waiting[first] == world.clock.now()


@pytest.mark.slow
async def test_failed_writes_are_retried_later(
    world: World, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_use, "_FLUSH_SECONDS", 0.01)
    session_id = (await world.open(world.replica())).session_id
    world.clock.advance(DAY)
    impatient = await Database.open(settings_for(giving_up_locks(database_dsn, "200ms")))
    noting = LastUse(impatient, store.touch, SECOND)
    noting.note(session_id, world.clock.now())
    async with world.database.transaction() as connection:
        await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable):
            await noting.flush()
        running = asyncio.create_task(noting.run())
        attempts: set[object] = set()
        async with asyncio.timeout(30):
            while len(attempts) < 2:
                attempts |= {row["query_start"] for row in await world.fetch(_WAITING)}
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while noting._waiting:  # noqa: ASYNC110 - success is not signalled
            await asyncio.sleep(0.01)
    running.cancel()
    assert (await world.row(session_id))["last_use_time"] == world.clock.now()
    await impatient.close()
