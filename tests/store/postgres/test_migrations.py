"""Reading migrations: names, numbers, the kinds that have a file of their own, and the releases."""

import pytest

from authsvc.store.postgres.migrations import (
    IndexBuild,
    Kind,
    SchemaError,
    read_migrations,
    shipped_schema,
)
from tests.support.migrations import schema_of

_FILES = [(f"{number:04}_step.sql", b"SELECT 1;") for number in range(1, 7)]
_RELEASES = {"0.1.0": 2, "0.1.1": 2, "0.2.0": 4}


@pytest.mark.parametrize("name", ["0003_third.sql", "second.sql", "2_second.sql"])
def test_rejects_files_with_gap_or_wrong_name(name: str) -> None:
    with pytest.raises(SchemaError, match=name):
        read_migrations([_FILES[0], (name, b"")])


def test_rejects_duplicate_number() -> None:
    with pytest.raises(SchemaError, match="number 0002"):
        read_migrations([_FILES[0], ("0001_again.sql", b"")])


def test_reads_index_that_is_built_concurrently() -> None:
    sql = b"""-- Why.
CREATE UNIQUE INDEX CONCURRENTLY users_x ON users (x, (y + 1))
    -- Of some.
    WHERE x IS NOT NULL;
"""
    [migration] = read_migrations([("0001_x.sql", sql)])
    assert migration.kind is Kind.BUILD_INDEX
    assert migration.index == IndexBuild(
        "users_x", "users", unique=True, rest="(x, (y + 1))\n    WHERE x IS NOT NULL"
    )


def test_reads_other_kinds() -> None:
    files = [
        ("0001_a.sql", b"DROP INDEX CONCURRENTLY users_x;"),
        ("0002_b.sql", b"-- authsvc: repeat\n-- Why.\nUPDATE a SET n = 1;\n"),
        ("0003_c.sql", b"-- Not CREATE INDEX CONCURRENTLY.\nCREATE INDEX a ON b (c);"),
    ]
    assert [migration.kind for migration in read_migrations(files)] == [
        Kind.DROP_INDEX,
        Kind.REPEAT,
        Kind.TRANSACTION,
    ]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE INDEX CONCURRENTLY a ON b (c); SELECT 1;", "only that statement"),
        ("CREATE INDEX CONCURRENTLY ON b (c);", "only that statement"),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS a ON b (c);", "only that statement"),
        ("DROP INDEX CONCURRENTLY a, b;", "only that statement"),
        ("-- authsvc: repeat\nUPDATE a SET n = 1; UPDATE b SET n = 1;", "one statement"),
        ("-- authsvc: twice\nUPDATE a SET n = 1;", "only `repeat` is known"),
    ],
)
def test_rejects_file_that_should_contain_one_statement(sql: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read_migrations([("0001_x.sql", sql.encode())])


@pytest.mark.parametrize(
    ("version", "skipped"),
    [(0, []), (1, []), (2, ["0.2.0"]), (3, ["0.2.0"]), (4, []), (5, []), (6, []), (9, [])],
)
def test_upgrade_skips_the_releases_of_the_steps_in_between(
    version: int, skipped: list[str]
) -> None:
    assert list(schema_of(_FILES, _RELEASES).skipped_by(version)) == skipped


@pytest.mark.parametrize(("version", "oldest"), [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4), (6, 4)])
def test_migration_is_safe_beside_code_of_the_step_before(version: int, oldest: int) -> None:
    assert schema_of(_FILES, _RELEASES).oldest_code(version) == oldest


def test_release_has_the_schema_of_its_last_migration() -> None:
    """At a release, its own step is not the one before."""
    released = schema_of(_FILES[:4], _RELEASES)
    assert list(released.skipped_by(2)) == []
    assert released.releases_at(2) == ["0.1.0", "0.1.1"]


def test_releases_are_those_that_were_made() -> None:
    schema = shipped_schema()
    assert schema.releases["0.1.0"] == 27
    assert list(schema.releases.values()) == sorted(schema.releases.values())
    assert max(schema.releases.values()) <= schema.version
