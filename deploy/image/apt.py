"""Owns apt on folders of its own, with the machine's package sources, for one release of Debian.

Nothing is installed, and no privilege is needed. apt verifies the archive's signatures.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


class AptError(Exception):
    """apt is missing or failed; the message says why."""


class Apt:
    """apt in the folder `home`, for `release`, or the machine's own release if that is None."""

    def __init__(self, home: Path, release: str | None) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise AptError("packages come from Debian: run this on Debian or Ubuntu")
        for part in ("lists/partial", "archives/partial", "state", "sources"):
            (home / part).mkdir(parents=True, exist_ok=True)
        own = _codename()
        _copy_sources(home / "sources", own, release or own)
        self._options = [
            f"-oDir::Etc::sourcelist={os.devnull}",
            f"-oDir::Etc::sourceparts={home / 'sources'}",
            f"-oDir::State={home / 'state'}",
            f"-oDir::State::lists={home / 'lists'}",
            # What the machine itself has installed is no candidate.
            f"-oDir::State::status={os.devnull}",
            f"-oDir::Cache={home}",
            "-oAPT::Sandbox::User=root",
        ]

    def update(self) -> None:
        """Fetch the lists of packages."""
        self._run("update")

    def download(self, packages: Sequence[str], folder: Path) -> None:
        """Download packages, each NAME or NAME=VERSION, into `folder`."""
        self._run("download", *packages, folder=folder)

    def _run(self, command: str, *arguments: str, folder: Path | None = None) -> None:
        done = subprocess.run(  # noqa: S603 - Debian's own program
            ["apt-get", "-q", *self._options, command, *arguments],  # noqa: S607 - wherever it is
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AptError(f"`apt-get {command}` failed:\n{done.stderr.strip()}")


def _codename() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if found is None:
        raise AptError("the release of this machine has no name in /etc/os-release")
    return found[1]


def _copy_sources(folder: Path, own: str, release: str) -> None:
    """Copy the machine's sources of packages, with another release's name for its own."""
    single, several = _SOURCES
    for source in (single, *several.glob("*.list"), *several.glob("*.sources")):
        if source.is_file():
            text = re.sub(rf"\b{own}\b", release, source.read_text())
            (folder / source.name).write_text(text)
