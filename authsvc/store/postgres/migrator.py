"""Owns the schema's version: which migrations were applied, and applying the rest.

The service can run with a schema that is one step newer than its code: every migration is safe
beside the previous version's code, as rolling updates require.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import asyncpg
import structlog

from authsvc import __version__
from authsvc.errors import StoreUnavailable
from authsvc.store.postgres import index_builds
from authsvc.store.postgres.connector import FAILURES, Connection, Connector, PoolConnection
from authsvc.store.postgres.failures import describe
from authsvc.store.postgres.migrations import (
    Kind,
    Migration,
    Schema,
    SchemaError,
    shipped_schema,
)
from authsvc.store.postgres.migrator_lease import Lease
from authsvc.store.postgres.timeouts import NO_TRANSACTION_TIMEOUT, Timeouts

__all__ = [
    "SchemaError",
    "applied",
    "check_schema",
    "connected",
    "count_pending",
    "migrate",
    "newer_than",
    "newest_applied",
    "pending",
    "shipped",
    "tables",
    "wait_for_database",
    "would_skip",
]

log = structlog.get_logger(__name__)

_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
# Any fixed number that nobody else uses in the database: "authsvc" in ASCII.
_LOCK = 0x61757468737663

_TAKE_LOCK = "SELECT pg_advisory_xact_lock($1)"
# While a migration waits for a table, every later statement on it waits behind the migration. So it
# waits for a shorter time than calls do, and then lets them go first.
_LIMIT_WAITING = "SELECT set_config('lock_timeout', $1, true)"
# A migrator that freezes must not keep what it has locked, nor one that was killed: the server
# looks whether its client is there even while a statement runs, which it can't on Windows. Nobody
# would commit what it does.
_LIMIT_SILENCE = f"""
SELECT set_config('statement_timeout', '0', true), {NO_TRANSACTION_TIMEOUT},
    set_config('idle_in_transaction_session_timeout', '5s', true),
    set_config('client_connection_check_interval',
        CASE WHEN version() ~* 'windows|mingw|visual c' THEN '0' ELSE '1s' END, true)
