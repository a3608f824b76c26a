"""`authsvc upgrade check` and `authsvc migrate` in the shell: texts, JSON, exit codes."""

import asyncio
import json

import asyncpg
import pytest

from authsvc.cli import upgrade
from authsvc.core.upgrades import plan as plans
from authsvc.dev.workspace import Workspace
from authsvc.models.upgrades import Lock, StatementEffects, TableEffect, Work
from authsvc.store.postgres import migrator
from authsvc.store.postgres.migrations import Schema, read_migrations, shipped_schema
from tests.cli.conftest import Command
from tests.support.migrations import run_sql

_SHIPPED = shipped_schema()
_NEXT = _SHIPPED.version + 1
_EFFECTS = {
    _NEXT: [
        StatementEffects(
            "ALTER TABLE users ADD COLUMN c text",
            {"users": TableEffect(Lock.ACCESS_EXCLUSIVE, Work.NONE)},
        )
    ],
    _NEXT + 1: [
        StatementEffects(
            "CREATE INDEX CONCURRENTLY users_c ON users (c)",
            {"users": TableEffect(Lock.SHARE_UPDATE_EXCLUSIVE, Work.INDEX)},
        )
    ],
}


def _later(releases: dict[str, int]) -> Schema:
    added = [
        *((f"{number:04}_x.sql", b"SELECT 1;") for number in range(1, _NEXT)),
        (f"{_NEXT:04}_column.sql", b"ALTER TABLE users ADD COLUMN c text;"),
        (f"{_NEXT + 1:04}_index.sql", b"CREATE INDEX CONCURRENTLY users_c ON users (c);"),
    ]
    return Schema([*_SHIPPED.migrations, *read_migrations(added)[_NEXT - 1 :]], releases)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Schema:
    """A later version's code: it has two more migrations than the database."""
    schema = _later({"0.1.0": _SHIPPED.version})
    _install(monkeypatch, schema)
    return schema


def _install(monkeypatch: pytest.MonkeyPatch, schema: Schema) -> None:
    for module in (upgrade, migrator):
        monkeypatch.setattr(module, "shipped_schema", lambda: schema)
    monkeypatch.setattr(plans, "shipped_effects", lambda: _EFFECTS)


def test_nothing_to_do(command: Command) -> None:
    result = command("upgrade", "check")
    assert result.exit_code == 0, result.output
    assert "There is nothing to apply." in result.stdout
    assert "The way back: " in result.stdout
    document = json.loads(command("upgrade", "check", "--json").stdout)
    assert document["verdict"] == "nothing_to_do"
    assert document["pending"] == []


@pytest.mark.usefixtures("later")
def test_upgrade_that_can_run_is_described(command: Command) -> None:
    result = command("upgrade", "check")
    assert result.exit_code == 0, result.output
    for text in ("ACCESS EXCLUSIVE", "reads and writes", "beside calls", "nobody", "1 ms to 30 ms"):
        assert text in result.stdout
    document = json.loads(command("upgrade", "check", "--json").stdout)
    assert document["verdict"] == "ready"
    assert document["database"] == {"migrations": _SHIPPED.version, "releases": ["0.1.0"]}
    column, index = document["pending"]
    assert (column["migration"], column["runs"]) == (_NEXT, "transaction")
    [statement] = column["statements"]
    assert (statement["table"], statement["lock"]) == ("users", "ACCESS EXCLUSIVE")
    assert statement["lock_held_seconds"][0] < statement["lock_held_seconds"][1]
    assert index["runs"] == "build_index"
    assert "0.1.0" in document["way_back"]
    applied = command("migrate", "--json")
    assert [row["version"] for row in json.loads(applied.stdout)][-2:] == [_NEXT, _NEXT + 1]
    assert "There is nothing to apply." in command("upgrade", "check").stdout


