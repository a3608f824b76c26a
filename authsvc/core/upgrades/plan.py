"""Owns the plan of an upgrade to this version: what it would do, for how long, what holds it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import asyncpg

from authsvc.core.upgrades.estimates import NO_TIME, Seconds, bytes_for, seconds_for
from authsvc.models.upgrades import (
    Connections,
    Lock,
    Place,
    Session,
    StatementEffects,
    TableEffect,
    TableSize,
    Work,
)
from authsvc.store import upgrades as store
from authsvc.store.postgres.connector import PoolConnection
from authsvc.store.postgres.migration_effects import shipped_effects
from authsvc.store.postgres.migrations import Kind, Migration, Schema
from authsvc.store.postgres.migrator import applied, newer_than, tables, would_skip

# Transactions of the service are shorter.
_LONG = timedelta(seconds=10)
_NOTHING = TableSize(0, 0, 0)
_APPLICATION = "authsvc"
# Of several tables.
_SHOWN = 5


class Verdict(StrEnum):
    """Whether `authsvc migrate` can run now."""

    NOTHING_TO_DO = "nothing to do"
    READY = "ready"
    # What would keep it waiting, or make it fail.
    WAIT = "wait"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """What a statement of a pending migration does to one table; `table` is "" if to none.

    `takes` is how long the statement works, and `held` how long its lock is kept, as that lasts
    until the end of the transaction.
    """

    migration: int
    kind: Kind
    statement: str
    table: str
    effect: TableEffect
    size: TableSize
    takes: Seconds
    held: Seconds

    @property
    def blocks(self) -> str:
        """Which calls wait for the lock."""
        if self.effect.lock.blocks_reads:
            return "reads and writes"
        return "writes" if self.effect.lock.blocks_writes else "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradePlan:
    """What an upgrade of a database to this version's schema would do.

    `applied` is how many migrations the database has, `releases` those whose schema it has or has
    begun to leave, `problems` what keeps the upgrade from running now, `notes` what else to know.
    """

    verdict: Verdict
    applied: int
    releases: Sequence[str]
    pending: Sequence[Migration]
    steps: Sequence[Step]
    connections: Sequence[Connections]
    problems: Sequence[str]
    notes: Sequence[str]
    way_back: str
    disk_needed: int
    disk_free: int | None


class HeldUp(Exception):
    """Others have locked what an upgrade has to read; `problems` say who."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = problems


async def plan_upgrade(
    connection: PoolConnection, schema: Schema, version: str, lock_seconds: float
) -> UpgradePlan:
    """Return what `authsvc migrate` of this version would do; changes and locks nothing.

    Raises:
        SchemaError: The database's migrations are not those of this version.
        HeldUp: A statement could not read a table within the connection's timeouts.
    """
    try:
        return await _plan(connection, schema, version, lock_seconds)
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError) as error:
        raise HeldUp(await _holders(connection, schema)) from error


async def _holders(connection: PoolConnection, schema: Schema) -> Sequence[str]:
    """Return what keeps anybody from reading the schema's tables."""
    found = [
        f"{_who(session)} has locked {', '.join(session.tables)} so that nobody else can read it."
        for session in await store.exclusive_sessions(connection, tables(schema))
    ]
    found += await _prepared(connection)
    return found or [
        "The database did not answer in time, although nobody has locked a table; try again."
    ]


async def _plan(
    connection: PoolConnection, schema: Schema, version: str, lock_seconds: float
) -> UpgradePlan:
    rows = await applied(connection, schema)
    pending = schema.migrations[len(rows) :]
    # An empty database has no tables that somebody uses.
    effects = shipped_effects() if rows else {}
    sizes = await store.table_sizes(connection, _tables(pending, effects))
    steps = [
        step for each in pending for step in _steps(each, effects.get(each.version, ()), sizes)
    ]
    connections = await store.connections_of_service(connection)
    refusals = [
        *filter(None, [await would_skip(connection, schema, len(rows))]),
        *filter(None, [await newer_than(connection, schema)]),
        *_too_old(schema, len(rows), connections, version),
    ]
    needed = sum(bytes_for(step.effect, step.size) for step in steps)
    free = await store.free_disk(connection)
    problems: list[str] = []
    notes: list[str] = []
    if pending:
        # It may be there without rows, if a migration has failed.
        new = set(tables(schema)) - {"schema_version"}
        concerned = _tables(pending, effects) if rows else new
        place = await store.read_place(connection, concerned)
        problems += _missing_rights(place, is_new=not rows)
    if pending and rows:
        obstacles, notes = await _obstacles(connection, steps)
        problems += obstacles
        if free is not None and free < 2 * needed:
            problems.append(
                f"The disk has {_size(free)} free, and up to {_size(2 * needed)} are needed."
            )
        if any(step.effect.lock.blocks_writes for step in steps):
            notes.append(
                f"Each statement waits up to {lock_seconds:g} s for its lock, lets the calls go "
                "first that wait behind it, and tries again for a minute and a half."
            )
    return UpgradePlan(
        verdict=_verdict(pending, refusals, problems),
        applied=len(rows),
        releases=_releases(schema, len(rows)),
        pending=pending,
        steps=steps,
        connections=connections,
        problems=refusals + problems,
        notes=notes,
        way_back=_way_back(schema, len(rows)),
        disk_needed=needed,
        disk_free=free,
    )


