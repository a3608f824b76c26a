"""Owns the locks of a state folder: one service, one supervisor of PostgreSQL, and one server."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from authsvc.dev.binaries import EmbeddedPostgresError
from authsvc.dev.cluster import StartFailedError

_TIMEOUT = 5.0
_POLL = 0.01


class AlreadyRunningError(EmbeddedPostgresError):
    """Another process runs the service, or PostgreSQL, in the same folder."""


@contextlib.contextmanager
def service_lock(folder: Path) -> Iterator[None]:
    """Keep other services out of a state folder, which is created if there is none.

    Raises AlreadyRunningError if there is another one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = _lock(folder / "service.lock", f"the service in {folder}")
    try:
        yield
    finally:
        os.close(descriptor)


def lock_supervisor(home: Path) -> int:
    """Return a descriptor that keeps other supervisors out of `home` until it is closed.

    Raises AlreadyRunningError if there is another one.
    """
    return _lock(home / "supervisor.lock", f"PostgreSQL in {home}")


def _lock(file: Path, what: str) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    if locked_within(descriptor, 0):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        return descriptor
    owner = os.read(descriptor, 20).decode()
    os.close(descriptor)
    raise AlreadyRunningError(f"{what} is already run by process {owner}")


@contextlib.contextmanager
def server_lock(home: Path) -> Iterator[int]:
    """Yield a locked descriptor for the next server to inherit.

    The server and its children hold the lock as long as any of them runs, so holding it proves that
    nobody writes to the data, neither a previous server nor its remaining children. A previous
    server that does not end by itself is sent signals.
    """
    descriptor = os.open(home / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for number in (None, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if number is not None:
                _signal_leftover(home / "data", number)
            if locked_within(descriptor, _TIMEOUT):
                break
        else:
            raise StartFailedError(f"a previous PostgreSQL in {home} does not stop")
        yield descriptor
    finally:
        os.close(descriptor)


def locked_within(descriptor: int, seconds: float) -> bool:
    """Lock the file of `descriptor`, waiting up to `seconds`; return whether it worked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True


def _signal_leftover(data: Path, number: signal.Signals) -> None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((data / "postmaster.pid").read_text().split()[0])
        # The process id may have been reused; a server's working directory is its data folder.
        if not Path("/proc/self/cwd").exists() or Path(f"/proc/{pid}/cwd").samefile(data):
            os.kill(pid, number)
