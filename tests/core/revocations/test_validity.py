"""How long a revocation can concern a token: as long as the longest that any replica issued."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from authsvc.core.revocations import validity as module
from authsvc.core.revocations.validity import TokenValidity
from authsvc.store import token_validities as store
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.databases import until, waits_for_a_lock

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)


def _replica(database: Database, clock: FakeClock, hours: int) -> TokenValidity:
    return TokenValidity(database=database, clock=clock, own=hours * _HOUR)


async def _known(replica: TokenValidity) -> timedelta:
    await replica.note()
    return replica.longest


async def test_longest_counts_until_its_last_token_has_expired(
    database: Database, clock: FakeClock
) -> None:
    before, after = _replica(database, clock, 5), _replica(database, clock, 1)
    assert await _known(before) == 5 * _HOUR
    for _ in range(60):
        clock.advance(_MINUTE)
        await before.note()
    # It was noted less than a minute before the last token.
    clock.advance(5 * _HOUR + _MINUTE)
    assert await _known(after) == 5 * _HOUR
    clock.advance(2 * _MINUTE)
    assert await _known(after) == _HOUR


async def test_replicas_with_other_settings_learn_of_each_other(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_READ_SECONDS", 0.001)
    short, long = _replica(database, clock, 1), _replica(database, clock, 5)
    await short.note()
    running = asyncio.create_task(short.run())
    await long.note()
    async with asyncio.timeout(60):
        while short.longest < 5 * _HOUR:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
    running.cancel()
    # The other one's settings are not its own.
    assert _replica(database, clock, 1).longest == _HOUR


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("minutes", [(0, 5), (5, 0)])
async def test_of_two_replicas_that_note_at_once_the_later_time_counts(
    database: Database, clock: FakeClock, minutes: tuple[int, int], is_known: bool
) -> None:
    start = clock.now()
    first, second = (start + each * _MINUTE for each in minutes)
    async with database.connection() as one, database.connection() as other:
        if is_known:
            await store.note(one, _HOUR, start - 5 * _MINUTE)
        async with one.transaction():
            await store.note(one, _HOUR, first)
            noting = asyncio.create_task(store.note(other, _HOUR, second))
            async with database.connection() as observer:
                await until(lambda: waits_for_a_lock(observer))
        await noting
        found = await one.fetch("SELECT validity, use_time FROM token_validities")
    assert [tuple(row) for row in found] == [(_HOUR, start + 5 * _MINUTE)]


async def test_replica_that_notes_an_old_validity_anew_keeps_it_from_removal(
    database: Database, clock: FakeClock
) -> None:
    await _replica(database, clock, 5).note()
    clock.advance(timedelta(days=7))
    other = _replica(database, clock, 1)
    async with database.connection() as one:
        async with one.transaction():
            await store.note(one, 5 * _HOUR, clock.now())
            noting = asyncio.create_task(other.note())
            async with database.connection() as observer:
                await until(lambda: waits_for_a_lock(observer))
        await noting
    assert other.longest == 5 * _HOUR


async def test_replicas_that_note_old_validities_anew_do_not_deadlock(
    database: Database, clock: FakeClock
) -> None:
    replicas = [_replica(database, clock, hours) for hours in (1, 2)]
    async with database.connection() as holder:
        for hours in (1, 2, 3):
            await store.note(holder, hours * _HOUR, clock.now())
        clock.advance(timedelta(days=7))
        async with holder.transaction():
            # Each is about to remove the row of the other, and then this one.
            await holder.execute("SELECT FROM token_validities WHERE validity = '3h' FOR UPDATE")
            noting = asyncio.gather(*(replica.note() for replica in replicas))
            await until(partial(_wait, holder, len(replicas)))
        await noting
    assert {await _known(replica) for replica in replicas} == {2 * _HOUR}


async def _wait(connection: Connection, count: int) -> bool:
    waiting = await connection.fetchval(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    return bool(waiting >= count)


async def test_many_replicas_note_at_once_and_old_rows_go(
    database: Database, clock: FakeClock
) -> None:
    replicas = [_replica(database, clock, hours) for hours in (1, 2, 3) * 10]
    for _ in range(3):
        assert set(await asyncio.gather(*map(_known, replicas))) <= {n * _HOUR for n in (1, 2, 3)}
        clock.advance(2 * _MINUTE)
    assert {await _known(replica) for replica in replicas} == {3 * _HOUR}
    clock.advance(timedelta(days=2))
    assert await _known(replicas[0]) == _HOUR
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM token_validities") == 1
