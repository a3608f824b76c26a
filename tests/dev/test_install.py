"""The installation for `make run`: a missing network is not a missing package."""

import subprocess
import sys
from pathlib import Path

import pytest

from authsvc.dev import install

_HASH = "0" * 64


@pytest.mark.slow
def test_missing_network_is_called_so(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"no-such-package-for-this==1.0 --hash=sha256:{_HASH}\n")
    done = subprocess.run(
        [sys.executable, "-I", "-S", install.__file__, str(lock)],
        capture_output=True,
        text=True,
        check=False,
        env={"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": "/dev/null"},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the package index can't be reached: is there a network")
    assert "no-such-package" not in line


@pytest.mark.slow
def test_missing_package_is_called_so(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"no-such-package-for-this==1.0 --hash=sha256:{_HASH}\n")
    done = subprocess.run(
        [sys.executable, "-I", "-S", install.__file__, str(lock)],
        capture_output=True,
        text=True,
        check=False,
        env={"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: pip could not install the dependencies; it says:")
    assert "no-such-package" in done.stderr
