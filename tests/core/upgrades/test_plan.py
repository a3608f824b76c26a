"""The plan of an upgrade against a real database: what it says, and each thing in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from authsvc.core.upgrades import plan as plans
from authsvc.core.upgrades.plan import UpgradePlan, Verdict, plan_upgrade
from authsvc.models.upgrades import Lock, StatementEffects, TableEffect, Work
from authsvc.store import upgrades
from authsvc.store.postgres.migrations import Schema
from authsvc.store.postgres.migrator import connected, migrate
from tests.support.migrations import run_sql, schema_of

_FILES = [
    ("0001_t.sql", b"CREATE TABLE t (n int); CREATE TABLE u (n int);"),
    ("0002_column.sql", b"ALTER TABLE t ADD m int; ALTER TABLE u ALTER n SET NOT NULL;"),
    ("0003_index.sql", b"CREATE INDEX CONCURRENTLY t_n ON t (n);"),
    ("0004_new.sql", b"CREATE TABLE v (n int);"),
]
_RELEASES = {"0.1.0": 1}
_SCHEMA = schema_of(_FILES, _RELEASES)
_EFFECTS = {
    2: [
        StatementEffects("ALTER t", {"t": TableEffect(Lock.ACCESS_EXCLUSIVE, Work.NONE)}),
        StatementEffects("ALTER u", {"u": TableEffect(Lock.ACCESS_EXCLUSIVE, Work.SCAN)}),
    ],
    3: [StatementEffects("CREATE", {"t": TableEffect(Lock.SHARE_UPDATE_EXCLUSIVE, Work.INDEX)})],
    4: [StatementEffects("CREATE v", {})],
}


@pytest.fixture(autouse=True)
def _effects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "shipped_effects", lambda: _EFFECTS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every open transaction is a long one."""
    monkeypatch.setattr(plans, "_LONG", timedelta(0))


@pytest.fixture
def dsn(blank_dsn: str) -> str:
    """A database with the schema of 0.1.0."""
    asyncio.run(migrate(blank_dsn, schema_of(_FILES[:1])))
    return blank_dsn


async def _plan(dsn: str, schema: Schema = _SCHEMA) -> UpgradePlan:
    async with connected(dsn) as connection:
        return await plan_upgrade(connection, schema, "0.9.0", 0.5)


@asynccontextmanager
async def _session(
    dsn: str, name: str = "report"
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn, server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


async def test_each_statement_says_what_it_locks_and_for_how_long(dsn: str) -> None:
    await run_sql(dsn, "INSERT INTO u SELECT generate_series(1, 20000)")
    await run_sql(dsn, "INSERT INTO t SELECT generate_series(1, 10000)")
    for table in "tu":
        await run_sql(dsn, f"ANALYZE {table}")
    plan = await _plan(dsn)
    assert plan.verdict is Verdict.READY
    assert (plan.applied, plan.releases, plan.problems) == (1, ["0.1.0"], [])
    assert [migration.version for migration in plan.pending] == [2, 3, 4]
    column, check, index, new = plan.steps
    assert (column.table, column.blocks, column.size.rows) == ("t", "reads and writes", 10_000)
    assert (check.table, check.size.rows) == ("u", 20_000)
    assert check.size.bytes > 20_000 * 28
    # The lock on t is held while u is read, as one transaction does both.
    assert column.held.most == column.takes.most + check.takes.most
    assert check.held == check.takes
    assert (index.blocks, index.held) == ("nobody", index.takes)
    assert (new.table, new.blocks) == ("", "nobody")
    assert plan.disk_needed == 10_000 * 60
    assert "0.1.0" in plan.way_back
    # Nothing was applied.
    assert len(await run_sql(dsn, "SELECT FROM schema_version")) == 1


async def test_partitions_count_as_their_table(blank_dsn: str) -> None:
    table = (
        b"CREATE TABLE t (n int) PARTITION BY RANGE (n); CREATE TABLE u (n int);"
        b"CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
        b"CREATE TABLE t_2 PARTITION OF t DEFAULT;"
    )
    files = [("0001_t.sql", table), *_FILES[1:]]
    await migrate(blank_dsn, schema_of(files[:1]))
    await run_sql(blank_dsn, "INSERT INTO t SELECT generate_series(1, 5000)")
    await run_sql(blank_dsn, "ANALYZE t")
    plan = await _plan(blank_dsn, schema_of(files, _RELEASES))
    assert plan.steps[0].size.rows == 5_000


async def test_nothing_to_do(blank_dsn: str) -> None:
    await migrate(blank_dsn, _SCHEMA)
    plan = await _plan(blank_dsn)
    assert plan.verdict is Verdict.NOTHING_TO_DO
    assert (plan.pending, plan.steps) == ((), [])


async def test_empty_database_has_nobody_to_wait_for(blank_dsn: str) -> None:
    plan = await _plan(blank_dsn)
    assert plan.verdict is Verdict.READY
    assert (plan.applied, len(plan.pending), plan.steps) == (0, 4, [])
    assert [step for step in plan.steps if step.table] == []


async def test_schema_of_somebody_else_is_in_the_way(blank_dsn: str) -> None:
    await run_sql(blank_dsn, "CREATE TABLE t (theirs int)")
    plan = await _plan(blank_dsn)
    assert plan.verdict is Verdict.WAIT
    assert "has t already" in plan.problems[0]


async def test_schema_may_have_any_name(blank_dsn: str) -> None:
    await run_sql(blank_dsn, 'CREATE SCHEMA "Auth-1"')
    name = urlsplit(blank_dsn).path.strip("/")
    await run_sql(blank_dsn, f"ALTER DATABASE {name} SET search_path = 'Auth-1'")
    assert (await _plan(blank_dsn)).verdict is Verdict.READY


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER DATABASE {name} SET search_path = 'nowhere'", "may use no schema"),
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC, pg_database_owner", "may not create in"),
    ],
)
async def test_missing_right_is_in_the_way(dsn: str, change: str, problem: str) -> None:
    await run_sql(dsn, change.format(name=urlsplit(dsn).path.strip("/")))
    plan = await _plan(dsn)
    assert plan.verdict is Verdict.WAIT
    assert problem in plan.problems[0]