"""
_LOCK_SECONDS = 0.5
_POLL_SECONDS = 1.0
_BACKOFFS = (0.5, 1.0, 2.0, 4.0, *[8.0] * 10)
_CREATE_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_version (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    bytea NOT NULL,
    apply_time  timestamptz NOT NULL DEFAULT now()
)
"""
# 0.1.0 made the table without these, and inserts NULL.
_HAS_ORIGINS = """
SELECT count(*) = 2 FROM pg_attribute
WHERE attrelid = to_regclass('schema_version') AND attname IN ('release', 'oldest_code')
"""
_ADD_ORIGINS = """
ALTER TABLE schema_version
    -- The version of authsvc that applied the migration.
    ADD COLUMN IF NOT EXISTS release text,
    -- The last migration that code must have to serve the schema since.
    ADD COLUMN IF NOT EXISTS oldest_code integer
"""
_HAS_VERSIONS = "SELECT to_regclass('schema_version') IS NOT NULL"
_SELECT_VERSIONS = "SELECT version, name, checksum, apply_time FROM schema_version ORDER BY version"
_SELECT_OLDEST_CODE = """
SELECT oldest_code, release FROM schema_version WHERE oldest_code > $1
ORDER BY oldest_code, version LIMIT 1
"""
_SELECT_RELEASE = "SELECT release FROM schema_version WHERE version = $1"
# By a migrator of 0.1.0, in the meantime.
_IS_APPLIED = "SELECT EXISTS (SELECT FROM schema_version WHERE version = $1)"
_INSERT_VERSION = """
INSERT INTO schema_version (version, name, checksum, release, oldest_code)
VALUES ($1, $2, $3, $4, $5)
"""

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration and the time when it was applied, None if it is pending."""

    version: int
    name: str
    apply_time: datetime | None


def shipped() -> Sequence[Migration]:
    """Return the migrations of this version of the code, in order."""
    return shipped_schema().migrations


def tables(schema: Schema | None = None) -> Sequence[str]:
    """Return the names of the tables that the migrations create, with some that they drop again."""
    migrations = (schema or shipped_schema()).migrations
    created = {name for migration in migrations for name in _TABLE.findall(migration.sql)}
    return sorted(created | {"schema_version"})


def _log(line: str) -> None:
    log.info("migration", detail=line)


async def migrate(
    dsn: str,
    schema: Schema | None = None,
    *,
    lock_seconds: float = _LOCK_SECONDS,
    skip_versions: bool = False,
    say: Callable[[str], object] = _log,
) -> list[int]:
    """Apply the pending migrations and return their numbers; parallel runs take turns.

    A migration waits for each lock up to `lock_seconds`. It is tried again when others keep one for
    longer, for about a minute and a half. Long work that locks nobody out is continued where a run
    before was interrupted. `say` is called with a line about each wait, and about the progress.

    Migrations of the next version are left as they are, and `say` is called with a line about them.
    With `skip_versions`, versions in between may be skipped, which is safe while no replica serves.

    Raises SchemaError if the applied migrations differ from this version's files, if they are those
    of a version that is too old, or of one that this version can't serve with, or if a migration
    fails (earlier ones stay applied), and StoreUnavailable if the database can't be used.
    """
    run = _Run(schema or shipped_schema(), lock_seconds, skip_versions, say)
    try:
        async with Lease(Connector(address=dsn), say) as lease, connected(dsn) as connection:
            return await lease.guard(run.apply_all(connection, lease))
    except FAILURES as error:
        raise StoreUnavailable from error


async def wait_for_database(
    dsn: str, patience: timedelta, *, say: Callable[[str], object] = _log
) -> None:
    """Return once the database can be used; `say` is called with each new reason why it can't.

    Raises StoreUnavailable when `patience` is over.
    """
    end, told = time.monotonic() + patience.total_seconds(), ""
    while True:
        try:
            async with connected(dsn):
                return
        except StoreUnavailable as error:
            if time.monotonic() + _POLL_SECONDS > end:
                raise
            why = describe(error)
            if why != told:
                say(f"Waiting for the database: {why}")
                told = why
        await asyncio.sleep(_POLL_SECONDS)


async def pending(dsn: str, timeouts: Timeouts) -> list[MigrationStatus]:
    """Return every migration of this version in order, with the time when it was applied.

    Changes nothing. Raises as `migrate`, also if somebody keeps the list of migrations locked.
    """
    schema = shipped_schema()
    async with connected(dsn, timeouts) as connection:
        rows = await applied(connection, schema)
        if too_new := await newer_than(connection, schema):
            raise SchemaError(too_new)
    times: dict[int, datetime] = {row["version"]: row["apply_time"] for row in rows}
    return [
        MigrationStatus(migration.version, migration.name, times.get(migration.version))
        for migration in shipped()
    ]


async def applied(connection: Connection, schema: Schema) -> Sequence[asyncpg.Record]:
    """Return the applied migrations, in order: version, name and apply_time.

    Raises SchemaError if they are not those of `schema`, with or without later ones.
    """
    rows = await _rows(connection)
    _compare(rows, schema.migrations)
    return rows


async def check_schema(connection: Connection, schema: Schema | None = None) -> None:
    """Raise SchemaError unless this version can serve with the database's schema.

    Every migration of this version must have been applied, unchanged. Those of the next version may
    have been, too, but not those of one that no longer works beside this one.
    """
    schema = schema or shipped_schema()
    rows = await applied(connection, schema)
    if len(rows) < schema.version:
        raise SchemaError(
            f"The database has {len(rows)} of {schema.version} migrations; "
            "run `authsvc migrate` to apply the others."
        )
    if too_new := await newer_than(connection, schema):
        raise SchemaError(too_new)


async def newer_than(connection: Connection, schema: Schema) -> str | None:
    """Return a sentence if the database is of a version that this one can't serve with, or None."""
    if not await connection.fetchval(_HAS_ORIGINS):
        return None
    row = await connection.fetchrow(_SELECT_OLDEST_CODE, schema.version)
    if row is None:
        return None
    return (
        f"The database was migrated by authsvc {row['release']}, which serves beside code that has "
        f"migration {row['oldest_code']}; this is {__version__} with {schema.version}. Start a "
        "newer version."
    )


async def newest_applied(connection: Connection) -> int:
    """Return the number of the newest migration that was applied, of whichever version."""
    rows = await _rows(connection)
    return rows[-1]["version"] if rows else 0


async def count_pending(connection: Connection) -> int:
    """Return how many migrations of this version the database lacks."""
    return len(
        {migration.version for migration in shipped()}
        - {row["version"] for row in await _rows(connection)}
    )


async def would_skip(connection: Connection, schema: Schema, count: int) -> str | None:
    """Return a sentence if an upgrade of a database with `count` migrations skips a version.

    It doesn't if it goes on with what this version has begun.
    """
    skipped = schema.skipped_by(count)
    if not skipped:
        return None
    if await connection.fetchval(_HAS_ORIGINS):
        begun_by = await connection.fetchval(_SELECT_RELEASE, count)
        if begun_by == __version__:
            return None
    return (
        f"The database has the schema of a version before authsvc {skipped[0]}. Upgrade to "
        f"{skipped[-1]} first, and let all replicas serve with it."
    )


@asynccontextmanager
async def connected(dsn: str, timeouts: Timeouts | None = None) -> AsyncIterator[PoolConnection]:
    """Lend a connection outside of any pool; raises StoreUnavailable if it fails.

    With `timeouts`, no statement takes longer, nor waits for a lock any longer.
    """
    # A pooler's session is not told the timeouts of statements.
    longest = timeouts.statement if timeouts else None
    try:
        connector = Connector(address=dsn, command_timeout=longest, timeouts=timeouts)
        connection = await connector.connect()
        try:
            yield connection
        finally:
            await connection.close()
    except FAILURES as error:
        raise StoreUnavailable from error


