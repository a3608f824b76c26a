"""Owns released versions of the service to run beside this one: their code, from Git's history."""

import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.world.place import FOLDER, WorldError

_ROOT = Path(__file__).parents[2]
_LOCK = "deploy/requirements.lock"
_PARTS = ("authsvc", _LOCK)
_PINNED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class ReleasedVersion:
    """The code of a release, and the Python that has what it depends on."""

    version: str
    tree: Path
    python: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes Python take this code, in whatever folder it is started."""
        return {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1"}

    def run(self, *arguments: str, **environment: str) -> str:
        """Run its Python with these arguments; return what it prints."""
        clean = {name: value for name, value in os.environ.items() if "AUTHSVC" not in name}
        done = subprocess.run(
            [self.python, *arguments],
            env=clean | self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def released(version: str) -> ReleasedVersion:
    """Return a released version, unpacked into .venv/world.

    Without the history that contains it, as in a shallow clone or outside of a repository, the test
    is skipped. Raises WorldError if the whole history doesn't contain it.
    """
    commit = _commit_of(version)
    tree = FOLDER / f"authsvc-{version}" / commit[:12]
    if not tree.exists():
        _unpack(commit, tree)
    python = _python_for(tree)
    found = ReleasedVersion(version, tree, python)
    origin = found.run("-c", "import authsvc; print(authsvc.__file__)").strip()
    assert Path(origin).is_relative_to(tree), f"{origin} is not the code of {version}"
    return found


def _commit_of(version: str) -> str:
    if _git("rev-parse", "--show-toplevel") != str(_ROOT):
        pytest.skip("this is no clone of the repository, so it has no released version")
    subject = f"Release {re.escape(version)}"
    commit = _git("log", "--format=%H", "-1", f"--grep=^{subject}$")
    if commit:
        return commit
    if _git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip(f"this shallow clone lacks release {version}: run `git fetch --unshallow`")
    raise WorldError(f"the history has no commit `Release {version}`")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _unpack(commit: str, tree: Path) -> None:
    unfinished = tree.with_suffix(f".{os.getpid()}")
    unfinished.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", commit, *_PARTS], cwd=_ROOT, stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x", "-C", unfinished], input=archive.stdout, check=True)
    unfinished.rename(tree)


def _python_for(tree: Path) -> str:
    """Return the Python of the tests if it has the same dependencies, or else one of its own."""
    needed = dict(_PINNED.findall((tree / _LOCK).read_text()))
    present = dict(_PINNED.findall((_ROOT / _LOCK).read_text()))
    if needed.items() <= present.items():
        return sys.executable
    home = tree.with_suffix(".env")
    python = home / "bin" / "python"
    ready = home / "installed.txt"
    if not ready.exists():
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", _LOCK]
        subprocess.run(command, cwd=tree, check=True)
        ready.touch()
    return str(python)
