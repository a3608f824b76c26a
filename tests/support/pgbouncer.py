"""PgBouncer between a test and its PostgreSQL server, in transaction mode as operators run it."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import asyncpg

from authsvc.dev.process import Launcher, User
from tests.world.install import Program

_PORT = 6432
_PATIENCE = 30.0


class PgBouncer:
    """Relays every database of `dsn`'s server; `dsn` is that database's address through it.

    The settings are PgBouncer's own defaults, except for the mode and `changes`; the content of a
    file is given as bytes.
    """

    def __init__(self, program: Program, dsn: str, **changes: object) -> None:
        self._program = program
        self._server = urlsplit(dsn)
        self._changes = changes
        self._process: subprocess.Popen[bytes] | None = None
        # PgBouncer refuses to run as root.
        self._user = None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = User(nobody.pw_uid, nobody.pw_gid)
        self._launcher = Launcher(self._user)
        self._folder = Path(tempfile.mkdtemp(prefix="authsvc-pgbouncer-"))
        login = self._server.netloc.rpartition("@")[0]
        port = changes.get("listen_port", _PORT)
        where = f"host={quote(str(self._folder), safe='/')}&port={port}"
        self.dsn = f"postgresql://{login}@{self._server.path}?{where}"
        self.tcp_dsn = f"postgresql://{login}@localhost:{port}{self._server.path}"

    def start(self) -> None:
        """Start it; connections are refused until it listens."""
        sockets = parse_qs(self._server.query)["host"][0]
        # A path through a descriptor leads past parent folders that its user may not enter.
        held = os.open(sockets, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._write_settings(f"/proc/self/fd/{held}")
            settings = str(self._folder / "settings.ini")
            command = [*self._program.command(), "--quiet", settings]
            with (self._folder / "output.txt").open("ab") as output:
                self._process = self._launcher.start(command, keep=(held,), output=output)
        finally:
            os.close(held)

    def kill(self) -> None:
        """End it at once: every connection breaks."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def reachable(self) -> None:
        """Return once the server can be reached through it."""
        # With TLS, PgBouncer wants it on its Unix socket too, where no client speaks it.
        tls = "client_tls_sslmode" in self._changes
        address = f"{self.tcp_dsn}?sslmode=require" if tls else self.dsn
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    connection = await asyncpg.connect(address, statement_cache_size=0)
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.02)
                else:
                    return await connection.close()

    async def __aenter__(self) -> Self:
        self.start()
        await self.reachable()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._launcher.close()
        shutil.rmtree(self._folder)

    def _write_settings(self, host: str) -> None:
        user, password = (unquote(part) for part in self._server.netloc[:-1].split(":"))
        (self._folder / "users.txt").write_text(f'"{user}" "{password}"\n')
        settings: dict[str, object] = {
            "listen_port": _PORT,
            "unix_socket_dir": self._folder,
            "auth_type": "scram-sha-256",
            "auth_file": self._folder / "users.txt",
            "pool_mode": "transaction",
            "logfile": self._folder / "log.txt",
        }
        settings |= self._changes
        for name, value in settings.items():
            if isinstance(value, bytes):
                settings[name] = self._folder / name
                (self._folder / name).write_bytes(value)
        lines = [f"{name} = {value}" for name, value in settings.items()]
        databases = f"* = host={host} port=5432"
        text = "\n".join(["[databases]", databases, "[pgbouncer]", *lines, ""])
        (self._folder / "settings.ini").write_text(text)
        for path in (self._folder, *self._folder.iterdir()):
            if self._user is not None:
                os.chown(path, self._user.uid, self._user.gid)
