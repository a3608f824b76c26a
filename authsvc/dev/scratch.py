"""Owns the folder of a service that is thrown away, and its removal however this process ends."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from authsvc.dev import remover

_PREFIX = "authsvc-scratch-"
_NEW = ".authsvc-scratch-new-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes the folders in it
# What a service and its database need there, with room for tests.
_ROOM = 1 << 30
_PATIENCE = 60.0


class ScratchFolder:
    """A private folder, in memory if there is room, that is removed when this process ends.

    A small process removes it, even after SIGKILL, once nothing uses the database in it any more.
    What even that one could not remove, as when a whole container is killed, the next scratch
    folder does. Use it as a context manager, or call `close`.
    """

    def __init__(self) -> None:
        has_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
        place = _MEMORY if has_memory else Path(tempfile.gettempdir())
        _remove_abandoned(place)
        folder = Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
        # Until it is locked, it has a name that nobody else looks for.
        self._lock = os.open(folder / remover.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = folder.rename(place / folder.name.replace(_NEW, _PREFIX))
        self._remover = subprocess.Popen(  # noqa: S603 - a script of this package
            [sys.executable, "-I", "-S", remover.__file__, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Signals for the whole group, such as Ctrl+C, are for this process.
            start_new_session=True,
        )

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder; return once it is gone."""
        self._remover.communicate(timeout=_PATIENCE)
        os.close(self._lock)


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / remover.LOCK, os.O_RDWR)
        except OSError:
            # Somebody else's, or being removed.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remover.remove(folder)
        finally:
            os.close(lock)
