"""Owns the schema's version: the shipped migrations, the applied ones, and applying the rest.

Migrations are numbered SQL files in `store/migrations`, forward only, each in its own transaction.
The service can run with a schema newer than its code: every migration is compatible with the
previous version's code, as rolling updates require.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib import resources

import asyncpg
import structlog

from authsvc.errors import StoreUnavailable
from authsvc.store.postgres.connector import FAILURES, Connection, Connector
from authsvc.store.postgres.failures import describe

log = structlog.get_logger(__name__)

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
# Any fixed number that nobody else uses in the database: "authsvc" in ASCII.
_LOCK = 0x61757468737663

_TAKE_LOCK = "SELECT pg_advisory_xact_lock($1)"
# While a migration waits for a table, every later statement on it waits behind the migration. So it
# waits for a shorter time than calls do, and then lets them go first. A migrator that freezes must
# not keep what it has locked.
_LIMIT_WAITING = """
SELECT set_config('lock_timeout', $1, true),
    set_config('idle_in_transaction_session_timeout', '5s', true)
"""
_LOCK_SECONDS = 0.5
_BACKOFFS = (0.5, 1.0, 2.0, 4.0, *[8.0] * 10)
_POLL_SECONDS = 1.0
_CREATE_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_version (
    version     integer PRIMARY KEY,
    name        text NOT NULL,
    checksum    bytea NOT NULL,
    apply_time  timestamptz NOT NULL DEFAULT now()
)
"""
_HAS_VERSIONS = "SELECT to_regclass('schema_version') IS NOT NULL"
_SELECT_VERSIONS = "SELECT version, name, checksum, apply_time FROM schema_version ORDER BY version"
_INSERT_VERSION = "INSERT INTO schema_version (version, name, checksum) VALUES ($1, $2, $3)"


