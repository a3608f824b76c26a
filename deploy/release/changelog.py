"""Owns CHANGELOG.md: the versions in it, and how a release renames `## Unreleased`."""

import re
from datetime import date

from deploy.release.errors import ReleaseError
from deploy.release.version import Version

_UNRELEASED = "## Unreleased\n"
_RELEASED = re.compile(r"^## (\d+\.\d+\.\d+)\b", re.MULTILINE)


def released_versions(changelog: str) -> list[Version]:
    """Return the versions that have a section."""
    return [Version.parse(found) for found in _RELEASED.findall(changelog)]


def unreleased(changelog: str) -> str:
    """Return the text of the section `## Unreleased`.

    Raises:
        ReleaseError: There is no such section, or nothing but headings in it.
    """
    _, heading, rest = changelog.partition(_UNRELEASED)
    if not heading:
        raise ReleaseError("CHANGELOG.md has no section `## Unreleased`")
    text = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    if all(line.startswith("#") or not line.strip() for line in text.splitlines()):
        raise ReleaseError("the section `## Unreleased` of CHANGELOG.md is empty")
    return text


def release(changelog: str, version: Version, day: date) -> str:
    """Return the changelog with its unreleased changes under `version`, and an empty section."""
    return changelog.replace(_UNRELEASED, f"{_UNRELEASED}\n## {version} - {day}\n", 1)
