"""Migrations: on an empty database, repeated, in parallel, and what the migrator rejects."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from authsvc import __version__
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres import migrator
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrations import Schema, SchemaError
from authsvc.store.postgres.migrator import check_schema, migrate, pending, shipped
from authsvc.store.postgres.timeouts import Timeouts
from tests.support.migrations import run_sql, schema_of

_FILES = [
    ("0001_first.sql", b"CREATE TABLE first (n int); INSERT INTO first VALUES (1);"),
    ("0002_second.sql", b"ALTER TABLE first ADD COLUMN second text;"),
    ("0003_third.sql", b"CREATE TABLE third (n int);"),
]


_TIMEOUTS = Timeouts(lock=5, statement=5)


async def _check(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await check_schema(connection)
    finally:
        await connection.close()


async def test_creates_whole_schema_once(blank_dsn: str) -> None:
    versions = [status.version for status in await pending(blank_dsn, _TIMEOUTS)]
    assert [status.apply_time for status in await pending(blank_dsn, _TIMEOUTS)] == [None] * len(
        versions
    )
    with pytest.raises(SchemaError, match="authsvc migrate"):
        await _check(blank_dsn)

    assert await migrate(blank_dsn) == versions
    assert await migrate(blank_dsn) == []
    assert all(status.apply_time for status in await pending(blank_dsn, _TIMEOUTS))
    await _check(blank_dsn)


async def test_applies_only_missing_migrations(blank_dsn: str) -> None:
    assert await migrate(blank_dsn, schema_of(_FILES[:1])) == [1]
    assert await migrate(blank_dsn, schema_of(_FILES)) == [2, 3]
    assert [tuple(row) for row in await run_sql(blank_dsn, "SELECT n, second FROM first")] == [
        (1, None)
    ]


async def test_concurrent_migrators_apply_each_migration_once(blank_dsn: str) -> None:
    schema = schema_of(_FILES)
    results = await asyncio.gather(*(migrate(blank_dsn, schema) for _ in range(5)))
    assert sorted(chain.from_iterable(results)) == [1, 2, 3]


async def test_failing_migration_is_rolled_back_and_earlier_ones_stay(blank_dsn: str) -> None:
    files = [_FILES[0], ("0002_broken.sql", b"CREATE TABLE half (n int); SELECT 1 / 0;")]
    with pytest.raises(SchemaError, match=r"Migration 2 \(broken\) failed"):
        await migrate(blank_dsn, schema_of(files))
    tables = await run_sql(
        blank_dsn, "SELECT to_regclass('half') AS half, to_regclass('first') AS f"
    )
    assert tuple(tables[0]) == (None, "first")
    assert await migrate(blank_dsn, schema_of(_FILES)) == [2, 3]


async def test_migration_gives_way_to_calls_and_is_tried_again(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator, "_BACKOFFS", (0.01,) * 1_000)
    await migrate(blank_dsn, schema_of(_FILES[:1]))
    report = await asyncpg.connect(blank_dsn)
    waits = asyncio.Event()
    async with report.transaction():
        await report.execute("SELECT * FROM first")
        work = migrate(blank_dsn, schema_of(_FILES), lock_seconds=0.01, say=lambda _: waits.set())
        task = asyncio.create_task(work)
        await waits.wait()
        # Calls that came after the migration are not held up by it for long.
        assert len(await run_sql(blank_dsn, "SELECT * FROM first")) == 1
    assert await task == [2, 3]
    await report.close()


async def test_migration_that_never_gets_its_lock_ends_with_advice(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator, "_BACKOFFS", (0.0,))
    await migrate(blank_dsn, schema_of(_FILES[:1]))
    report = await asyncpg.connect(blank_dsn)
    async with report.transaction():
        await report.execute("SELECT * FROM first")
        with pytest.raises(SchemaError, match="Others keep a lock"):
            await migrate(blank_dsn, schema_of(_FILES), lock_seconds=0.01)
    await report.close()


async def test_limits_of_the_role_are_not_those_of_migrations(blank_dsn: str) -> None:
    """Neither of what works, nor of what keeps the turn meanwhile."""
    name = urlsplit(blank_dsn).path.strip("/")
    for limit in ("transaction_timeout", "statement_timeout"):
        await run_sql(blank_dsn, f"ALTER DATABASE {name} SET {limit} = '1s'")
    slow = [
        (
            "0001_slow.sql",
            b"""