class SchemaError(Exception):
    """The database's schema does not fit the code; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file; `checksum` is the SHA-256 of its bytes."""

    version: int
    name: str
    sql: str
    checksum: bytes


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration and the time when it was applied, None if it is pending."""

    version: int
    name: str
    apply_time: datetime | None


@cache
def shipped() -> Sequence[Migration]:
    """Return the migrations of this version of the code, in order."""
    folder = resources.files("authsvc.store") / "migrations"
    files = ((file.name, file.read_bytes()) for file in folder.iterdir())
    return read_migrations((name, content) for name, content in files if name.endswith(".sql"))


def tables() -> Sequence[str]:
    """Return the names of the tables that the migrations create, with some that they drop again."""
    created = {name for migration in shipped() for name in _TABLE.findall(migration.sql)}
    return sorted(created | {"schema_version"})


def read_migrations(files: Iterable[tuple[str, bytes]]) -> Sequence[Migration]:
    """Return the migrations of these files (name, content) in order.

    Raises SchemaError if a name is not `0001_name.sql` or the numbers have a gap.
    """
    migrations = []
    for expected, (name, content) in enumerate(sorted(files), start=1):
        match = _FILE_NAME.fullmatch(name)
        if match is None:
            raise SchemaError(f"The migration {name} is not named like 0001_name.sql.")
        if int(match[1]) != expected:
            raise SchemaError(f"The migration {name} should have the number {expected:04}.")
        checksum = hashlib.sha256(content).digest()
        migrations.append(Migration(expected, match[2], content.decode(), checksum))
    return tuple(migrations)


def _log(line: str) -> None:
    log.info("migration", detail=line)


async def migrate(
    dsn: str,
    migrations: Sequence[Migration] | None = None,
    *,
    lock_seconds: float = _LOCK_SECONDS,
    say: Callable[[str], object] = _log,
) -> list[int]:
    """Apply the pending migrations and return their numbers; parallel runs are safe.

    A migration waits for each lock up to `lock_seconds`. It is tried again when others keep one for
    longer, for about a minute and a half, and `say` is called with a line about it each time.

    Migrations of a later version are left as they are, and `say` is called with a line about them.

    Raises SchemaError if the applied migrations differ from this version's files, or if a migration
    fails (earlier ones stay applied), and StoreUnavailable if the database can't be used.
    """
    expected = shipped() if migrations is None else migrations
    applied = []
    async with _connected(dsn) as connection:
        while version := await _apply_patiently(connection, expected, lock_seconds, say):
            applied.append(version)
    return applied


async def wait_for_database(
    dsn: str, patience: timedelta, *, say: Callable[[str], object] = _log
) -> None:
    """Return once the database can be used; `say` is called with each new reason why it can't.

    Raises StoreUnavailable when `patience` is over.
    """
    end, told = time.monotonic() + patience.total_seconds(), ""
    while True:
        try:
            async with _connected(dsn):
                return
        except StoreUnavailable as error:
            if time.monotonic() + _POLL_SECONDS > end:
                raise
            why = describe(error)
            if why != told:
                say(f"Waiting for the database: {why}.")
                told = why
        await asyncio.sleep(_POLL_SECONDS)


async def pending(dsn: str) -> list[MigrationStatus]:
    """Return every migration of this version in order, with the time when it was applied.

    Changes nothing. Raises as `migrate`.
    """
    async with _connected(dsn) as connection:
        rows = await _rows(connection)
    _compare(rows, shipped())
    times: dict[int, datetime] = {row["version"]: row["apply_time"] for row in rows}
    return [
        MigrationStatus(migration.version, migration.name, times.get(migration.version))
        for migration in shipped()
    ]


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    try:
        connection = await Connector(address=dsn).connect()
        try:
            yield connection
        finally:
            await connection.close()
    except FAILURES as error:
        raise StoreUnavailable from error


async def _apply_patiently(
    connection: Connection,
    expected: Sequence[Migration],
    lock_seconds: float,
    say: Callable[[str], object],
) -> int | None:
    for backoff in _BACKOFFS:
        try:
            return await _apply_next(connection, expected, lock_seconds, say)
        except asyncpg.LockNotAvailableError:
            say(f"A migration waits for a lock that others hold; next try in {backoff:g} s.")
            await asyncio.sleep(backoff)
    try:
        return await _apply_next(connection, expected, lock_seconds, say)
    except asyncpg.LockNotAvailableError as error:
        raise SchemaError(
            "Others keep a lock that a migration needs, so it was not applied. Run `authsvc "
            "migrate` again when no report, backup or forgotten transaction is running."
        ) from error


async def check_schema(connection: Connection) -> None:
    """Raise SchemaError unless every migration of this version was applied, unchanged."""
    rows = await _rows(connection)
    _compare(rows, shipped())
    if len(rows) < len(shipped()):
        raise SchemaError(
            f"The database has {len(rows)} of {len(shipped())} migrations; "
            "run `authsvc migrate` to apply the others."
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


async def _apply_next(
    connection: Connection,
    expected: Sequence[Migration],
    lock_seconds: float,
    say: Callable[[str], object],
) -> int | None:
    async with connection.transaction():
        # Waits for another migrator, which no call does.
        await connection.execute(_TAKE_LOCK, _LOCK)
        await connection.execute(_LIMIT_WAITING, f"{lock_seconds * 1_000:.0f}ms")
        await connection.execute(_CREATE_VERSIONS)
        rows = await connection.fetch(_SELECT_VERSIONS)
        _compare(rows, expected)
        if len(rows) > len(expected):
            say(
                f"The database has migration {rows[-1]['version']}, which is newer than this "
                "version of authsvc. There is nothing to apply; this version can serve on it."
            )
        if len(rows) >= len(expected):
            return None
        migration = expected[len(rows)]
        try:
            await connection.execute(migration.sql)
        except asyncpg.LockNotAvailableError:
            raise
        except asyncpg.PostgresError as error:
            raise SchemaError(
                f"Migration {migration.version} ({migration.name}) failed and was rolled back: "
                f"{error}"
            ) from error
        await connection.execute(
            _INSERT_VERSION, migration.version, migration.name, migration.checksum
        )
    return migration.version


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