async def test_tables_of_another_role_are_in_the_way(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = upgrades._SELECT_PLACE.replace("pg_has_role(", "pg_has_role('pg_monitor', ")
    monkeypatch.setattr(upgrades, "_SELECT_PLACE", query)
    plan = await _plan(dsn)
    assert plan.verdict is Verdict.WAIT
    assert "doesn't own t, u;" in plan.problems[0]


async def test_skipped_version_is_refused(dsn: str) -> None:
    await run_sql(dsn, "UPDATE schema_version SET release = NULL")
    plan = await _plan(dsn, schema_of(_FILES, {"0.1.0": 1, "0.2.0": 2, "0.3.0": 3}))
    assert plan.verdict is Verdict.REFUSED
    assert "Upgrade to 0.2.0 first" in plan.problems[0]


async def test_replicas_of_an_older_version_are_refused(dsn: str) -> None:
    """As after `migrate` of 0.2.0, whose replicas were never started."""
    schema = schema_of(_FILES, {"0.1.0": 1, "0.2.0": 2})
    await migrate(dsn, schema_of(_FILES[:2]))
    async with _session(dsn, "authsvc"), _session(dsn, "authsvc 0.2.0"), _session(dsn, "other"):
        plan = await _plan(dsn, schema)
        assert plan.verdict is Verdict.REFUSED
        assert plan.problems == [
            "Replicas of authsvc 0.1.0 are connected; upgrade them to 0.2.0 first."
        ]
        counts = [(each.application, each.count) for each in plan.connections]
        assert counts == [("authsvc", 1), ("authsvc 0.2.0", 1)]
    assert (await _plan(dsn, schema)).verdict is Verdict.READY


async def test_replicas_of_the_version_before_are_not_in_the_way(dsn: str) -> None:
    async with _session(dsn, "authsvc"), _session(dsn, "authsvc 0.9.0"):
        assert (await _plan(dsn)).verdict is Verdict.READY


async def test_database_that_is_too_new_is_refused(dsn: str) -> None:
    later = schema_of(_FILES, {"0.1.0": 1, "0.2.0": 2, "0.3.0": 3})
    await migrate(dsn, later, skip_versions=True)
    plan = await _plan(dsn, schema_of(_FILES[:1], _RELEASES))
    assert plan.verdict is Verdict.REFUSED
    assert "Start a newer version" in plan.problems[0]


@pytest.mark.usefixtures("impatient")
async def test_transaction_that_holds_a_lock_is_in_the_way(dsn: str) -> None:
    async with _session(dsn) as report:
        async with report.transaction():
            await report.execute("SELECT FROM t")
            plan = await _plan(dsn)
            assert plan.verdict is Verdict.WAIT
            assert "report" in plan.problems[0]
            assert "has locked t" in plan.problems[0]
        assert (await _plan(dsn)).verdict is Verdict.READY


@pytest.mark.usefixtures("impatient")
async def test_build_of_an_index_waits_for_any_transaction(dsn: str) -> None:
    async with _session(dsn) as report, report.transaction():
        await report.execute("SELECT 1")
        plan = await _plan(dsn)
        assert plan.verdict is Verdict.WAIT
        assert "the build of an index waits for its end" in plan.problems[0]
        without = await _plan(dsn, schema_of(_FILES[:2], _RELEASES))
        assert without.verdict is Verdict.READY
        assert "none of the tables concerned" in without.notes[0]


async def test_short_transactions_are_not_in_the_way(dsn: str) -> None:
    async with _session(dsn) as report, report.transaction():
        await report.execute("SELECT FROM t")
        assert (await _plan(dsn)).verdict is Verdict.READY


async def test_unfinished_index_is_noted(dsn: str) -> None:
    await run_sql(dsn, "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await run_sql(dsn, "CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n)")
    plan = await _plan(dsn)
    assert [note for note in plan.notes if "t_n is unfinished" in note]


async def test_full_disk_is_in_the_way(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await run_sql(dsn, "INSERT INTO t SELECT generate_series(1, 1000)")
    await run_sql(dsn, "ANALYZE t")

    async def little(_connection: object) -> int:
        return 100_000

    monkeypatch.setattr(upgrades, "free_disk", little)
    plan = await _plan(dsn)
    assert plan.verdict is Verdict.WAIT
    assert "The disk has 0 MB free" in plan.problems[0]
