"""The rules for migrations since 0.1.0: what each of them must not do, judged by what it did.

`violations` takes what a migration's statements did on a real server, and the schema before and
after them. A line `-- excused: RULE: why` in the migration excuses it from a rule.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from authsvc.models.upgrades import Lock, StatementEffects, Work
from authsvc.store.postgres.migrations import Kind, Migration
from tests.support.migration_effects import statements_of

# Tables with a handful of rows, however many users there are. What works on their rows is short.
SMALL = frozenset(
    {
        "address_truncation",
        "audit_forwards",
        "decoys",
        "definition_versions",
        "detection_runs",
        "key_first_uses",
        "login_freezes",
        "policies",
        "roles",
        "schema_version",
        "server_runs",
        "signing_keys",
        "token_validities",
    }
)
_EXCUSE = re.compile(r"^-- excused: ([a-z-]+): \S.*$", re.MULTILINE)
_SESSION = re.compile(r"(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|VACUUM|SET|RESET|LOCK)\b", re.IGNORECASE)

_COLUMNS = """
SELECT attrelid::regclass::text || '.' || attname AS name, format_type(atttypid, atttypmod) AS type,
    attnotnull AND NOT atthasdef AND attidentity = '' AS must_be_given
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p') AND NOT relispartition
    AND relnamespace = 'public'::regnamespace
"""
# Uniqueness is with the indexes; NOT NULL with the columns.
_CHECKS = """
SELECT conrelid::regclass::text || '.' || conname AS name, pg_get_constraintdef(pg_constraint.oid)
    AS definition
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE contype IN ('c', 'f', 'x') AND NOT relispartition
    AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT indrelid::regclass::text || '.' || indexrelid::regclass::text,
    pg_get_indexdef(indexrelid)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE indisunique AND NOT relispartition AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(pg_trigger.oid)
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE NOT tgisinternal AND NOT relispartition AND relnamespace = 'public'::regnamespace
"""
_FUNCTIONS = """
SELECT oid::regprocedure::text AS name, pg_get_function_result(oid) AS result
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Catalog:
    """What a schema consists of, by name."""

    columns: Mapping[str, tuple[str, bool]]
    checks: Mapping[str, str]
    functions: Mapping[str, str]

    @classmethod
    async def read(cls, connection: "asyncpg.Connection[asyncpg.Record]") -> "Catalog":
        columns = await connection.fetch(_COLUMNS)
        return cls(
            {row["name"]: (row["type"], row["must_be_given"]) for row in columns},
            {row["name"]: row["definition"] for row in await connection.fetch(_CHECKS)},
            {row["name"]: row["result"] for row in await connection.fetch(_FUNCTIONS)},
        )

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(name.partition(".")[0] for name in self.columns)


def violations(
    migration: Migration,
    effects: Sequence[StatementEffects],
    before: Catalog,
    after: Catalog,
) -> list[str]:
    """Return a sentence for each rule that the migration breaks, beginning with the rule's name."""
    excused = set(_EXCUSE.findall(migration.sql))
    found = [
        *_work(migration, effects),
        *_locks(migration, effects),
        *_session(migration),
        *_columns(before, after),
        *_checks(before, after),
        *_functions(before, after),
    ]
    return [each for each in found if each.partition(":")[0] not in excused]


def _work(migration: Migration, effects: Sequence[StatementEffects]) -> list[str]:
    found = []
    for statement in effects:
        for table, effect in statement.tables.items():
            if table in SMALL or migration.kind in {Kind.BUILD_INDEX, Kind.DROP_INDEX}:
                continue
            where = f"{table} by {statement.statement!r}"
            if effect.work is Work.REWRITE:
                found.append(f"rewrite: {where} writes all rows again, while nobody can use them.")
            elif effect.work is Work.INDEX:
                found.append(
                    f"index: {where} builds an index while nobody can write; build it by CREATE "
                    "INDEX CONCURRENTLY, in a migration of its own."
                )
            elif effect.work is Work.SCAN and effect.lock.blocks_writes:
                found.append(
                    f"scan: {where} reads all rows while nobody can write. Add a constraint as NOT "
                    "VALID, and validate it in a later migration; then SET NOT NULL reads nothing."
                )
            elif effect.work is Work.ROWS and migration.kind is not Kind.REPEAT:
                found.append(
                    f"rows: {where} changes rows in one transaction; use `-- authsvc: repeat`."
                )
    return found


def _locks(migration: Migration, effects: Sequence[StatementEffects]) -> list[str]:
    tables = {
        table
        for statement in effects
        for table, effect in statement.tables.items()
        if effect.lock is Lock.ACCESS_EXCLUSIVE and table not in SMALL
    }
    if len(tables) > 1 and migration.kind is Kind.TRANSACTION:
        names = " and ".join(sorted(tables))
        return [f"two-tables: {names} are locked together; give each a migration of its own."]
    return []


def _session(migration: Migration) -> list[str]:
    return [
        f"session: {statement!r} is the migrator's business."
        for statement in statements_of(migration.sql)
        if _SESSION.match(statement)
    ]


def _columns(before: Catalog, after: Catalog) -> list[str]:
    found = []
    for name, (kind, must_be_given) in after.columns.items():
        former = before.columns.get(name)
        if name.partition(".")[0] not in before.tables:
            continue
        if must_be_given and (former is None or not former[1]):
            found.append(
                f"not-null: the version before inserts rows without {name}: give it a default."
            )
        if former is not None and former[0] != kind:
            found.append(f"type: {name} was {former[0]} and is {kind} now.")
    found += [f"removed: {name} is gone." for name in before.columns if name not in after.columns]
    return found


def _checks(before: Catalog, after: Catalog) -> list[str]:
    return [
        f"constraint: {name} may refuse what the version before writes: {definition}"
        for name, definition in after.checks.items()
        if before.checks.get(name) != definition and name.partition(".")[0] in before.tables
    ]


def _functions(before: Catalog, after: Catalog) -> list[str]:
    return [
        f"function: the version before may call {name}, which returned {result}."
        for name, result in before.functions.items()
        if after.functions.get(name) != result
    ]
