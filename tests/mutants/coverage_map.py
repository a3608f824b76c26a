"""Owns the knowledge which tests run which lines: measured once, kept while nothing changes."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from coverage import CoverageData

from tests.mutants import recorder
from tests.mutants.mutant import Lines
from tests.mutants.project import Project

# What a test costs beside the time that it was measured to take.
_OVERHEAD = 0.05


@dataclass(frozen=True)
class Test:
    """A test as it was measured; `lines` is how many lines of the package it runs."""

    __test__ = False

    name: str
    seconds: float
    passed: bool
    lines: int
    round: int
    digest: str

    @property
    def file(self) -> str:
        """The file that it stands in."""
        return self.name.partition("::")[0]


class CoverageMap:
    """Which tests run which lines."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._folder = project.state / "coverage"
        self._index = self._folder / "index.json"
        self._sources = ""
        self.tests: dict[str, Test] = {}
        # What the tests import, of other packages too.
        self.modules: set[str] = set()
        self._lines: dict[str, Mapping[int, Sequence[str]]] = {}
        if self._index.exists():
            index = json.loads(self._index.read_text())
            self._sources = index["sources"]
            self.modules = set(index["modules"])
            self.tests = {name: Test(name=name, **test) for name, test in index["tests"].items()}

    def update(self, paths: Sequence[str], jobs: int, *, keep: bool) -> None:
        """Run the tests in `paths` that were not measured yet, or were changed since.

        If the code was changed all are run again, unless `keep` says that its lines stand where
        they stood.
        """
        sources = _digest_of(self._project.root, self._project.package)
        if sources != self._sources and not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
            self.tests = {}
        self._sources = sources
        measured = {test.file: test.digest for test in self.tests.values()}
        files = self._test_files(paths)
        due = [file for file in files if measured.get(file) != self._digest(file)]
        if due:
            self._measure(due, jobs)
        self._save()

    def covering(self, reach: Lines) -> list[Test]:
        """Return the tests that run any of the lines, those first that tell most for their time."""
        hits: Counter[str] = Counter()
        reached: set[str] = set()
        for path, lines in reach.items():
            for line, names in self._contexts(path).items():
                hits.update(names)
                if line in lines:
                    reached.update(names)
        found = [self.tests[name] for name in reached]
        return sorted(
            (test for test in found if test.passed),
            key=lambda test: ((test.seconds + _OVERHEAD) * test.lines / hits[test.name], test.name),
        )

    def digest(self, reach: Lines) -> str:
        """Return a name for which tests run any of the lines."""
        names = "\n".join(sorted(test.name for test in self.covering(reach)))
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def _contexts(self, path: str) -> Mapping[int, Sequence[str]]:
        """Return the names of the tests that run each line of a file, as measured last."""
        if path not in self._lines:
            lines: dict[int, list[str]] = {}
            for number in sorted({test.round for test in self.tests.values()}):
                data = CoverageData(str(self._folder / f"{number}" / "lines"))
                data.read()
                found = data.contexts_by_lineno(str(self._project.root / path))
                for line, names in found.items():
                    lines.setdefault(line, []).extend(
                        name
                        for name in names
                        if name in self.tests and self.tests[name].round == number
                    )
            self._lines[path] = lines
        return self._lines[path]

    def _measure(self, files: Sequence[str], jobs: int) -> None:
        number = max((test.round for test in self.tests.values()), default=0) + 1
        folder = self._folder / f"{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        root = self._project.root
        environment = os.environ | {
            recorder.FOLDER: str(folder),
            recorder.SOURCE: str(root / self._project.package),
            "COVERAGE_CORE": "ctrace",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.recorder", *files]
        if self._project.database:
            command += ["-n", str(jobs)]
        done = subprocess.run(command, cwd=root, env=environment, check=False)
        if done.returncode not in {0, 1}:
            raise RuntimeError("the tests could not be measured")
        notes: dict[str, dict[str, object]] = {}
        data = CoverageData(str(folder / "lines"))
        for part in sorted(folder.glob("tests.*.json")):
            noted = json.loads(part.read_text())
            notes |= noted["tests"]
            self.modules |= set(noted["modules"])
            measured = CoverageData(str(folder / part.stem.replace("tests.", "lines.", 1)))
            measured.read()
            data.update(measured)
        data.write()
        counts: Counter[str] = Counter()
        for file in data.measured_files():
            for names in data.contexts_by_lineno(file).values():
                counts.update(names)
        self.tests = {name: test for name, test in self.tests.items() if test.file not in files}
        for name, note in notes.items():
            file = name.partition("::")[0]
            self.tests[name] = Test(
                name=name,
                seconds=float(str(note["seconds"])),
                passed=bool(note["passed"]),
                lines=counts[name],
                round=number,
                digest=self._digest(file),
            )
        self._lines = {}

    def _save(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        tests = {name: asdict(test) for name, test in self.tests.items()}
        for test in tests.values():
            del test["name"]
        index = {"sources": self._sources, "modules": sorted(self.modules), "tests": tests}
        self._index.write_text(json.dumps(index))

    def _test_files(self, paths: Iterable[str]) -> list[str]:
        files = []
        for path in paths:
            found = self._project.root / path
            files += sorted(found.rglob("test_*.py")) if found.is_dir() else [found]
        return [str(file.relative_to(self._project.root)) for file in files]

    def _digest(self, path: str) -> str:
        return digest_of(self._project.root / path)


@cache
def digest_of(path: Path) -> str:
    """Return a name for what a file holds; "" if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


@cache
def _functions(path: Path) -> Mapping[str, str]:
    """Return the source of each function at the top of a file, with its decorators."""
    text = path.read_text() if path.exists() else ""
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def digest_of_test(root: Path, name: str) -> str:
    """Return a name for the source of a test; "" if there is none."""
    file, _, function = name.partition("[")[0].partition("::")
    text = _functions(root / file).get(function, "")
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def _digest_of(root: Path, package: str) -> str:
    files = sorted(path for path in (root / package).rglob("*.py"))
    names = [f"{path.relative_to(root)} {digest_of(path)}" for path in files]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
