"""Owns the programs that the tests of the world run: Debian's packages, unpacked into .venv/world.

What comes from the registries of other languages is in `tools.py`, and is installed here too.

Nothing is installed into the system, and no privilege is needed: apt runs on folders of its own
with the machine's package sources. A program that is there already is left alone.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.world.crds import CRDS
from tests.world.place import FOLDER, WorldError
from tests.world.tools import TOOLS

_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


@dataclass(frozen=True)
class Program:
    """A program of Debian's: `path` in the first of `packages`; the others are its libraries.

    A program of another `release` than the machine's brings its own C library along.
    """

    name: str
    path: str
    packages: Sequence[str]
    release: str | None = None

    @cached_property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def _note(self) -> Path:
        return self.folder / "installed.txt"

    def is_installed(self) -> bool:
        return self._note.is_file() and self._note.read_text() == self._wanted()

    def mark_installed(self) -> None:
        self._note.write_text(self._wanted())

    def command(self) -> list[str]:
        """Return what starts the program, to be followed by its arguments."""
        if not self.is_installed():
            raise WorldError(f"{self.name} is missing: run `python -m tests.world.install`")
        program = self.folder / self.path
        # Some packages have a folder of their own for libraries.
        folders = ("usr/lib/*-linux-*", "usr/lib/*-linux-*/pulseaudio")
        libraries = ":".join(str(path) for each in folders for path in self.folder.glob(each))
        if self.release is None:
            return ["/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", str(program)]
        [loader] = self.folder.glob("usr/lib/*-linux-*/ld-linux-*.so.*")
        return [str(loader), "--library-path", libraries, str(program)]

    def _wanted(self) -> str:
        return "\n".join((self.release or "", *self.packages))


PGBOUNCER = Program(
    "pgbouncer", "usr/sbin/pgbouncer", ("pgbouncer", "libc-ares2", "libevent-2.1-7")
)
NEW_PGBOUNCER = Program(
    "pgbouncer-trixie",
    "usr/sbin/pgbouncer",
    (
        "pgbouncer",
        "libc6",
        "libaudit1",
        "libcap-ng0",
        "libcap2",
        "libcares2",
        "libevent-2.1-7t64",
        "libgcc-s1",
        "libpam0g",
        "libssl3t64",
        "libsystemd0",
        "libzstd1",
        "zlib1g",
    ),
    release="trixie",
)
# That of the machine's release may be too old for the manifests, and one from elsewhere in the way.
KUBECTL = Program("kubectl", "usr/bin/kubectl", ("kubectl/trixie", "libc6"), release="trixie")
# Debian 12's is of version 3.21.
PROTOC = Program(
    "protoc-debian",
    "usr/bin/protoc",
    ("protobuf-compiler", "libprotobuf-dev", "libprotobuf32", "libprotoc32"),
)
COTURN = Program(
    "coturn",
    "usr/bin/turnserver",
    (
        "coturn",
        "libevent-core-2.1-7",
        "libevent-extra-2.1-7",
        "libevent-openssl-2.1-7",
        "libevent-pthreads-2.1-7",
        "libhiredis0.14",
        "libmariadb3",
        "libpq5",
        "libsqlite3-0",
    ),
)
SOFTHSM = Program("softhsm", "usr/bin/softhsm2-util", ("softhsm2", "libsofthsm2"))
PROMETHEUS = Program("prometheus", "usr/bin/prometheus", ("prometheus",))
# With what machines without a desktop lack.
CHROMIUM = Program(
    "chromium",
    "usr/lib/chromium/chromium",
    (
        "chromium",
        "chromium-common",
        "libasyncns0",
        "libcolord2",
        "libdouble-conversion3",
        "libepoxy0",
        "libflac12",
        "libgtk-3-0",
        "libharfbuzz-subset0",
        "libminizip1",
        "libmp3lame0",
        "libmpg123-0",
        "libogg0",
        "libopenh264-7",
        "libopenjp2-7",
        "libopus0",
        "libpulse0",
        "libsndfile1",
        "libvorbis0a",
        "libvorbisenc2",
        "libwayland-cursor0",
        "libwayland-egl1",
        "libxnvctrl0",
    ),
)
FAKETIME = Program("faketime", "usr/bin/faketime", ("faketime", "libfaketime"))
PROGRAMS = (
    PGBOUNCER,
    NEW_PGBOUNCER,
    KUBECTL,
    PROTOC,
    COTURN,
    SOFTHSM,
    PROMETHEUS,
    FAKETIME,
    CHROMIUM,
)


class _Apt:
    """apt on folders of its own, for one release."""

    def __init__(self, release: str | None) -> None:
        self._home = FOLDER / f"apt-{release or 'own'}"
        for part in ("lists/partial", "archives/partial", "state", "sources"):
            (self._home / part).mkdir(parents=True, exist_ok=True)
        own = _codename()
        _copy_sources(self._home / "sources", own, release or own)
        self._options = [
            f"-oDir::Etc::sourcelist={os.devnull}",
            f"-oDir::Etc::sourceparts={self._home / 'sources'}",
            f"-oDir::State={self._home / 'state'}",
            f"-oDir::State::lists={self._home / 'lists'}",
            f"-oDir::Cache={self._home}",
            "-oAPT::Sandbox::User=root",
        ]

    def download(self, packages: Sequence[str], folder: Path) -> None:
        """Download the packages' files into `folder`."""
        self._run("update", folder)
        self._run("download", folder, *packages)

    def _run(self, command: str, folder: Path, *arguments: str) -> None:
        done = subprocess.run(
            ["apt-get", "-q", *self._options, command, *arguments],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise WorldError(f"`apt-get {command}` failed:\n{done.stderr.strip()}")


def install(program: Program) -> None:
    """Install the program unless it is there; raises WorldError."""
    if program.is_installed():
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise WorldError(f"{program.name} comes from Debian: run these tests on Debian or Ubuntu")
    print(f"Installing {program.name} …", flush=True)
    downloads = program.folder / "downloads"
    shutil.rmtree(program.folder, ignore_errors=True)
    downloads.mkdir(parents=True)
    _Apt(program.release).download(program.packages, downloads)
    for package in downloads.iterdir():
        subprocess.run(["dpkg", "-x", package, program.folder], check=True)
    shutil.rmtree(downloads)
    program.mark_installed()


def _codename() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if found is None:
        raise WorldError("the release of this machine has no name in /etc/os-release")
    return found[1]


def _copy_sources(folder: Path, own: str, release: str) -> None:
    """Copy the machine's sources of packages, with another release's name for its own."""
    single, several = _SOURCES
    for source in (single, *several.glob("*.list"), *several.glob("*.sources")):
        if source.is_file():
            text = re.sub(rf"\b{own}\b", release, source.read_text())
            (folder / source.name).write_text(text)


def main() -> None:
    """Install every program that is missing."""
    try:
        for program in PROGRAMS:
            install(program)
        for tool in TOOLS:
            tool.install()
        for crds in CRDS:
            crds.install()
    except WorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
