"""Migrators take turns, report their progress, and end when they lose their turn."""

import asyncio

import asyncpg
import pytest

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres import migrator_lease
from authsvc.store.postgres.connector import Connector
from authsvc.store.postgres.migrator import migrate
from authsvc.store.postgres.migrator_lease import Lease
from tests.support.migrations import run_sql, schema_of

_HOLDER = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_BATCHES = [
    ("0001_t.sql", b"CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 5);"),
    (
        "0002_fill.sql",
        b"""-- authsvc: repeat
UPDATE t SET n = n + 100
WHERE ctid = ANY (ARRAY(SELECT ctid FROM t WHERE n < 100 LIMIT 2));
""",
    ),
]


def _say(_line: str) -> None:
    pass


async def test_second_migrator_waits_and_says_so(blank_dsn: str) -> None:
    waits = asyncio.Event()

    def say(line: str) -> None:
        assert "Another migrator is at work" in line
        waits.set()

    async with Lease(Connector(address=blank_dsn), _say):
        task = asyncio.create_task(migrate(blank_dsn, schema_of(_BATCHES[:1]), say=say))
        await waits.wait()
    assert await task == [1]


async def test_migrator_that_loses_its_turn_ends(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that was frozen: the server has closed its connection, and another may work."""
    monkeypatch.setattr(migrator_lease, "_REPORT_SECONDS", 0.01)
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Lease(Connector(address=blank_dsn), _say) as lease:
        task = asyncio.create_task(lease.guard(work()))
        await run_sql(blank_dsn, _HOLDER)
        with pytest.raises(StoreUnavailable):
            await task
    assert ended.is_set()
    async with Lease(Connector(address=blank_dsn), _say):
        pass


async def test_silent_migrator_loses_its_turn(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        limit = migrator_lease._LIMIT_SILENCE.replace("'5s'", "'1s'")
        assert limit != migrator_lease._LIMIT_SILENCE
        patched.setattr(migrator_lease, "_LIMIT_SILENCE", limit)
        first = await Lease(Connector(address=blank_dsn), _say).__aenter__()
    # The first one's turn ends without another statement of its own.
    async with Lease(Connector(address=blank_dsn), _say):
        pass
    await first.__aexit__(None, None, None)


async def test_progress_of_long_work_is_said(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator_lease, "_REPORT_SECONDS", 0.01)
    said = asyncio.Queue[str]()
    async with Lease(Connector(address=blank_dsn), said.put_nowait) as lease:

        async def work() -> None:
            lease.working_on("Migration 2 (fill)")
            assert await said.get() == "Migration 2 (fill) has been running for 0 s."
            lease.got_to("7 rows so far")
            line = "Migration 2 (fill) has been running for 0 s: 7 rows so far."
            while await said.get() != line:
                pass
            lease.working_on(None)

        await lease.guard(work())


async def test_progress_of_an_index_is_said(
    blank_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator_lease, "_REPORT_SECONDS", 0.01)
    await migrate(blank_dsn, schema_of(_BATCHES[:1]))
    index = ("0002_index.sql", b"CREATE INDEX CONCURRENTLY t_n ON t (n);")
    said = asyncio.Queue[str]()
    other = await asyncpg.connect(blank_dsn)
    async with other.transaction():
        await other.execute("INSERT INTO t VALUES (1)")
        schema = schema_of([_BATCHES[0], index])
        task = asyncio.create_task(migrate(blank_dsn, schema, say=said.put_nowait))
        while "waiting for writers before build, 1 to go" not in await said.get():
            pass
    assert await task == [2]
    await other.close()


async def test_repeated_statement_changes_all_rows_batch_by_batch(blank_dsn: str) -> None:
    assert await migrate(blank_dsn, schema_of(_BATCHES)) == [1, 2]
    rows = await run_sql(blank_dsn, "SELECT n FROM t ORDER BY n")
    assert [row["n"] for row in rows] == [101, 102, 103, 104, 105]
    # Three batches of at most two rows.
    transactions = await run_sql(blank_dsn, "SELECT count(DISTINCT xmin::text) FROM t")
    assert transactions[0][0] == 3


async def test_interrupted_repetition_is_continued(blank_dsn: str) -> None:
    broken = _BATCHES[1][1].replace(b"n + 100", b"100 / (5 - n) + 100")
    with pytest.raises(Exception, match="division by zero"):
        await migrate(blank_dsn, schema_of([_BATCHES[0], ("0002_fill.sql", broken)]))
    rows = await run_sql(blank_dsn, "SELECT n FROM t WHERE n >= 100")
    assert len(rows) == 4
    assert await migrate(blank_dsn, schema_of(_BATCHES)) == [2]
    assert len(await run_sql(blank_dsn, "SELECT n FROM t WHERE n >= 100")) == 5
