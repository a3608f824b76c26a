"""The whole tool on a toy: what is noticed, what survives, what is explained, what is stale."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mutants.cli import all_mutants
from tests.mutants.explained import read_explained, stub
from tests.mutants.mutant import Key
from tests.mutants.project import PROJECT, ROOT

_CODE = """
from contextlib import contextmanager

ADULT = 18


def is_adult(age):
    return age >= ADULT


def absolute(number):
    return -number if number < 0 else number


def drained(items):
    count = 0
    while items:
        items.pop()
        count += 1
    return count


@contextmanager
def doubled(number):
    yield number + number


def unused():
    return 5
"""
_CHECKS = """
import os

from toy.code import absolute, doubled, drained, is_adult


def test_adults():
    assert is_adult(18)
    assert not is_adult(17)


def test_absolute():
    assert (absolute(-1), absolute(1)) == (1, 1)


def test_drained():
    assert drained([1, 2]) == 2


def test_doubled():
    with doubled(2) as number:
        assert number == 4


def test_that_only_passes_while_it_is_measured():
    # Some mutants of it survive, so that this test is tried, however fast the others were.
    assert absolute(5) == 5
    assert "AUTHSVC_MUTANTS_RECORD" in os.environ
"""
# One mutant never ends and costs all of the patience. No other may, even on a busy machine.
_RUN = """
import sys
from pathlib import Path
from tests.mutants.cli import main
from tests.mutants.project import Project
project = Project(Path.cwd(), "toy", ("toy/code.py",), ("checks",), "explained.toml", patience=10)
sys.exit(main(project, sys.argv[1:]))
"""


@dataclass
class Toy:
    """A project in a folder of its own."""

    root: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{self.root}"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "FORCE_COLOR", "TTY_COMPATIBLE"):
            environment.pop(name, None)
        command = [sys.executable, "-c", _RUN, "--jobs", "1", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    def verdicts(self) -> list[str]:
        lines = (self.root / ".mutants" / "verdicts.jsonl").read_text().splitlines()
        return [json.loads(line)["outcome"] for line in lines]


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    root = tmp_path
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (root / "toy").mkdir()
    (root / "toy" / "__init__.py").touch()
    (root / "toy" / "code.py").write_text(_CODE)
    (root / "checks").mkdir()
    (root / "checks" / "test_code.py").write_text(_CHECKS)
    (root / "explained.toml").touch()
    return Toy(root)


_ZERO = Key("toy/code", "absolute", "boundary", "number < 0", "number <= 0")
_ONE = Key("toy/code", "absolute", "constant", "0", "1")
_KILLED = Key("toy/code", "is_adult", "boundary", "age >= ADULT", "age > ADULT")
_GONE = Key("toy/code", "is_adult", "boundary", "age > CHILD", "age >= CHILD")


@pytest.mark.world
def test_unnoticed_mutants_are_listed_as_survivors(toy: Toy) -> None:
    done = toy.run()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "number <= 0" in done.stdout
    assert "no test runs it" in done.stdout
    assert "age > ADULT" not in done.stdout
    assert "not used: checks/test_code.py::test_that_only_passes_while" in done.stdout
    outcomes = toy.verdicts()
    assert outcomes.count("timeout") == 1
    assert outcomes.count("unreached") == 2
    # Zero is zero with any sign.
    assert outcomes.count("survived") == 2

    again = toy.run()
    assert "0 of them to be tried" in again.stdout
    assert again.returncode == 1


@pytest.mark.slow
def test_explained_survivors_pass_and_stale_explanations_are_listed(toy: Toy) -> None:
    reasons = [
        stub(key).replace('reason = ""', "reason = 'nobody can tell'")
        for key in (_ZERO, _ONE, _KILLED, _GONE)
    ]
    (toy.root / "explained.toml").write_text("\n".join(reasons))
    done = toy.run("--only", "absolute", "--only", "is_adult", "--only", "doubled")
    assert done.returncode == 0, done.stdout + done.stderr
    stale = [line for line in done.stdout.splitlines() if line.startswith("stale")]
    assert len(stale) == 2
    assert "age > ADULT" in done.stdout
    assert "CHILD" in done.stdout


@pytest.mark.slow
def test_filters_select_mutants(toy: Toy) -> None:
    listed = toy.run("--list", "--only", "is_adult").stdout
    assert "3 mutants" not in toy.run("--list").stdout
    assert "absolute" not in listed
    name = next(line.split()[0] for line in listed.splitlines() if "boundary" in line)
    toy.run("--only", name)
    shown = toy.run("--show", name).stdout
    assert "- age >= ADULT" in shown
    assert "killed" in shown
    assert toy.run("--list", "--sample", "2").stdout.endswith("2 mutants\n")


def test_explanation_round_trips_and_requires_reason(tmp_path: Path) -> None:
    path = tmp_path / "explained.toml"
    keys = [_ZERO, Key("m", "", "sql", "a\n  'b'", 'c "d" \\ e', 2)]
    path.write_text("\n".join(stub(key).replace('reason = ""', 'reason = "x"') for key in keys))
    assert list(read_explained(path)) == keys
    path.write_text(stub(_ZERO))
    with pytest.raises(ValueError, match="reason"):
        read_explained(path)


def test_project_list_of_sql_and_explanations_fit_the_code() -> None:
    keys = {mutant.key for mutant in all_mutants(PROJECT)}
    assert set(read_explained(PROJECT.root / PROJECT.explained)) <= keys
