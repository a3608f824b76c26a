"""Owns the programs that the tests of the world run: Debian's packages, unpacked into .venv/world.

What comes from the registries of other languages is in `tools.py`, and is installed here too.

Nothing is installed into the system, and no privilege is needed: apt runs on folders of its own
with the machine's package sources. A program that is there already is left alone.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deploy.image.apt import Apt, AptError
from tests.world.crds import CRDS, EXAMPLES
from tests.world.place import FOLDER, WorldError
from tests.world.tools import TOOLS


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
        patterns = ("usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib/*-linux-*/pulseaudio")
        folders = (path for pattern in patterns for path in self.folder.glob(pattern))
        libraries = ":".join(map(str, folders))
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
# What a Kubernetes API server keeps its objects in.
ETCD = Program("etcd", "usr/bin/etcd", ("etcd-server", "libc6"), release="trixie")
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
# Read images by another understanding of the format, and run them as container engines do.
UMOCI = Program("umoci", "usr/bin/umoci", ("umoci",))
BUBBLEWRAP = Program(
    "bubblewrap", "usr/bin/bwrap", ("bubblewrap", "libcap2", "libpcre2-8-0", "libselinux1")
)
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
    *(PGBOUNCER, NEW_PGBOUNCER, KUBECTL, PROTOC, COTURN, SOFTHSM, ETCD, UMOCI, BUBBLEWRAP),
    *(PROMETHEUS, FAKETIME, CHROMIUM),
)


def install(program: Program) -> None:
    """Install the program unless it is there; raises WorldError."""
    if program.is_installed():
        return
    print(f"Installing {program.name} …", flush=True)
    downloads = program.folder / "downloads"
    shutil.rmtree(program.folder, ignore_errors=True)
    downloads.mkdir(parents=True)
    try:
        apt = Apt(FOLDER / f"apt-{program.release or 'own'}", program.release)
        apt.update()
        apt.download(program.packages, downloads)
    except AptError as error:
        raise WorldError(f"{program.name}: {error}") from error
    for package in downloads.iterdir():
        subprocess.run(["dpkg", "-x", package, program.folder], check=True)
    shutil.rmtree(downloads)
    program.mark_installed()


def main() -> None:
    """Install every program that is missing."""
    try:
        for program in PROGRAMS:
            install(program)
        for tool in TOOLS:
            tool.install()
        for crds in (*CRDS, *EXAMPLES):
            crds.install()
    except WorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