@pytest.mark.usefixtures("later")
def test_what_is_in_the_way_ends_with_3(
    command: Command, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_LONG", plans._LONG * 0)

    async def beside_a_report() -> None:
        report = await asyncpg.connect(database_dsn)
        async with report.transaction():
            await report.execute("SELECT FROM users")
            result = await asyncio.to_thread(command, "upgrade", "check")
            assert result.exit_code == 3, result.output
            assert "would have to wait" in result.stdout
            assert "has locked users" in result.stderr
            as_json = await asyncio.to_thread(command, "upgrade", "check", "--json")
            assert as_json.exit_code == 3
            assert json.loads(as_json.stdout)["verdict"] == "wait"
        await report.close()

    asyncio.run(beside_a_report())


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("table", ["schema_version", "users"])
def test_table_that_nobody_can_read_ends_with_3_and_does_not_hang(
    command: Command, database_dsn: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setenv("AUTHSVC_DATABASE__LOCK_TIMEOUT", "100ms")

    async def beside_a_lock() -> None:
        holder = await asyncpg.connect(database_dsn)
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {table}")
            result = await asyncio.to_thread(command, "upgrade", "check")
            assert result.exit_code == 3, result.output
            assert "would have to wait" in result.stdout
            assert f"has locked {table} so that nobody else can read it" in result.stderr
            assert str(holder.get_server_pid()) in result.stderr
            as_json = await asyncio.to_thread(command, "upgrade", "check", "--json")
            assert as_json.exit_code == 3
            document = json.loads(as_json.stdout)
            assert document["verdict"] == "wait"
            assert table in document["problems"][0]
            listed = await asyncio.to_thread(command, "migrate", "--dry-run")
            assert listed.exit_code == (1 if table == "schema_version" else 0)
            assert table == "users" or "lock timeout" in listed.stderr
        await holder.close()

    asyncio.run(beside_a_lock())


def test_database_two_steps_ahead_ends_with_1(command: Command, database_dsn: str) -> None:
    insert = (
        "INSERT INTO schema_version (version, name, checksum, release, oldest_code)"
        f" VALUES ({_NEXT}, 'later', '', '0.9.0', {{}})"
    )
    asyncio.run(run_sql(database_dsn, insert.format(_SHIPPED.version)))
    one_ahead = command("migrate")
    assert one_ahead.exit_code == 0, one_ahead.output
    assert "this version can serve on it." in one_ahead.stderr
    ahead = f"UPDATE schema_version SET oldest_code = {_NEXT} WHERE version = {_NEXT}"
    asyncio.run(run_sql(database_dsn, ahead))
    for options in ([], ["--dry-run"], ["--skip-versions"]):
        refused = command("migrate", *options)
        assert refused.exit_code == 1
        assert "The database was migrated by authsvc 0.9.0" in refused.stderr
        assert "apply; The" not in refused.stderr


def test_skipped_version_ends_with_1_and_can_be_forced(
    command: Command, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As 0.1.0 leaves it.
    asyncio.run(run_sql(database_dsn, "UPDATE schema_version SET release = NULL"))
    version = _SHIPPED.version
    _install(monkeypatch, _later({"0.1.0": version, "0.2.0": _NEXT, "0.3.0": _NEXT + 1}))
    result = command("upgrade", "check")
    assert result.exit_code == 1
    assert "Upgrade to 0.2.0 first" in result.stderr
    refused = command("migrate")
    assert refused.exit_code == 1
    assert "Upgrade to 0.2.0 first" in refused.stderr
    assert command("migrate", "--skip-versions").exit_code == 0


def test_empty_database_is_new(command: Command, workspace: Workspace, blank_dsn: str) -> None:
    workspace.set_database(blank_dsn)
    result = command("upgrade", "check")
    assert result.exit_code == 0, result.output
    assert f"{_SHIPPED.version} migrations create a new schema." in result.stdout


def test_changed_migration_ends_with_1(command: Command, database_dsn: str) -> None:
    asyncio.run(run_sql(database_dsn, "UPDATE schema_version SET checksum = '' WHERE version = 3"))
    result = command("upgrade", "check")
    assert result.exit_code == 1
    assert "Migration 3 was changed" in result.stderr
