"""Owns releases.toml, which says the last migration of each release: an upgrade goes by it."""

import tomllib
from pathlib import Path

from deploy.release.errors import ReleaseError
from deploy.release.version import Version

MIGRATIONS = "authsvc/store/migrations"
FILE = f"{MIGRATIONS}/releases.toml"


def check(root: Path, version: Version) -> None:
    """Check that the schema tells a version from the one before.

    Raises:
        ReleaseError: A version that isn't a patch has no migration of its own.
    """
    last = max(tomllib.loads((root / FILE).read_text()).values(), default=0)
    if version.patch == 0 and _count(root) <= last:
        raise ReleaseError(
            f"{version} has no migration of its own, by which upgrades tell it from the version "
            f"before: add {MIGRATIONS}/{last + 1:04}_version_{version.major}_{version.minor}.sql, "
            "with a comment in it"
        )


def add(root: Path, version: Version) -> None:
    """Write down the last migration of a version."""
    with (root / FILE).open("a") as stream:
        stream.write(f'"{version}" = {_count(root)}\n')


def _count(root: Path) -> int:
    return len(list((root / MIGRATIONS).glob("*.sql")))
