"""Copies of definitions: read when their version changed, and known to be fresh or not."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from authsvc.core.lib.definitions import Definitions
from authsvc.errors import StoreUnavailable
from authsvc.store import definitions as store
from authsvc.store.definitions import Topic
from authsvc.store.postgres.database import Connection, Database

SECOND = timedelta(seconds=1)


class Copy:
    """Counts how often each topic is read."""

    def __init__(self, definitions: Definitions) -> None:
        self.reads = dict.fromkeys(Topic, 0)
        self.read = asyncio.Event()
        for topic in Topic:
            definitions.follow(topic, partial(self._load, topic))

    async def _load(self, topic: Topic, _: Connection) -> None:
        self.reads[topic] += 1
        self.read.set()


async def change(database: Database, topic: Topic) -> None:
    async with database.transaction() as connection:
        await store.change(connection, topic)


async def test_topic_is_read_again_only_when_it_changed(database: Database) -> None:
    definitions = Definitions(database, SECOND)
    copy = Copy(definitions)
    assert not definitions.is_fresh()
    for _ in range(2):
        await definitions.refresh()
        assert copy.reads == {Topic.POLICIES: 1, Topic.ROLES: 1}
    assert definitions.is_fresh()
    await change(database, Topic.ROLES)
    await definitions.refresh()
    assert copy.reads == {Topic.POLICIES: 1, Topic.ROLES: 2}


@pytest.mark.parametrize("rings", [True, False])
async def test_change_is_noticed_with_and_without_the_doorbell(
    database: Database, rings: bool
) -> None:
    # Without a ring, only the next look finds it.
    definitions = Definitions(database, SECOND)
    copy = Copy(definitions)
    running = asyncio.create_task(definitions.run())
    try:
        await asyncio.wait_for(copy.read.wait(), 30)
        await definitions.refresh()
        copy.read.clear()
        await change(database, Topic.POLICIES)
        if rings:
            definitions.ring()
        await asyncio.wait_for(copy.read.wait(), 30)
    finally:
        running.cancel()
    assert copy.reads[Topic.POLICIES] == 2


async def test_copies_are_not_fresh_after_the_server_was_left(database: Database) -> None:
    definitions = Definitions(database, SECOND)
    copy = Copy(definitions)
    await definitions.refresh()
    database.leave_server("a test")
    assert not definitions.is_fresh()
    await definitions.refresh()
    assert definitions.is_fresh()
    assert copy.reads == {Topic.POLICIES: 2, Topic.ROLES: 2}


async def test_refresh_fails_without_the_database(database: Database) -> None:
    definitions = Definitions(database, SECOND)
    copy = Copy(definitions)
    await definitions.refresh()
    await database.close()
    with pytest.raises(StoreUnavailable):
        await definitions.refresh()
    # A change that was made is not undone by that.
    await definitions.note_change()
    assert copy.reads == {Topic.POLICIES: 1, Topic.ROLES: 1}


async def test_copies_grow_stale(database: Database) -> None:
    definitions = Definitions(database, timedelta(microseconds=1))
    await definitions.refresh()
    assert not definitions.is_fresh()
    assert definitions.age() > 0
