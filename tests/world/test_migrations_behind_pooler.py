"""Migrations through PgBouncer in transaction mode: indexes, partitions, batches, and turns."""

import asyncio

import pytest

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.migrator import migrate
from tests.support.migrations import run_sql, schema_of
from tests.support.pgbouncer import PgBouncer

pytestmark = pytest.mark.world

_FILES = [
    (
        "0001_t.sql",
        b"""
CREATE TABLE t (n int) PARTITION BY LIST (n);
CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
CREATE TABLE t_default PARTITION OF t DEFAULT;
INSERT INTO t SELECT generate_series(1, 9);
""",
    ),
    ("0002_index.sql", b"CREATE INDEX CONCURRENTLY t_n ON t (n);"),
    (
        "0003_rows.sql",
        b"-- authsvc: repeat\nDELETE FROM t WHERE n = (SELECT n FROM t WHERE n > 5 LIMIT 1);",
    ),
]


async def test_migrators_take_turns_and_leave_no_settings(
    pooler: PgBouncer, server: EmbeddedPostgres
) -> None:
    await run_sql(server.dsn(), "DROP TABLE schema_version")
    schema = schema_of(_FILES)
    done = await asyncio.gather(*(migrate(pooler.dsn, schema) for _ in range(2)))
    assert sorted(done) == [[], [1, 2, 3]]
    [(valid,)] = await run_sql(
        server.dsn(), "SELECT indisvalid FROM pg_index WHERE indexrelid = 't_n'::regclass"
    )
    assert valid
    assert [row["n"] for row in await run_sql(server.dsn(), "SELECT n FROM t ORDER BY n")] == [
        *range(1, 6)
    ]
    [(locks,)] = await run_sql(
        server.dsn(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    )
    assert locks == 0
    for _ in range(8):
        [(limit,)] = await run_sql(
            pooler.dsn, "SELECT current_setting('idle_in_transaction_session_timeout')"
        )
        assert limit == "0"
