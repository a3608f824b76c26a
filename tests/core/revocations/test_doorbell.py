"""The doorbell: who is rung after a commit, and what happens where nothing arrives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
from structlog.testing import capture_logs

from authsvc.app.build import open_parts
from authsvc.config import Settings
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.store import doorbell, revocations
from authsvc.store.doorbell import Channel, Subscription
from authsvc.store.postgres.database import Connection, Database
from tests.support.databases import opened, settings_for
from tests.support.jobs import running
from tests.support.proxy import Proxy

_PATIENCE = 30.0


class Process:
    """One process: its doorbell, and what it was rung for."""

    def __init__(self, database: Database, dsn: str) -> None:
        self.database = database
        self.bell = Doorbell(database, settings_for(dsn))
        self.rings: asyncio.Queue[Channel] = asyncio.Queue()
        for channel in Channel:
            self.bell.answer(channel, partial(self.rings.put_nowait, channel))

    async def hear(self, *expected: Channel) -> None:
        async with asyncio.timeout(_PATIENCE):
            assert {await self.rings.get() for _ in expected} == set(expected)

    async def revoke(self) -> None:
        async with self.database.transaction() as connection:
            await revocations.append(connection, datetime.now(UTC), key_id="key")


@asynccontextmanager
async def _process(dsn: str, listener_url: str | None = None) -> AsyncIterator[Process]:
    """Start a process that listens; it has been rung once, as some rings may have been lost."""
    async with opened(dsn) as database:
        process = Process(database, listener_url or dsn)
        async with running(process.bell):
            await process.hear(*Channel)
            assert process.bell.is_listening
            yield process
        await process.bell.close()


async def test_commit_rings_own_process_and_others(database_dsn: str) -> None:
    async with _process(database_dsn) as here, _process(database_dsn) as there:
        await here.revoke()
        await here.hear(Channel.REVOCATIONS)
        await there.hear(Channel.REVOCATIONS)
        # What this process rang is not taken for another's.
        await there.revoke()
        await here.hear(Channel.REVOCATIONS)
        await there.hear(Channel.REVOCATIONS)
        assert here.rings.empty()
        assert there.rings.empty()


async def test_rings_of_a_few_milliseconds_are_one_notification(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[set[str]] = []
    notify = doorbell.notify

    async def count(connection: Connection, channels: set[str], sender: str) -> None:
        sent.append(channels)
        await notify(connection, channels, sender)

    monkeypatch.setattr(doorbell, "notify", count)
    async with _process(database_dsn) as there, opened(database_dsn) as database:
        here = Process(database, database_dsn)
        for _ in range(100):
            here.bell.ring(frozenset({Channel.REVOCATIONS}))
        here.bell.ring(frozenset(Channel))
        await there.hear(*Channel)
        await here.hear(*Channel)
        await here.bell.close()
        assert sent == [set(Channel)]
        # And later ones are not swallowed.
        here.bell.ring(frozenset({Channel.OUTBOX}))
        await there.hear(Channel.OUTBOX)
        await here.bell.close()


async def test_command_rings_before_it_ends(live_settings: Settings, database_dsn: str) -> None:
    async with _process(database_dsn) as there:
        async with (
            open_parts(live_settings) as command,
            command.database.transaction() as connection,
        ):
            await revocations.append(connection, datetime.now(UTC), key_id="key")
        await there.hear(Channel.REVOCATIONS)


async def test_busy_pool_does_not_hold_up_own_process_or_the_end(database_dsn: str) -> None:
    async with opened(database_dsn, pool_max=1) as database:
        here = Process(database, database_dsn)
        async with database.connection():
            here.bell.ring(frozenset({Channel.OUTBOX}))
            await here.hear(Channel.OUTBOX)
            await here.bell.close()


@pytest.mark.slow
async def test_lost_connection_is_replaced_and_counts_as_lost_rings(
    database: Database, database_dsn: str
) -> None:
    async with _process(database_dsn) as here:
        lose = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        async with database.connection() as connection:
            assert await connection.fetch(lose)
        await here.hear(*Channel)
        assert here.bell.is_listening


async def test_server_that_was_left_is_not_listened_to(database_dsn: str) -> None:
    async with _process(database_dsn) as here:
        here.database.leave_server("a test")
        assert not here.bell.is_listening
        await here.hear(*Channel)
        assert here.bell.is_listening


async def test_behind_a_pooler_only_the_own_process_is_rung(database_dsn: str) -> None:
    async with (
        Proxy(database_dsn, process_id=4711) as proxy,
        opened(proxy.dsn) as database,
        _process(database_dsn) as there,
    ):
        here = Process(database, proxy.dsn)
        tried = asyncio.Event()
        open_subscription = Subscription.open

        async def note(*arguments: object) -> Subscription:
            try:
                return await open_subscription(*arguments)  # type: ignore[arg-type] # as given
            finally:
                tried.set()

        with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
            patch.setattr(Subscription, "open", note)
            async with running(here.bell):
                async with asyncio.timeout(_PATIENCE):
                    await tried.wait()
                await here.revoke()
                await here.hear(Channel.REVOCATIONS)
                await there.hear(Channel.REVOCATIONS)
                await there.revoke()
                await there.hear(Channel.REVOCATIONS)
                assert not here.bell.is_listening
                assert here.rings.empty()
        await here.bell.close()
    assert [(entry["event"], entry["error"]) for entry in logs if "error" in entry] == [
        ("doorbell_down", "PoolerError")
    ]
