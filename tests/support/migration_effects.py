"""Measures what each migration does to the tables that were there before it, on a real server.

    python -m tests.support.migration_effects [--write]

compares `authsvc/store/migrations/effects.json` with that, or renews it. For each statement it says
which lock the server takes on which table, and what it does with the rows: it rewrites the table,
builds an index, changes rows, or reads all of them. Partitions count as their table.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.models.upgrades import Lock, StatementEffects, TableEffect, Work
from authsvc.store.postgres.migrations import Kind, Migration, Schema, shipped_schema
from authsvc.store.postgres.migrator import migrate

FILE = Path(__file__).parents[2] / "authsvc" / "store" / "migrations" / "effects.json"
_WIDTH = 100

# Up to the semicolon that ends it: strings, names, functions and comments may contain others.
_STATEMENT = re.compile(
    r"""(?:'[^']*'|"[^"]*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/|[^;'"$/-]|[$/-])+;""", re.DOTALL
)
_COMMENT = re.compile(r"--[^\n]*")
_TABLES = """
SELECT c.oid, coalesce(pg_partition_root(c.oid)::regclass, c.oid::regclass)::text AS root,
    pg_relation_filenode(c.oid) AS filenode, pg_stat_get_xact_numscans(c.oid) AS scans
FROM pg_class AS c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
"""
_LOCKS = """
SELECT relation AS oid, mode FROM pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
"""
_INDEXES = "SELECT indexrelid AS oid, indrelid AS table FROM pg_index"
_NOTE = "INSERT INTO schema_version (version, name, checksum) VALUES ($1, $2, $3)"
# Of the migrator itself.
_OWN = frozenset({"schema_version"})


def statements_of(sql: str) -> list[str]:
    """Return the statements of a file, without comments before, between and after them."""
    found = (_COMMENT.sub("", match[0]).strip() for match in _STATEMENT.finditer(sql))
    return [statement for statement in found if statement != ";"]


class _State:
    """The tables that were there before, and what the transaction has done to them so far."""

    def __init__(self, tables: Any, locks: Any, indexes: Any) -> None:
        self.tables = {row["oid"]: row for row in tables}
        self.locks = {(row["oid"], row["mode"]) for row in locks}
        self.indexes = {row["oid"]: row["table"] for row in indexes}

    @classmethod
    async def read(cls, connection: "asyncpg.Connection[asyncpg.Record]") -> "_State":
        return cls(
            await connection.fetch(_TABLES),
            await connection.fetch(_LOCKS),
            await connection.fetch(_INDEXES),
        )


async def _execute(
    connection: "asyncpg.Connection[asyncpg.Record]", sql: str
) -> list[StatementEffects]:
    """Execute statements, each in a transaction of its own; return their effects.

    Tables that a statement before has created don't count, as nobody else uses them yet.
    """
    found = []
    first = await _State.read(connection)
    for statement in statements_of(sql):
        async with connection.transaction():
            before = await _State.read(connection)
            await connection.execute(statement)
            after = await _State.read(connection)
        found.append(StatementEffects(_short(statement), _compared(first, before, after)))
    return found


def _compared(first: _State, before: _State, after: _State) -> Mapping[str, TableEffect]:
    built = {after.indexes[oid] for oid in after.indexes.keys() - before.indexes.keys()}
    found: dict[str, TableEffect] = {}
    for oid, mode in sorted(after.locks - before.locks):
        if oid not in first.tables or first.tables[oid]["root"] in _OWN:
            continue
        lock = Lock(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper())
        # A table that is gone was neither read nor rewritten.
        was = before.tables.get(oid, first.tables[oid])
        now = after.tables.get(oid, was)
        if now["filenode"] != was["filenode"]:
            work = Work.REWRITE
        elif oid in built and now["scans"] > was["scans"]:
            work = Work.INDEX
        elif lock is Lock.ROW_EXCLUSIVE:
            work = Work.ROWS
        elif now["scans"] > was["scans"]:
            work = Work.SCAN
        else:
            work = Work.NONE
        table = first.tables[oid]["root"]
        found[table] = _stronger(found.get(table), TableEffect(lock, work))
    return {
        table: effect for table, effect in found.items() if effect.lock is not Lock.ACCESS_SHARE
    }


def _stronger(one: TableEffect | None, other: TableEffect) -> TableEffect:
    if one is None:
        return other
    works = list(Work)
    return TableEffect(
        max(one.lock, other.lock, key=lambda lock: lock.strength),
        max(one.work, other.work, key=works.index),
    )


def _short(statement: str) -> str:
    text = " ".join(statement.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 2]} …"


async def measure(dsn: str, schema: Schema, after: int) -> dict[int, Sequence[StatementEffects]]:
    """Apply the migrations to an empty database; return the effects of those after a number."""
    await migrate(dsn, Schema(schema.migrations[:after]))
    return {each.version: await apply(dsn, schema, each) for each in schema.migrations[after:]}


async def apply(dsn: str, schema: Schema, migration: Migration) -> Sequence[StatementEffects]:
    """Apply the next migration; return the effects of its statements."""
    if migration.kind in {Kind.BUILD_INDEX, Kind.DROP_INDEX}:
        await migrate(dsn, Schema(schema.migrations[: migration.version]))
        return [_of_index(migration)]
    connection = await asyncpg.connect(dsn)
    try:
        effects = await _execute(connection, migration.sql)
        await connection.execute(_NOTE, migration.version, migration.name, migration.checksum)
    finally:
        await connection.close()
    return effects


def _of_index(migration: Migration) -> StatementEffects:
    """Return the effects of work on an index, which can't be measured within a transaction."""
    effect = TableEffect(Lock.SHARE_UPDATE_EXCLUSIVE, Work.INDEX)
    tables = {migration.index.table: effect} if migration.index else {}
    return StatementEffects(_short(migration.statement), tables)


def written(effects: Mapping[int, Sequence[StatementEffects]]) -> str:
    """Return effects in the form of `effects.json`."""
    plain = {
        f"{version:04}": [
            {
                "statement": each.statement,
                "tables": {
                    table: {"lock": effect.lock, "work": effect.work}
                    for table, effect in sorted(each.tables.items())
                },
            }
            for each in statements
        ]
        for version, statements in effects.items()
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Compare, or with --write renew; return the exit code."""
    schema = shipped_schema()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder), durable=False)
        server.start()
        try:
            text = written(asyncio.run(measure(server.dsn(), schema, schema.steps[0])))
        finally:
            server.stop()
    if "--write" in sys.argv:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        print(f"{FILE.name} is not current: run `make effects`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
