"""Owns the installation of the locked dependencies and of this package, for `make run`.

`make` runs this file as a script before anything is installed, so it needs only Python's own
library. pip's words for a missing network are those for a package that doesn't exist; this says
which of the two it is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence

_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--compile")
_OPTIONS = ("--disable-pip-version-check", "--retries=2")
# How pip says that it could not even ask.
_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ReadTimeoutError|ProxyError"
    r"|Failed to establish a new connection|Network is unreachable|Temporary failure in name"
    r"|Connection refused|connection was refused|Could not resolve host"
)
_LAST_LINES = 10


def why_failed(output: str) -> str:
    """Return the reason in pip's output as one line."""
    if _NO_NETWORK.search(output):
        return (
            "the package index can't be reached: is there a network, or a proxy to name in"
            " HTTPS_PROXY? What has been downloaded is kept, so just try again"
        )
    return "pip could not install the dependencies; it says:"


def install(lock: str) -> None:
    """Install what `lock` names, and this package; exit with a line that says why if that fails."""
    _run(("--require-hashes", "-r", lock))
    _run(("--no-deps", "--no-build-isolation", "-e", "."))


def _run(arguments: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603 - pip, with arguments of this file
        [*_PIP, *_OPTIONS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        why = why_failed(done.stdout)
        detail = done.stdout.strip().splitlines()[-_LAST_LINES:] if why.endswith(":") else []
        sys.exit("\n".join([f"error: {why}", *detail]))


if __name__ == "__main__":
    install(sys.argv[1])
