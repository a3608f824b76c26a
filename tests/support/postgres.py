"""Databases for tests: one PostgreSQL server per worker, a new database per test.

The server starts when the first test needs it and ends with the worker, even a killed one.
`AUTHSVC_TEST_DATABASE` names a server to use instead; its role must be allowed to create databases.
`AUTHSVC_TEST_TEMPLATE` names a database there that already has all migrations.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest

from authsvc.dev.locks import AlreadyRunningError, lock_supervisor
from authsvc.dev.postgres import EmbeddedPostgres

_PATIENCE = 60.0
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30
_PREFIX = "authsvc-test-"
_YOUNG = 60.0
# The months of the real clock, which may go on meanwhile, and the first ones of the fake one.
_TODAY = datetime.now(UTC)
_MONTHS = tuple(
    f"{time:%Y_%m}"
    for time in (_TODAY, _TODAY + timedelta(days=31), datetime(2030, 1, 1, tzinfo=UTC))
)
_OTHER_MONTHS = """
SELECT inhrelid::regclass::text AS name FROM pg_inherits
WHERE inhparent = 'audit_events'::regclass
  AND inhrelid::regclass::text ~ '_[0-9]{4}_[0-9]{2}$'
  AND NOT right(inhrelid::regclass::text, 7) = ANY ($1)
"""
_Result = TypeVar("_Result")


class PostgresServer:
    """Creates and drops databases on one server.

    The work runs in a separate loop, so that a test's loop is neither needed nor disturbed.
    """

    def __init__(self, dsn: str, template: str | None = None) -> None:
        self._dsn = dsn
        self.prefix = f"test_{uuid.uuid4().hex[:12]}"
        self._count = 0
        self._template = template
        self._made_template = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = self._wait(asyncpg.connect(dsn))

    def dsn(self, database: str) -> str:
        """Return the DSN of a database on this server."""
        return urlsplit(self._dsn)._replace(path=f"/{database}").geturl()

    def create(self, *, migrated: bool = True) -> str:
        """Create a database, with all migrations or empty, and return its name."""
        name = self._new_name()
        template = f" TEMPLATE {self._migrated_template()} STRATEGY FILE_COPY" if migrated else ""
        self._execute(f"CREATE DATABASE {name}{template}")
        return name

    def copy(self, database: str) -> str:
        """Create a copy of a database that nobody is connected to, and return its name."""
        name = self._new_name()
        self._execute(f"CREATE DATABASE {name} TEMPLATE {database} STRATEGY FILE_COPY")
        return name

    def drop(self, database: str) -> None:
        """Drop a database and close all connections to it."""
        try:
            self._execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        except asyncpg.InsufficientPrivilegeError:
            # It is being vacuumed by a process that only a superuser may end. Without FORCE,
            # PostgreSQL ends that process itself, and waits for other connections to close.
            self._execute(f"DROP DATABASE IF EXISTS {database}")

    def close(self) -> None:
        """Drop the template and close the connection."""
        if self._template is not None and self._made_template:
            self.drop(self._template)
        self._wait(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _migrated_template(self) -> str:
        if self._template is None:
            # Imported here so that tests of an empty database run without the migrations.
            from authsvc.store.postgres.migrator import migrate  # noqa: PLC0415

            name = self._new_name()
            self._execute(f"CREATE DATABASE {name}")
            self._wait(migrate(self.dsn(name)))
            self._wait(_forget_months(self.dsn(name)))
            self._template, self._made_template = name, True
        return self._template

    def _new_name(self) -> str:
        self._count += 1
        return f"{self.prefix}_{self._count}"

    def _execute(self, statement: str) -> None:
        self._wait(self._connection.execute(statement))

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)


async def _forget_months(dsn: str) -> None:
    """Drop the months of audit events that no test writes to; the default partition has the rest.

    A month has five files, and copying and removing ten years of them would take as long as all
    else in a database.
    """
    connection = await asyncpg.connect(dsn)
    try:
        names = await connection.fetch(_OTHER_MONTHS, _MONTHS)
        await connection.execute("DROP TABLE " + ", ".join(row["name"] for row in names))
    finally:
        await connection.close()


def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder in memory, where files cost a tenth, or on disk when memory is short.

    What killed workers left there is removed; the caller has to remove the folder, which another
    worker may do first once its server has stopped.
    """
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        return tmp_path_factory.mktemp("postgres")
    for folder in _MEMORY.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(folder)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY))


def _remove_if_abandoned(folder: Path) -> None:
    lock = folder / "postgres" / "supervisor.lock"
    with contextlib.suppress(OSError, AlreadyRunningError):
        # A new folder may belong to a worker that is about to take its lock.
        if lock.stat().st_mtime < time.time() - _YOUNG:
            os.close(lock_supervisor(lock.parent))
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """This worker's server."""
    address = os.environ.get("AUTHSVC_TEST_DATABASE")
    if address:
        server = PostgresServer(address, os.environ.get("AUTHSVC_TEST_TEMPLATE") or None)
        yield server
        server.close()
        return
    folder = state_folder(tmp_path_factory)
    embedded = EmbeddedPostgres(folder, durable=False)
    embedded.start()
    try:
        server = PostgresServer(embedded.dsn())
        yield server
        server.close()
    finally:
        embedded.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of a new database with all migrations, for this test only."""
    name = postgres_server.create()
    yield postgres_server.dsn(name)
    postgres_server.drop(name)


@pytest.fixture
def blank_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of a new database without tables, for this test only."""
    name = postgres_server.create(migrated=False)
    yield postgres_server.dsn(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def worker_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of a database with all migrations, shared by the tests of one worker."""
    name = postgres_server.create()
    yield postgres_server.dsn(name)
    postgres_server.drop(name)
