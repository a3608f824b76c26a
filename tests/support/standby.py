"""A primary and its standby, behind an address that names both, for tests of a switchover."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from authsvc.dev.binaries import find_binaries
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.store.postgres.migrator import migrate
from tests.support.proxy import Proxy

_SUPERUSER = "postgres"


class Pair:
    """Two servers: `url` names both, the primary first."""

    def __init__(self, primary: EmbeddedPostgres, standby: EmbeddedPostgres, url: str) -> None:
        self._primary = primary
        self._standby = standby
        self.url = url
        self.standby_dsn = standby.dsn()

    async def demote(self, *, read_only: bool = True) -> None:
        """Make the primary read-only while it stays up, as in a switchover (or writable again)."""
        connection = await asyncpg.connect(_superuser(self._primary))
        value = "on" if read_only else "off"
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    async def promote(self) -> None:
        """Make the standby a primary, and return when it is one."""
        connection = await asyncpg.connect(_superuser(self._standby))
        assert await connection.fetchval("SELECT pg_promote()")
        await connection.close()


@asynccontextmanager
async def primary_and_standby(folder: Path) -> AsyncIterator[Pair]:
    """Start a primary with all migrations and a standby that follows it."""
    primary, standby = (EmbeddedPostgres(folder / name) for name in ("primary", "standby"))
    try:
        await asyncio.to_thread(primary.start)
        await migrate(primary.dsn())
        # The standby's user may not reach the primary's socket.
        async with Proxy(primary.dsn()) as before_primary:
            await asyncio.to_thread(_copy, primary, folder / "standby", before_primary.dsn)
            await asyncio.to_thread(standby.start)
            async with Proxy(standby.dsn()) as before_standby:
                url = urlsplit(before_primary.dsn)
                both = f"{url.netloc},{urlsplit(before_standby.dsn).netloc.rpartition('@')[2]}"
                yield Pair(primary, standby, url._replace(netloc=both).geturl())
    finally:
        await asyncio.to_thread(standby.stop)
        await asyncio.to_thread(primary.stop)


def _superuser(server: EmbeddedPostgres) -> str:
    return server.dsn("postgres", user=_SUPERUSER)


def _copy(primary: EmbeddedPostgres, state: Path, dsn: str) -> None:
    """Copy a running primary into the state folder of a standby that reaches it at `dsn`."""
    home, address = state / "postgres", urlsplit(dsn)
    home.mkdir(parents=True, mode=0o700)
    command: list[str | Path] = [find_binaries() / "pg_basebackup", "-D", home / "data"]
    command += ["-h", "127.0.0.1", "-p", str(address.port), "-U", _SUPERUSER]
    command += ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    environment = {**os.environ, "PGPASSWORD": address.password or ""}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    owner = (primary._data.stat().st_uid, primary._data.stat().st_gid)
    for path in (home / "data", *(home / "data").rglob("*")):
        os.chown(path, *owner, follow_symlinks=False)
    shutil.copyfile(primary._home / "password", home / "password")
