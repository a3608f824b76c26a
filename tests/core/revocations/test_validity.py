"""How long a revocation can concern a token: as long as the longest that any replica issued."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.core.revocations import validity as module
from authsvc.core.revocations.validity import TokenValidity
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

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
