"""Owns version numbers: their form and order, and the files that name the current one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from deploy.release.errors import ReleaseError

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)
_ANY = r"\d+\.\d+\.\d+"
# Where the current version is; the match of the middle group is replaced.
_PLACES = {
    "authsvc/__init__.py": rf'(?m)(^__version__ = ")({_ANY})(")',
    "deploy/chart/Chart.yaml": rf'(?m)(^(?:version|appVersion): ")({_ANY})(")',
    "deploy/kubernetes/base/kustomization.yaml": rf'(\bnewTag: ")({_ANY})(")',
}
_PAGES = ("README.md", "docs/**/*.md", "deploy/*/README.md", "deploy/examples/compose/*.yaml")
_IMAGE = rf"(\bauthsvc[:-])({_ANY})(\b)"


class Version(NamedTuple):
    """A version of the form MAJOR.MINOR.PATCH (semver.org), without a suffix."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version.

        Raises:
            ReleaseError: It has another form.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ReleaseError(f"{text!r} is not a version: give three numbers, such as 1.2.3")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def is_tag(name: str) -> bool:
    """Return whether a Git tag belongs to a release."""
    return name.startswith("v") and _VERSION.fullmatch(name[1:]) is not None


def named_versions(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file that names the current version, with the version in it.

    Raises:
        ReleaseError: A file that must name it doesn't.
    """
    for path, pattern, required in _places(root):
        found = re.findall(pattern, path.read_text())
        if required and not found:
            raise ReleaseError(f"{path.relative_to(root)} names no version")
        for _, version, _ in found:
            yield path, version


def files(root: Path) -> list[Path]:
    """Return the files that may name the current version."""
    return [path for path, _, _ in _places(root)]


def set_version(root: Path, version: Version) -> None:
    """Write `version` wherever the current one is named."""
    for path, pattern, _ in _places(root):
        path.write_text(re.sub(pattern, rf"\g<1>{version}\g<3>", path.read_text()))


def _places(root: Path) -> Iterator[tuple[Path, str, bool]]:
    for name, pattern in _PLACES.items():
        yield root / name, pattern, True
    for glob in _PAGES:
        for path in sorted(root.glob(glob)):
            yield path, _IMAGE, False
