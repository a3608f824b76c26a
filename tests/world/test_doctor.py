"""`authsvc doctor` behind real poolers, with a real standby, and on a server that is full."""

import contextlib
from pathlib import Path

import asyncpg
import pytest

from authsvc.cli.doctor.findings import Level
from authsvc.config import Settings
from authsvc.dev.postgres import EmbeddedPostgres
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only
from tests.support.pgbouncer import PgBouncer
from tests.support.standby import primary_and_standby
from tests.world.install import NEW_PGBOUNCER

pytestmark = pytest.mark.world

# Of the 197 that an embedded server has for roles that are no superusers.
_MOST_OF_THEM = 165


def on(settings: Settings, dsn: str, **changes: object) -> Settings:
    return settings.model_copy(update={"database": settings_for(dsn, **changes)})


async def test_transaction_pooling_is_seen(
    settings: Settings, pooler: PgBouncer, server: EmbeddedPostgres
) -> None:
    text = await only(Level.WARNING, "database.pooler", on(settings, pooler.dsn))
    assert text.startswith("a pooler with transaction pooling")
    assert await levels("database.listener", on(settings, pooler.dsn)) == [Level.SKIPPED]
    direct = on(settings, pooler.dsn, listener_url=server.dsn())
    assert "transaction pooling" in await only(Level.OK, "database.pooler", direct)
    assert await levels("database.listener", direct) == [Level.OK]
    # All that needs the database works through the pooler.
    for name in ("version", "rights", "schema", "connections", "durability"):
        assert Level.ERROR not in await levels(f"database.{name}", direct), name
    for name, said in (("database.latency", "a round trip"), ("revocations.freshness", "known to")):
        assert said in (await examine(name, direct))[0].text
    wrong = on(settings, server.dsn(), listener_url=pooler.dsn)
    assert await levels("database.listener", wrong) == [Level.ERROR]


async def test_session_pooling_is_told_apart(settings: Settings, server: EmbeddedPostgres) -> None:
    async with PgBouncer(NEW_PGBOUNCER, server.dsn(), pool_mode="session") as pooler:
        text = await only(Level.WARNING, "database.pooler", on(settings, pooler.dsn))
    assert text.startswith("a pooler with session pooling")


async def test_standby_that_is_not_synchronous_is_named(settings: Settings, tmp_path: Path) -> None:
    async with primary_and_standby(tmp_path) as pair:
        found = await examine("database.durability", on(settings, pair.url))
        assert [each.level for each in found] == [Level.WARNING]
        assert found[0].text.startswith("1 standbys follow, none of them synchronously")
        # A standby alone is no database for the service.
        text = await only(Level.ERROR, "database.reachable", on(settings, pair.standby_dsn))
        assert "in recovery" in text


async def test_server_that_is_nearly_full_is_named(
    settings: Settings, server: EmbeddedPostgres
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(_MOST_OF_THEM):
            connection = await asyncpg.connect(server.dsn())
            stack.callback(connection.terminate)
        text = await only(Level.WARNING, "database.connections", on(settings, server.dsn()))
    assert "connections are in use now" in text


async def test_durable_server_is_ok_and_a_superuser_is_not(
    settings: Settings, server: EmbeddedPostgres
) -> None:
    assert await levels("database.durability", on(settings, server.dsn())) == [Level.OK]
    mighty = on(settings, server.dsn(user="postgres"))
    assert "is a superuser" in (await examine("database.rights", mighty))[0].text
