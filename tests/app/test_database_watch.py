"""The regular look at the database: whether it answers, and whether it lacks migrations."""

import asyncpg
import pytest

from authsvc.app.database_watch import DatabaseWatch
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.databases import kill, opened


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_missing_migrations_are_counted_once_a_minute(database: Database) -> None:
    seconds = Seconds()
    watch = DatabaseWatch(database, seconds)
    async with database.connection() as connection:
        await connection.execute(
            "DELETE FROM schema_version"
            " WHERE version > (SELECT max(version) - 2 FROM schema_version)"
        )
    await watch.count_if_due()
    assert watch.migrations_pending == 0
    seconds.now += 60
    await watch.count_if_due()
    assert watch.migrations_pending == 2
    async with database.connection() as connection:
        await connection.execute("DROP TABLE schema_version")
    await watch.count_if_due()
    assert watch.migrations_pending == 2
    seconds.now += 60
    await watch.count_if_due()
    assert watch.migrations_pending > 20


async def test_count_that_fails_is_not_tried_again_at_once(database: Database) -> None:
    seconds = Seconds()
    watch = DatabaseWatch(database, seconds)
    seconds.now += 60
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE schema_version RENAME COLUMN version TO lost")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await watch.count_if_due()
    # The job starts again, and looks.
    await watch.count_if_due()
    assert await watch.look() == ""


async def test_database_that_is_gone_is_not_up(own_server: EmbeddedPostgres) -> None:
    await migrate(own_server.dsn())
    async with opened(own_server.dsn()) as database:
        watch = DatabaseWatch(database)
        assert await watch.look() == ""
        assert watch.is_up
        kill(own_server)
        assert (await watch.look()).startswith("database: ")
        assert not watch.is_up