@dataclass(frozen=True, slots=True)
class _Run:
    schema: Schema
    lock_seconds: float
    skip_versions: bool
    say: Callable[[str], object]

    async def apply_all(self, connection: PoolConnection, lease: Lease) -> list[int]:
        done = []
        while (migration := await self._patiently(lambda: self._next(connection))) is not None:
            title = f"Migration {migration.version} ({migration.name})"
            lease.working_on(title)
            try:
                await self._apply(connection, migration, lease)
            except asyncpg.PostgresConnectionError:
                raise
            except asyncpg.PostgresError as error:
                undone = " and was rolled back" if migration.kind is Kind.TRANSACTION else ""
                raise SchemaError(f"{title} failed{undone}: {error}") from error
            lease.working_on(None)
            done.append(migration.version)
        return done

    async def _next(self, connection: Connection) -> Migration | None:
        """Return the migration to apply next, None if there is none."""
        async with connection.transaction():
            await self._begin(connection)
            await connection.execute(_CREATE_VERSIONS)
            if not await connection.fetchval(_HAS_ORIGINS):
                await connection.execute(_ADD_ORIGINS)
            rows = await applied(connection, self.schema)
        if too_new := await newer_than(connection, self.schema):
            raise SchemaError(too_new)
        if len(rows) > self.schema.version:
            self.say(
                f"The database has migration {rows[-1]['version']}, which is newer than this "
                "version of authsvc. There is nothing to apply; this version can serve on it."
            )
        if len(rows) >= self.schema.version:
            return None
        if not self.skip_versions and (why := await would_skip(connection, self.schema, len(rows))):
            raise SchemaError(
                f"{why} Or stop all replicas and run `authsvc migrate --skip-versions`."
            )
        return self.schema.migrations[len(rows)]

    async def _apply(self, connection: PoolConnection, migration: Migration, lease: Lease) -> None:
        match migration.kind:
            case Kind.TRANSACTION:
                await self._patiently(lambda: self._in_transaction(connection, migration))
                return
            case Kind.REPEAT:
                await self._repeat(connection, migration, lease)
            case Kind.BUILD_INDEX | Kind.DROP_INDEX:
                await index_builds.prepare(connection)
                await self._patiently(lambda: index_builds.run(connection, migration, self.say))
        await self._patiently(lambda: self._note(connection, migration))

    async def _in_transaction(self, connection: Connection, migration: Migration) -> None:
        async with connection.transaction():
            await self._begin(connection)
            if not await connection.fetchval(_IS_APPLIED, migration.version):
                await connection.execute(migration.sql)
                await self._insert(connection, migration)

    async def _repeat(self, connection: Connection, migration: Migration, lease: Lease) -> None:
        loop = asyncio.get_running_loop()

        async def batch() -> int:
            async with connection.transaction():
                await self._begin(connection)
                tag = await connection.execute(migration.statement)
            return int(tag.rpartition(" ")[2])

        total = 0
        while True:
            start = loop.time()
            rows = await self._patiently(batch)
            if rows == 0:
                return
            total += rows
            lease.got_to(f"{total} rows so far")
            # Half of the time is for calls and standbys.
            await asyncio.sleep(loop.time() - start)

    async def _note(self, connection: Connection, migration: Migration) -> None:
        async with connection.transaction():
            await self._begin(connection)
            await self._insert(connection, migration)

    async def _begin(self, connection: Connection) -> None:
        await connection.execute(_LIMIT_SILENCE)
        # Waits for a migrator of 0.1.0, which has no lease.
        await connection.execute(_TAKE_LOCK, _LOCK)
        await connection.execute(_LIMIT_WAITING, f"{self.lock_seconds * 1_000:.0f}ms")

    async def _insert(self, connection: Connection, migration: Migration) -> None:
        await connection.execute(
            _INSERT_VERSION,
            migration.version,
            migration.name,
            migration.checksum,
            __version__,
            self.schema.oldest_code(migration.version),
        )

    async def _patiently(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        for backoff in _BACKOFFS:
            try:
                return await work()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                self.say(
                    f"A migration waits for a lock that others hold; next try in {backoff:g} s."
                )
                await asyncio.sleep(backoff)
        try:
            return await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            raise SchemaError(
                "Others keep a lock that a migration needs, so it was not applied. Run `authsvc "
                "migrate` again when no report, backup or forgotten transaction is running; "
                "`authsvc upgrade check` lists them."
            ) from error


async def _rows(connection: Connection) -> list[asyncpg.Record]:
    if not await connection.fetchval(_HAS_VERSIONS):
        return []
    return await connection.fetch(_SELECT_VERSIONS)


def _compare(rows: Sequence[asyncpg.Record], expected: Sequence[Migration]) -> None:
    for row, migration in zip(rows, expected, strict=False):
        if row["version"] != migration.version:
            raise SchemaError(
                f"The database has migration {row['version']} but lacks {migration.version}; "
                "restore it from a backup."
            )
        if row["checksum"] != migration.checksum:
            raise SchemaError(
                f"Migration {migration.version} was changed after it was applied; restore the "
                "file as it was and put the change into a new migration."
            )
