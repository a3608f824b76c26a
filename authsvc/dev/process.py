"""Runs PostgreSQL's programs as a user that may run them, and no longer than this process."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from authsvc.dev import launch
from authsvc.dev.binaries import EmbeddedPostgresError

_STOP_TIMEOUT = 15.0
_QUIT_TIMEOUT = 5.0
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class User:
    """The user of the server when this process is root, as which PostgreSQL refuses to run."""

    uid: int
    gid: int


def server_user(data: Path) -> User | None:
    """Return the owner of `data`, `nobody` if it is new, or None if this process isn't root."""
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise EmbeddedPostgresError("the embedded PostgreSQL can't run as root on this system")
    if data.exists() and data.stat().st_uid != 0:
        return User(data.stat().st_uid, data.stat().st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "PostgreSQL can't run as root, and there is no user `nobody` to run it"
        ) from None
    return User(nobody.pw_uid, nobody.pw_gid)


@contextlib.contextmanager
def visible(user: User | None, *folders: Path) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Yield paths by which `user` can reach `folders`, and the descriptors that they depend on.

    The parent folders may be inaccessible to that user: a path through an inherited descriptor
    bypasses them.
    """
    if user is None:
        yield tuple(str(folder) for folder in folders), ()
        return
    with contextlib.ExitStack() as stack:
        descriptors = []
        for folder in folders:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            descriptors.append(descriptor)
        yield tuple(f"/proc/self/fd/{number}" for number in descriptors), tuple(descriptors)


class Launcher:
    """Starts programs that get SIGINT when this process ends for any reason (Linux only).

    The kernel sends that signal when the *thread* that started the program ends (prctl(2)), so
    one thread that lives as long as the launcher starts them all.
    """

    def __init__(self, user: User | None) -> None:
        self._user = user
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres-launcher")

    def start(
        self,
        command: Sequence[str | Path],
        *,
        keep: Sequence[int],
        output: IO[bytes],
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start `command` with the descriptors `keep` open, and return its process."""
        user = self._user
        uid, gid = (user.uid, user.gid) if user else (-1, -1)
        program = [sys.executable, "-I", "-S", launch.__file__, os.getpid(), uid, gid, *command]
        return self._thread.submit(
            subprocess.Popen,
            [str(word) for word in program],
            pass_fds=tuple(keep),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            # Ctrl+C in a terminal must not reach it: the service needs the database to drain.
            start_new_session=True,
        ).result()

    def close(self) -> None:
        """End the thread, and with it the programs that it started."""
        self._thread.shutdown()


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server: fast shutdown, then immediate shutdown, then SIGKILL."""
    for number, timeout in ((signal.SIGINT, _STOP_TIMEOUT), (signal.SIGQUIT, _QUIT_TIMEOUT)):
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
