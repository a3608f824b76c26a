"""Owns the embedded PostgreSQL server of a development machine: starts, watches and stops it."""

import asyncio
import math
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

import structlog

from authsvc.dev import temp_folders
from authsvc.dev.binaries import (
    BinariesNotFoundError,
    EmbeddedPostgresError,
    copy_binaries,
    find_binaries,
    is_reachable,
)
from authsvc.dev.cluster import DATABASE, ROLE, StartFailedError, last_error, make_cluster
from authsvc.dev.locks import AlreadyRunningError, lock_supervisor, server_lock
from authsvc.dev.process import Launcher, User, end, server_user, visible

__all__ = [
    "AlreadyRunningError",
    "BinariesNotFoundError",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "StartFailedError",
    "find_binaries",
]

log = structlog.get_logger(__name__)

_PORT = 5432
# sun_path holds 104 bytes on macOS and 108 on Linux, with the terminating zero.
_SOCKET_PATH_LIMIT = 103
_START_TIMEOUT = 60.0
_POLL = 0.01
_WATCH_INTERVAL = 0.05
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 5.0
_STEADY = 10.0
_LOG_LIMIT = 5 * 1024 * 1024

_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "cluster_name": "authsvc",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # In the data folder: /dev/shm is small in containers, and keeps what a killed server leaves
    # there.
    "dynamic_shared_memory_type": "mmap",
}
_NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
}


