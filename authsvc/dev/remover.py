"""Owns a script that removes a scratch folder as soon as the process that started it has ended.

`authsvc.dev.scratch` runs it as `remover.py FOLDER`, with a pipe that closes when that process
ends. It runs without installed packages, so that it starts quickly: it imports only Python's own.
"""

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

LOCK = "scratch.lock"
# How long a database server whose parent was killed may take to stop.
_PATIENCE = 30.0
_POLL = 0.02
_LINKED = "authsvc-"


def remove(folder: Path) -> None:
    """Remove the folder and the temporary folders that `authsvc.dev.temp_folders` linked in it."""
    _wait_for_server(folder / "postgres" / "server.lock")
    for link in folder.glob("postgres/*"):
        if link.is_symlink() and (target := link.readlink()).name.startswith(_LINKED):
            shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_for_server(lock: Path) -> None:
    """Wait until no process of the database server holds its lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return
    try:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_POLL)
            else:
                return
    finally:
        os.close(descriptor)


def main() -> None:
    """Wait for the end of the pipe, then remove the folder in the argument."""
    sys.stdin.buffer.read()
    remove(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
