"""Folders outside the state folder, each remembered by a symbolic link inside it.

The link outlives a killed process, so the next one finds what is left and removes it.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from authsvc.dev.binaries import EmbeddedPostgresError

_PREFIX = "authsvc-"
# Fixed, because $TMPDIR may be long, or closed to the user that the server runs as.
_PLACES = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- mkdtemp makes the folders in them


def make(link: Path, *, executable: bool = False) -> Path:
    """Make an empty private folder with a short path and let `link` point to it."""
    remove(link)
    for place in _PLACES:
        if place.is_dir() and not (executable and os.statvfs(place).f_flag & os.ST_NOEXEC):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            link.symlink_to(folder)
            return folder
    raise EmbeddedPostgresError("there is no folder for temporary files that runs programs")


def remove(link: Path) -> None:
    """Remove `link` and the folder it points to, if that is one made here."""
    if not link.is_symlink():
        return
    folder = link.readlink()
    if folder.parent in _PLACES and folder.name.startswith(_PREFIX) and _is_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)
    link.unlink()


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