class EmbeddedPostgres:
    """A private PostgreSQL server of this process, in `state_dir`/postgres, on a Unix socket only.

    The server ends when this process ends for any reason (on Linux; elsewhere the next start stops
    it). With `durable=False`, which is for tests, a crash of the machine may lose all data. If this
    process runs as root, the server runs as the owner of its data, and as `nobody` for new data.

    `start` and `stop` block for up to about 90 and 20 seconds; any thread may call them.
    """

    def __init__(self, state_dir: Path, *, durable: bool = True) -> None:
        self._home = state_dir.absolute() / "postgres"
        self._data = self._home / "data"
        self._run = self._home / "run"
        self._log = self._home / "server.log"
        self._durable = durable
        self._mutex = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._launcher: Launcher | None = None
        self._lock: int | None = None
        self._user: User | None = None
        self._binaries = Path()

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def is_running(self) -> bool:
        """Return whether the server's process is running."""
        return self.pid is not None

    def dsn(self, database: str = DATABASE, *, user: str = ROLE) -> str:
        """Return the postgresql:// URL of `database`, including the password.

        The role `authsvc` owns the database `authsvc` and may create others; `postgres` is the
        superuser. Raises EmbeddedPostgresError before the first start.
        """
        try:
            password = (self._home / "password").read_text()
        except OSError as error:
            raise EmbeddedPostgresError(f"cannot read the password: {error}") from error
        where = urlencode({"host": str(self._sockets()), "port": _PORT}, safe="/", quote_via=quote)
        return f"postgresql://{quote(user)}:{quote(password)}@/{quote(database)}?{where}"

    def start(self) -> None:
        """Start the server, creating its data if there is none; return when it accepts connections.

        Raises AlreadyRunningError, BinariesNotFoundError, StartFailedError.
        """
        with self._mutex:
            if self.is_running():
                return
            try:
                if self._lock is None:
                    self._prepare()
                self._launch()
            except OSError as error:
                self.stop()
                raise StartFailedError(f"PostgreSQL could not be started: {error}") from error
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stop the server: connections are closed, transactions in progress rolled back."""
        with self._mutex:
            if self._process is not None:
                end(self._process)
                self._process = None
            if self._launcher is not None:
                self._launcher.close()
                self._launcher = None
            if self._lock is not None:
                temp_folders.remove(self._home / "binaries")
                temp_folders.remove(self._run)
                os.close(self._lock)
                self._lock = None

    async def supervise(self) -> None:
        """Restart the server whenever it dies, until cancelled; then leave it running.

        A server that was stopped with `stop`, or not started yet, is left alone. The first restart
        is immediate; if it fails or the server does not stay up for 10 seconds, the next one
        follows after 0.1 seconds, then 0.2, up to 5.
        """
        backoff, last_start = 0.0, -math.inf
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            if self._process is None or self.is_running():
                continue
            if time.monotonic() - last_start > _STEADY:
                backoff = 0.0
            await asyncio.sleep(backoff)
            backoff = min(max(2 * backoff, _FIRST_BACKOFF), _LONGEST_BACKOFF)
            try:
                await asyncio.to_thread(self._restart)
                log.warning("postgres_restarted", pid=self.pid)
            except (EmbeddedPostgresError, OSError) as error:
                log.warning("postgres_restart_failed", cause=str(error))
            last_start = time.monotonic()

    def _restart(self) -> None:
        with self._mutex:
            if self._process is not None and not self.is_running():
                self._launch()

    def _prepare(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock_supervisor(self._home)
        self._user = server_user(self._data)
        self._launcher = Launcher(self._user)
        self._binaries = find_binaries()
        if self._user is not None and not is_reachable(self._binaries, self._user.uid):
            folder = temp_folders.make(self._home / "binaries", executable=True)
            self._binaries = copy_binaries(self._binaries, folder)
        self._make_socket_folder()

    def _sockets(self) -> Path:
        return self._run.readlink() if self._run.is_symlink() else self._run

    def _make_socket_folder(self) -> None:
        temp_folders.remove(self._run)
        shutil.rmtree(self._run, ignore_errors=True)
        path = str(self._run)
        # In a URL, a comma would separate hosts.
        if len(os.fsencode(f"{path}/.s.PGSQL.{_PORT}")) > _SOCKET_PATH_LIMIT or "," in path:
            temp_folders.make(self._run)
        else:
            self._run.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(self._run, self._user.uid, self._user.gid)

    def _launch(self) -> None:
        if self._launcher is None:
            raise StartFailedError("PostgreSQL was stopped while it started")
        with server_lock(self._home) as lock:
            make_cluster(
                self._home,
                self._binaries,
                self._launcher,
                self._user,
                lock=lock,
                durable=self._durable,
            )
            # The server that wrote these has ended, and its process id may have been reused.
            for stale in (self._data / "postmaster.pid", *self._run.iterdir()):
                stale.unlink(missing_ok=True)
            folders = self._data, self._sockets()
            with self._open_log() as log, visible(self._user, *folders) as seen:
                (data, sockets), descriptors = seen
                quoted = sockets.replace('"', '""')
                settings = {**_SETTINGS, "unix_socket_directories": f'"{quoted}"'}
                settings |= {} if self._durable else _NOT_DURABLE
                options = [f"--{name}={value}" for name, value in settings.items()]
                command: list[str | Path] = [self._binaries / "postgres", "-D", data, *options]
                start_of_log = log.tell()
                self._process = self._launcher.start(command, keep=(lock, *descriptors), output=log)
        try:
            self._wait_until_ready(self._process, start_of_log)
        except BaseException:
            end(self._process)
            raise

    def _open_log(self) -> IO[bytes]:
        self._log.touch(mode=0o600)
        if self._log.stat().st_size > _LOG_LIMIT:
            os.truncate(self._log, 0)
        return self._log.open("ab")

    def _wait_until_ready(self, process: subprocess.Popen[bytes], start_of_log: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if _is_ready(self._data, process.pid):
                return
            if process.poll() is not None:
                output = self._log.read_bytes()[start_of_log:]
                reason = last_error(output) or f"it exited with status {process.returncode}"
                raise StartFailedError(f"PostgreSQL did not start: {reason} (see {self._log})")
            time.sleep(_POLL)
        raise StartFailedError(f"PostgreSQL was not ready in time (see {self._log})")


def _is_ready(data: Path, pid: int) -> bool:
    # The first line is the process id, the eighth the status (PostgreSQL's pidfile.h); a standby is
    # as ready as it gets until it is promoted.
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in {"ready", "standby"}
