"""Propagation of revocations from one replica to another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from authsvc.core.lib.log_follower import LogFollower
from authsvc.core.revocations.doorbell import Doorbell
from authsvc.core.sessions.ending import end_session
from authsvc.models.revocations import LoggedRevocation
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import InactiveReason
from authsvc.store import revocations
from authsvc.store.doorbell import Channel
from tests.support.databases import opened, settings_for
from tests.support.jobs import running
from tests.support.postgres import PostgresServer
from tests.support.sessions import CALL, Replica, World

# Long enough for a busy machine to read in time.
_STALENESS = timedelta(seconds=5)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - caches are notified by calls, not by events
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _listening(
    world: World, dsn: str
) -> AsyncIterator[tuple[Replica, LogFollower[LoggedRevocation]]]:
    """Start a replica that reads and is rung as the service is."""
    replica = world.replica(is_fresh=lambda: reader.is_fresh())  # noqa: PLW0108 - made below
    async with opened(dsn) as database:
        reader = LogFollower(
            database=database,
            source=revocations.LOG,
            staleness=_STALENESS,
            on_event=replica.sessions.cache.on_revocation,
            on_gap=replica.sessions.cache.drop_all,
        )
        bell = Doorbell(database, settings_for(dsn))
        bell.answer(Channel.REVOCATIONS, reader.ring)
        # Rings after the commits that the test makes.
        ringing = Doorbell(world.database, settings_for(dsn))
        async with running(reader, bell):
            await _until(reader.is_fresh)
            await _until(lambda: bell.is_listening)
            yield replica, reader
        await ringing.close()


async def test_revocation_reaches_other_replicas(world: World, database_dsn: str) -> None:
    there = world.replica(max_per_user=2)
    user_id = await world.add_user()
    async with _listening(world, database_dsn) as (here, _):
        for end in ("revoke", "replace", "disable"):
            tokens = await world.open(there, user_id)
            assert (await here.validate(tokens.session_token)).active
            assert here.sessions.validation.find_cached(tokens.session_id) is not None
            if end == "revoke":
                await there.sessions.ending.revoke(CALL, tokens.session_id)
            elif end == "replace":
                for _ in range(2):
                    await world.open(there, user_id)
            else:
                async with world.database.transaction() as connection:
                    await there.sessions.ending.revoke_in(
                        connection, CALL, user_id, RevokeReason.USER_DISABLED
                    )
            cached = here.sessions.validation.find_cached
            await _until(lambda: cached(tokens.session_id) is None)  # noqa: B023 - awaited here
            result = await here.validate(tokens.session_token)
            assert result.reason is InactiveReason.SESSION_REVOKED


@pytest.mark.slow
async def test_cache_is_bypassed_while_revocations_cannot_be_read(
    world: World, database_dsn: str, postgres_server: PostgresServer
) -> None:
    there = world.replica()
    revoked, kept = await world.open(there), await world.open(there)
    name = urlsplit(database_dsn).path[1:]
    async with _listening(world, database_dsn) as (here, reader):
        for tokens in (revoked, kept):
            await here.validate(tokens.session_token)
            assert here.sessions.validation.find_cached(tokens.session_id) is not None
        # From here on it can't reconnect until it is allowed to.
        postgres_server._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await _end_reader(world)
        await _until(lambda: not reader.is_fresh())
        await there.sessions.ending.revoke(CALL, revoked.session_id)
        result = await here.validate(revoked.session_token)
        assert result.reason is InactiveReason.SESSION_REVOKED
        assert (await here.validate(kept.session_token)).active
        assert here.sessions.validation.find_cached(kept.session_id) is None

        postgres_server._execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await _until(reader.is_fresh)
        # What was revoked in the meantime has been read; the rest of the cache is good again.
        assert here.sessions.validation.find_cached(revoked.session_id) is None
        assert here.sessions.validation.find_cached(kept.session_id) is not None
        result = await here.validate(revoked.session_token)
        assert result.reason is InactiveReason.SESSION_REVOKED
        assert (await here.validate(kept.session_token)).active
        assert here.sessions.validation.find_cached(kept.session_id) is not None


async def _end_reader(world: World) -> None:
    ended = await world.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE '%server_run()%'"
        " AND pid <> pg_backend_pid()"
    )
    assert ended


@pytest.mark.slow
async def test_replicas_converge_with_database(world: World, database_dsn: str) -> None:
    async with (
        _listening(world, database_dsn) as (here, _),
        _listening(world, database_dsn) as (there, _),
    ):
        opened = [await world.open(here) for _ in range(20)]

        async def use(replica: Replica, index: int) -> None:
            for _ in range(5):
                await replica.validate(opened[index].session_token)

        async def end(index: int) -> None:
            await (here, there)[index % 2].sessions.ending.revoke(CALL, opened[index].session_id)

        await asyncio.gather(
            *(use(here, index) for index in range(20)),
            *(end(index) for index in range(0, 20, 2)),
            *(use(there, index) for index in range(20)),
        )
        for replica in (here, there):
            for index, tokens in enumerate(opened):
                cached = replica.sessions.validation.find_cached
                if index % 2 == 0:
                    await _until(lambda: cached(tokens.session_id) is None)  # noqa: B023
                active = (await replica.validate(tokens.session_token)).active
                assert active is (index % 2 == 1)


async def test_ending_a_session_reports_whether_it_was_still_open(world: World) -> None:
    session_id = (await world.open(world.replica())).session_id
    now = world.clock.now()
    async with world.database.transaction() as connection:
        ended = [
            await end_session(connection, CALL, now, session_id, RevokeReason.REVOKED)
            for _ in range(2)
        ]
    assert ended == [True, False]