def _verdict(
    pending: Sequence[Migration], refusals: Sequence[str], problems: Sequence[str]
) -> Verdict:
    if refusals:
        return Verdict.REFUSED
    if not pending:
        return Verdict.NOTHING_TO_DO
    return Verdict.WAIT if problems else Verdict.READY


def _tables(
    pending: Sequence[Migration], effects: Mapping[int, Sequence[StatementEffects]]
) -> set[str]:
    return {
        table
        for migration in pending
        for statement in effects.get(migration.version, ())
        for table in statement.tables
    }


def _steps(
    migration: Migration, statements: Sequence[StatementEffects], sizes: Mapping[str, TableSize]
) -> list[Step]:
    found: list[Step] = []
    rest = NO_TIME
    # From the last statement on, as each lock is held until the end of the transaction.
    for statement in reversed(statements):
        tables = statement.tables or {"": TableEffect(Lock.ACCESS_SHARE, Work.NONE)}
        took = [seconds_for(effect, sizes.get(name, _NOTHING)) for name, effect in tables.items()]
        rest = sum(took, start=rest)
        for (name, effect), takes in zip(tables.items(), took, strict=True):
            held = takes if migration.kind is not Kind.TRANSACTION else rest
            found.append(
                Step(
                    migration.version,
                    migration.kind,
                    statement.statement,
                    name,
                    effect,
                    sizes.get(name, _NOTHING),
                    takes,
                    held,
                )
            )
    return found[::-1]


def _too_old(
    schema: Schema, count: int, connections: Sequence[Connections], version: str
) -> list[str]:
    # Replicas of the version before, and of this one.
    former = schema.releases_at(schema.oldest_code(schema.version))
    fit = {version, *former}
    return [
        f"Replicas of authsvc {_version_of(each.application)} are connected; upgrade them to "
        f"{former[-1]} first."
        for each in connections
        if former and count < schema.version and _version_of(each.application) not in fit
    ]


def _version_of(application: str) -> str:
    """Return the version in an application_name; 0.1.0 doesn't name its own."""
    return application.removeprefix(_APPLICATION).strip() or "0.1.0"


def _missing_rights(place: Place, *, is_new: bool) -> list[str]:
    found = []
    if place.schema is None:
        found.append("The role may use no schema of its search path; create one that it owns.")
    elif not place.may_create:
        found.append(
            f"The role may not create in the schema {place.schema}; GRANT CREATE ON SCHEMA to it."
        )
    if is_new and place.present:
        found.append(
            f"The schema {place.schema} has {_some(place.present)} already, but no migration was "
            "applied; give authsvc a database of its own, or restore it from a backup."
        )
    elif place.of_others:
        found.append(
            f"The role doesn't own {_some(place.of_others)}; use the one that migrated before, or "
            "ALTER TABLE … OWNER TO."
        )
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    return ", ".join(names[:_SHOWN]) + more


async def _obstacles(
    connection: PoolConnection, steps: Sequence[Step]
) -> tuple[list[str], list[str]]:
    """Return what holds the upgrade up, and what else to know."""
    locked = {
        step.table for step in steps if step.effect.lock.strength > Lock.ROW_EXCLUSIVE.strength
    }
    builds = any(step.kind in {Kind.BUILD_INDEX, Kind.DROP_INDEX} for step in steps)
    problems, notes = [], []
    for session in await store.long_sessions(connection, locked, _LONG):
        seconds = session.duration.total_seconds()
        text = f"{_who(session)} has been in a transaction for {seconds:.0f} s"
        if session.tables:
            problems.append(f"{text} and has locked {', '.join(session.tables)}.")
        elif builds:
            problems.append(f"{text}; the build of an index waits for its end.")
        else:
            notes.append(f"{text}; it has locked none of the tables concerned.")
    problems += await _prepared(connection)
    if hidden := await store.count_hidden_sessions(connection):
        notes.append(
            f"{hidden} sessions of other roles can't be seen; GRANT pg_read_all_stats to the role "
            "shows their transactions."
        )
    notes += [
        f"The index {index} is unfinished; the migration that builds it drops it and begins anew."
        for index in await store.unfinished_indexes(connection)
    ]
    return problems, notes


def _who(session: Session) -> str:
    application, role = session.application or "without a name", session.role or "unknown"
    return f"Process {session.pid} ({application}, role {role})"


async def _prepared(connection: PoolConnection) -> Sequence[str]:
    return [
        f"The transaction {name} has been prepared for {duration.total_seconds():.0f} s; commit "
        "it, or roll it back."
        for name, duration in (await store.prepared_transactions(connection)).items()
    ]


def _releases(schema: Schema, count: int) -> Sequence[str]:
    """Return the releases whose schema the database has, or has begun to leave."""
    return schema.releases_at(max((step for step in schema.steps if step <= count), default=0))


def _way_back(schema: Schema, count: int) -> str:
    if count == 0:
        return "No migration was applied, so there is nothing to go back to."
    former = schema.releases_at(schema.oldest_code(schema.version))
    if not former:
        return "There is no version before this one."
    return (
        f"Start {former[-1]} again: it can serve the new schema, and its `migrate` leaves that as "
        "it is. This holds until a later version than this one has migrated."
    )


def _size(count: int) -> str:
    return f"{count / 1_000_000:,.0f} MB"
