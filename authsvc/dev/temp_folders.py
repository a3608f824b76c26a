"""Owns folders outside the state folder, each recorded by a symbolic link inside it.

The link outlives a killed process, so that the next one finds and removes what is left.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from authsvc.dev.binaries import EmbeddedPostgresError

_PREFIX = "authsvc-"
# Fixed, because $TMPDIR may be long, or inaccessible to the server's user.
_PLACES = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- mkdtemp makes the folders in them


def make(link: Path, *, executable: bool = False) -> Path:
    """Create an empty private folder with a short path and make `link` point to it."""
    remove(link)
    for place in _PLACES:
        if place.is_dir() and not (executable and os.statvfs(place).f_flag & os.ST_NOEXEC):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            link.symlink_to(folder)
            return folder
    raise EmbeddedPostgresError("no folder for temporary files allows running programs")


def remove(link: Path) -> None:
    """Remove `link` and the folder it points to, if `make` created it."""
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
