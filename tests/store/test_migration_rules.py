"""Migrations since 0.1.0 keep the rules, and each rule notices what breaks it.

What a migration does is measured on a real server, and the statements of the last release, which
may still serve, are prepared on the new schema.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import asyncpg
import pytest

from authsvc.models.upgrades import StatementEffects
from authsvc.store.postgres.migration_effects import read_effects
from authsvc.store.postgres.migrations import Migration, Schema, read_migrations, shipped_schema
from authsvc.store.postgres.migrator import migrate
from tests.support.migration_effects import FILE, apply, written
from tests.support.migration_rules import Catalog, violations
from tests.support.postgres import PostgresServer
from tests.support.released_statements import Description, describe, read_released

_SCHEMA = shipped_schema()
_RELEASED = Schema(_SCHEMA.migrations[: _SCHEMA.steps[-1]], _SCHEMA.releases)
_FUNCTION = """
CREATE OR REPLACE FUNCTION is_whole_address(address inet) RETURNS {}
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT {}';
"""
_TRIGGER = """
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER t AFTER INSERT ON users EXECUTE FUNCTION f();
"""


@pytest.fixture(scope="module")
def released_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with the schema of the last release."""
    name = postgres_server.create(migrated=False)
    asyncio.run(migrate(postgres_server.dsn(name), _RELEASED))
    yield name
    postgres_server.drop(name)


@pytest.fixture
def dsn(postgres_server: PostgresServer, released_database: str) -> Iterator[str]:
    """The DSN of a copy, for this test only."""
    name = postgres_server.copy(released_database)
    yield postgres_server.dsn(name)
    postgres_server.drop(name)


async def _judged(
    dsn: str, migrations: Sequence[Migration]
) -> tuple[list[str], dict[int, Sequence[StatementEffects]]]:
    """Apply migrations after the last release; return the rules that they break, and effects."""
    schema = Schema([*_RELEASED.migrations, *migrations], _SCHEMA.releases)
    found: list[str] = []
    measured = {}
    connection = await asyncpg.connect(dsn)
    try:
        before = await Catalog.read(connection)
        for migration in migrations:
            measured[migration.version] = await apply(dsn, schema, migration)
            after = await Catalog.read(connection)
            found += [
                f"{migration.version:04} {each}"
                for each in violations(migration, measured[migration.version], before, after)
            ]
            before = after
    finally:
        await connection.close()
    return found, measured


async def _broken(dsn: str, *statements: str) -> list[str]:
    """Return the names of the rules that one migration after the other breaks."""
    files = [*((f"{number:04}_r.sql", b"") for number in range(1, _RELEASED.version + 1))]
    files += [
        (f"{number:04}_x.sql", statement.encode())
        for number, statement in enumerate(statements, start=_RELEASED.version + 1)
    ]
    found, _ = await _judged(dsn, read_migrations(files)[_RELEASED.version :])
    return [each.split()[1].removesuffix(":") for each in found]


async def test_migrations_since_the_release_keep_the_rules(dsn: str) -> None:
    found, measured = await _judged(dsn, _SCHEMA.migrations[_RELEASED.version :])
    assert found == [], "see CONTRIBUTING.md, Adding a migration"
    # Of the releases before, the effects stay as they were measured then.
    former = {
        version: effects
        for version, effects in read_effects(FILE.read_text()).items()
        if version <= _RELEASED.version
    }
    assert FILE.read_text() == written(former | measured), "run `make effects`"


async def test_statements_of_the_release_work_on_the_new_schema(dsn: str) -> None:
    released = read_released()
    assert released.release in _SCHEMA.releases_at(_RELEASED.version), "run `make baseline`"
    before = await _described(dsn, released.statements)
    # The others are completed when they are used: tests/world/test_upgrades.py runs them.
    complete = {name for name, found in before.items() if not isinstance(found, str)}
    assert len(complete) > 200
    await migrate(dsn, _SCHEMA)
    after = await _described(dsn, released.statements)
    assert {name: after[name] for name in complete} == {name: before[name] for name in complete}


async def test_statement_that_a_migration_breaks_is_noticed(dsn: str) -> None:
    statements = {
        "column": "SELECT origin FROM users",
        "type": "SELECT refresh_burned FROM sessions",
    }
    before = await _described(dsn, statements)
    await _broken(
        dsn,
        "ALTER TABLE users DROP COLUMN origin;",
        "ALTER TABLE sessions ALTER COLUMN refresh_burned TYPE numeric;",
    )
    after = await _described(dsn, statements)
    assert after["column"] == 'column "origin" does not exist'
    assert before["type"] != after["type"]