CREATE TABLE slow AS SELECT generate_series(1, 2) AS n;
CREATE FUNCTION slowly(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n FROM pg_sleep(0.6)';
SELECT slowly(n) FROM slow;
""",
        ),
        ("0002_index.sql", b"CREATE INDEX CONCURRENTLY slow_n ON slow (slowly(n));"),
    ]
    assert await migrate(blank_dsn, schema_of(slow)) == [1, 2]


async def test_waits_until_the_database_is_there(blank_dsn: str) -> None:
    """Says once why it waits, however often it tries."""
    address = urlsplit(blank_dsn)
    name = f"{address.path[1:]}_later"
    dsn, told, waits = address._replace(path=f"/{name}").geturl(), [], asyncio.Event()

    def say(line: str) -> None:
        told.append(line)
        waits.set()

    waiting = asyncio.create_task(migrator.wait_for_database(dsn, timedelta(minutes=3), say=say))
    await waits.wait()
    await run_sql(blank_dsn, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        await waiting
    finally:
        await run_sql(blank_dsn, f'DROP DATABASE "{name}" WITH (FORCE)')
    [line] = told
    assert line.startswith(f'Waiting for the database: database "{name}" does not exist')


async def test_wait_ends_with_why_the_database_is_missing() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await migrator.wait_for_database(
            "postgresql://authsvc@localhost:1/authsvc", timedelta(milliseconds=1)
        )
    assert isinstance(caught.value.__cause__, OSError)


async def test_rejects_migration_changed_after_it_was_applied(blank_dsn: str) -> None:
    await migrate(blank_dsn, schema_of(_FILES[:1]))
    changed = [("0001_first.sql", _FILES[0][1] + b"\n"), _FILES[1]]
    with pytest.raises(SchemaError, match="Migration 1 was changed"):
        await migrate(blank_dsn, schema_of(changed))
    assert len(await run_sql(blank_dsn, "SELECT version FROM schema_version")) == 1


async def test_database_newer_than_code_is_left_as_it_is(blank_dsn: str) -> None:
    """So a rollback, which runs the former version's `migrate`, succeeds."""
    await migrate(blank_dsn, schema_of(_FILES))
    said: list[str] = []
    assert await migrate(blank_dsn, schema_of(_FILES[:2]), say=said.append) == []
    assert [line for line in said if "migration 3" in line]
    assert len(await run_sql(blank_dsn, "SELECT version FROM schema_version")) == 3


async def test_rejects_database_with_missing_intermediate_migration(blank_dsn: str) -> None:
    await migrate(blank_dsn, schema_of(_FILES))
    await run_sql(blank_dsn, "DELETE FROM schema_version WHERE version = 2")
    with pytest.raises(SchemaError, match="lacks 2"):
        await migrate(blank_dsn, schema_of(_FILES))


async def test_serving_accepts_database_newer_than_code(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO schema_version (version, name, checksum) VALUES ($1, 'later', '')",
            len(shipped()) + 1,
        )
        await check_schema(connection)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM schema_version", "authsvc migrate"),
        ("UPDATE schema_version SET checksum = ''", "was changed"),
    ],
)
async def test_serving_rejects_schema_that_does_not_match_code(
    database: Database, damage: str, message: str
) -> None:
    async with database.connection() as connection:
        await connection.execute(damage)
        with pytest.raises(SchemaError, match=message):
            await check_schema(connection)


_RELEASES = {"0.1.0": 1, "0.1.1": 1, "0.2.0": 2, "0.3.0": 3}
_OLD, _NEXT, _LAST = (schema_of(_FILES[:count], _RELEASES) for count in (1, 2, 3))


async def _serve(dsn: str, schema: Schema) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await check_schema(connection, schema)
    finally:
        await connection.close()


