"""Keys and peppers age from when the first replica used them."""

import asyncio
from datetime import timedelta

from authsvc.core.secrets_at_rest.key_ages import KeyAges
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock


def ages(database: Database, clock: FakeClock, key: str = "k1", pepper: str = "p1") -> KeyAges:
    return KeyAges(database=database, newest_key_id=key, newest_pepper_id=pepper, clock=clock)


async def test_age_counts_from_the_first_use_by_any_replica(
    database: Database, clock: FakeClock
) -> None:
    first = ages(database, clock)
    assert (first.keyring(), first.pepper()) == (None, None)
    await first.note()
    assert (first.keyring(), first.pepper()) == (0, 0)
    clock.advance(timedelta(days=3))
    # Another replica, or this one after a restart, with a new pepper; and one with a new key.
    second, third = ages(database, clock, pepper="p2"), ages(database, clock, key="k2")
    await asyncio.gather(second.note(), third.note())
    days = 3 * 24 * 3600
    assert (second.keyring(), second.pepper()) == (days, 0)
    assert (third.keyring(), third.pepper()) == (0, days)
    clock.advance(timedelta(hours=1))
    assert (first.keyring(), third.keyring()) == (days + 3600, 3600)


async def test_replicas_that_start_together_agree(database: Database, clock: FakeClock) -> None:
    replicas = [ages(database, clock) for _ in range(8)]
    late = FakeClock()
    late.advance(timedelta(minutes=5))
    behind = [ages(database, late) for _ in range(8)]
    await asyncio.gather(*(each.note() for each in (*replicas, *behind)))
    again = ages(database, late)
    await again.note()
    assert again.keyring() == 300