async def _described(dsn: str, statements: Mapping[str, str]) -> dict[str, Description | str]:
    connection = await asyncpg.connect(dsn)
    try:
        return {name: await describe(connection, sql) for name, sql in statements.items()}
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("statement", "rules"),
    [
        # Safe.
        ("CREATE TABLE t (user_id uuid REFERENCES users);", []),
        ("CREATE TABLE t (n int); CREATE INDEX t_n ON t (n); INSERT INTO t VALUES (1);", []),
        ("ALTER TABLE users ADD COLUMN c text;", []),
        ("ALTER TABLE users ADD COLUMN c integer NOT NULL DEFAULT 7;", []),
        ("CREATE INDEX CONCURRENTLY users_c ON users (display_name);", []),
        ("CREATE INDEX CONCURRENTLY audit_events_c ON audit_events (caller);", []),
        ("DROP INDEX CONCURRENTLY users_by_creation;", []),
        ("-- authsvc: repeat\nUPDATE users SET display_name = '' WHERE display_name IS NULL;", []),
        (_FUNCTION.format("boolean", "true"), []),
        ("UPDATE definition_versions SET version = gen_random_uuid();", []),
        # Not safe.
        ("ALTER TABLE users ADD COLUMN c timestamptz DEFAULT clock_timestamp();", ["rewrite"]),
        ("ALTER TABLE sessions ALTER COLUMN refresh_burned TYPE numeric;", ["rewrite", "type"]),
        (
            "DO $$ BEGIN EXECUTE 'ALTER TABLE users ADD c uuid DEFAULT gen_random_uuid()'; END $$;",
            ["rewrite"],
        ),
        ("CREATE INDEX users_c ON users (display_name);", ["index"]),
        ("CREATE INDEX audit_events_c ON audit_events (caller);", ["index"]),
        ("ALTER TABLE devices ALTER COLUMN trust_expire_time SET NOT NULL;", ["scan", "not-null"]),
        (
            "ALTER TABLE sessions ADD CONSTRAINT c CHECK (refresh_counter >= 0);",
            ["scan", "constraint"],
        ),
        (
            "ALTER TABLE session_keys ADD FOREIGN KEY (session_id) REFERENCES sessions;",
            ["scan", "constraint"],
        ),
        ("UPDATE users SET display_name = '';", ["rows"]),
        (
            "ALTER TABLE users ADD COLUMN c text; ALTER TABLE sessions ADD COLUMN c text;",
            ["two-tables"],
        ),
        ("SET lock_timeout = 0;", ["session"]),
        ("LOCK TABLE signing_keys;", ["session"]),
        ("ALTER TABLE users ADD COLUMN c text NOT NULL;", ["scan", "not-null"]),
        ("ALTER TABLE users ALTER COLUMN display_name DROP DEFAULT;", ["not-null"]),
        ("ALTER TABLE users ALTER COLUMN display_name TYPE varchar;", ["type"]),
        ("ALTER TABLE users DROP COLUMN origin;", ["removed"]),
        ("ALTER TABLE users RENAME COLUMN origin TO source;", ["removed", "constraint"]),
        (
            "ALTER TABLE sessions ADD CONSTRAINT c CHECK (refresh_counter >= 0) NOT VALID;",
            ["constraint"],
        ),
        ("CREATE UNIQUE INDEX CONCURRENTLY sessions_c ON sessions (csrf_hash);", ["constraint"]),
        ("DROP FUNCTION is_whole_address CASCADE;", ["function"]),
        (_TRIGGER, ["constraint"]),
    ],
)
async def test_rule_notices_what_breaks_it(dsn: str, statement: str, rules: list[str]) -> None:
    assert await _broken(dsn, statement) == rules


async def test_excuse_needs_the_rule_and_a_reason(dsn: str) -> None:
    statement = "ALTER TABLE users ADD COLUMN c{} text NOT NULL DEFAULT clock_timestamp()::text;"
    excuses = ["", "-- excused: rewrite:\n", "-- excused: scan: it is short\n"]
    lines = [f"{each}{statement.format(number)}" for number, each in enumerate(excuses)]
    assert await _broken(dsn, *lines) == ["rewrite"] * 3


async def test_excuse_holds_for_its_rule(dsn: str) -> None:
    statement = "ALTER TABLE users ADD COLUMN c text NOT NULL DEFAULT clock_timestamp()::text;"
    assert await _broken(dsn, f"-- excused: rewrite: nobody has it yet\n{statement}") == []