@pytest.fixture
def as_release(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the code be that of a release."""
    return lambda release: monkeypatch.setattr(migrator, "__version__", release)


async def test_skipped_version_is_refused_unless_nobody_serves(
    blank_dsn: str, as_release: Callable[[str], None]
) -> None:
    as_release("0.1.0")
    await migrate(blank_dsn, _OLD)
    as_release("0.3.0")
    with pytest.raises(SchemaError, match=r"Upgrade to 0\.2\.0 first"):
        await migrate(blank_dsn, _LAST)
    assert len(await run_sql(blank_dsn, "SELECT FROM schema_version")) == 1
    assert await migrate(blank_dsn, _LAST, skip_versions=True) == [2, 3]


async def test_interrupted_migration_of_a_new_database_is_continued(
    blank_dsn: str, as_release: Callable[[str], None]
) -> None:
    as_release("0.3.0")
    await migrate(blank_dsn, Schema(_LAST.migrations[:1], _RELEASES))
    assert await migrate(blank_dsn, _LAST) == [2, 3]


async def test_versions_are_applied_one_after_the_other(blank_dsn: str) -> None:
    for schema, applied in ((_OLD, [1]), (_NEXT, [2]), (_LAST, [3])):
        assert await migrate(blank_dsn, schema) == applied
    # An empty database skips nothing.
    assert await migrate(blank_dsn, _LAST) == []


async def test_replica_serves_one_step_behind_and_no_further(blank_dsn: str) -> None:
    await migrate(blank_dsn, _NEXT)
    await _serve(blank_dsn, _OLD)
    await migrate(blank_dsn, _LAST)
    await _serve(blank_dsn, _NEXT)
    with pytest.raises(SchemaError, match=f"authsvc {__version__}.* Start a newer version"):
        await _serve(blank_dsn, _OLD)
    with pytest.raises(SchemaError, match=r"^The database was .* Start a newer version\.$"):
        await migrate(blank_dsn, _OLD)
    assert len(await run_sql(blank_dsn, "SELECT FROM schema_version")) == 3


async def test_part_of_a_step_already_counts(blank_dsn: str) -> None:
    """A migrator of 0.3.0 that was interrupted after its first migration."""
    later = schema_of([*_FILES, ("0004_fourth.sql", b"SELECT 1;")], {**_RELEASES, "0.3.0": 4})
    await migrate(blank_dsn, _NEXT)
    await migrate(blank_dsn, Schema(later.migrations[:3], later.releases))
    with pytest.raises(SchemaError, match="Start a newer version"):
        await _serve(blank_dsn, _OLD)
    assert await migrate(blank_dsn, later) == [4]


async def test_rows_that_0_1_0_wrote_are_of_the_first_step(blank_dsn: str) -> None:
    """It made the table without the later columns, and doesn't know of the lease."""
    await migrate(blank_dsn, _OLD)
    await run_sql(blank_dsn, "ALTER TABLE schema_version DROP COLUMN release, DROP oldest_code")
    await _serve(blank_dsn, _OLD)
    assert await migrate(blank_dsn, _NEXT) == [2]
    rows = await run_sql(blank_dsn, "SELECT release, oldest_code FROM schema_version ORDER BY 1")
    assert [tuple(row) for row in rows] == [(__version__, 1), (None, None)]


async def test_migration_that_0_1_0_has_applied_meanwhile_is_left_alone(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its migrator takes turns with others by a lock that each transaction takes."""
    schema = schema_of(_FILES[:1])
    other = await asyncpg.connect(blank_dsn)
    choose = migrator._Run._next

    async def chosen_then_applied(run: Any, connection: Any) -> Any:
        migration = await choose(run, connection)
        if migration is not None:
            await other.execute(migration.sql)
            await other.execute(
                "INSERT INTO schema_version (version, name, checksum) VALUES ($1, $2, $3)",
                *(migration.version, migration.name, migration.checksum),
            )
        return migration

    monkeypatch.setattr(migrator._Run, "_next", chosen_then_applied)
    await migrate(blank_dsn, schema)
    assert len(await run_sql(blank_dsn, "SELECT FROM first")) == 1
    await other.close()
