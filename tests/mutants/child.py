"""What happens in a forked process: one mutant is made, and tests are run until one fails.

The code that is mutated is not imported before, so it is compiled from the changed source as if
that stood in the file.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NoReturn

import pytest

_PDEATHSIG = 1
# What PostgreSQL answers to a statement that it can't even plan: such a mutant tests nothing.
_NOT_SQL = (
    "PostgresSyntaxError",
    "AmbiguousFunctionError",
    "AmbiguousParameterError",
    "CannotCoerceError",
    "DatatypeMismatchError",
    "IndeterminateDatatypeError",
    "UndefinedColumnError",
    "UndefinedFunctionError",
    "UndefinedTableError",
    "GroupingError",
    "InvalidColumnReferenceError",
    "the server expects",
)


@dataclass(frozen=True)
class Order:
    """What a child is to do; without `module` and `migration` it tries the code as it is."""

    root: Path
    tests: Sequence[str]
    folder: Path
    database: str = ""
    # A database there that has all migrations, to copy.
    template: str = ""
    # Whether the child before was killed and left databases behind.
    dirty: bool = False
    module: str = ""
    migration: str = ""
    migrator: str = ""
    path: str = ""
    source: str = ""


def run(order: Order, descriptor: int) -> NoReturn:
    """Do what is ordered in this process, tell of it through the descriptor, and end."""
    code = 1
    try:
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _redirect(order.folder)
        os.chdir(order.root)
        reporter = _Reporter(descriptor, order.tests)
        try:
            _prepare(order)
            code = pytest.main(_arguments(order), plugins=[reporter])
        except BaseException:
            reporter.say(failed="import", text=traceback.format_exc(limit=-3))
            raise
        reporter.say(ended=int(code))
    except BaseException:  # noqa: BLE001 - this process must end here, whatever happens
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code) & 0xFF)


def _redirect(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _arguments(order: Order) -> list[str]:
    files = list(dict.fromkeys(name.partition("::")[0] for name in order.tests))
    folder = order.folder / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    return [
        *("-x", "-q", "--assert=plain", "--tb=line", "-p", "no:cacheprovider"),
        *("-o", "addopts=--import-mode=importlib", f"--basetemp={folder}", "--no-header"),
        *files,
    ]


def _prepare(order: Order) -> None:
    if order.module:
        assert order.module not in sys.modules
        sys.meta_path.insert(0, _Finder(order))
    if order.database:
        os.environ["AUTHSVC_TEST_DATABASE"] = order.database
        os.environ["AUTHSVC_TEST_TEMPLATE"] = order.template
        if order.dirty:
            asyncio.run(_drop_databases(order.database))
    if order.migration:
        _mutate_migration(order)


async def _drop_databases(address: str) -> None:
    import asyncpg  # noqa: PLC0415 - projects without a database need no driver

    connection = await asyncpg.connect(address)
    try:
        rows = await connection.fetch("SELECT datname FROM pg_database WHERE datname ~ '^test_'")
        for row in rows:
            with contextlib.suppress(asyncpg.PostgresError):
                await connection.execute(f"DROP DATABASE {row['datname']} WITH (FORCE)")
    finally:
        await connection.close()


def _mutate_migration(order: Order) -> None:
    """Let the migrator apply the changed file under the checksum of the real one."""
    migrator = importlib.import_module(order.migrator)
    changed = tuple(
        dataclasses.replace(migration, sql=order.source)
        if f"{migration.version:04}_{migration.name}.sql" == order.migration
        else migration
        for migration in migrator.shipped()
    )
    assert changed != migrator.shipped()
    vars(migrator)["shipped"] = lambda: changed


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that is mutated."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - named as in the interface
        target: ModuleType | None = None,  # noqa: ARG002 - named as in the interface
    ) -> ModuleSpec | None:
        if fullname != self._order.module:
            return None
        file = str(self._order.root / self._order.path)
        loader: Loader = _Loader(fullname, file, self._order.source)
        return importlib.machinery.ModuleSpec(fullname, loader, origin=file)


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from changed source."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - named as in the interface
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Reporter:
    """Chooses the tests of an order, in its order, and tells how they go."""

    def __init__(self, descriptor: int, tests: Sequence[str]) -> None:
        self._descriptor = descriptor
        self._places = {name: place for place, name in enumerate(tests)}

    def say(self, **what: object) -> None:
        """Tell the runner."""
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")

    def pytest_configure(self) -> None:
        """Let a property that fails be enough: its smallest example takes long to find."""
        with contextlib.suppress(ImportError):
            from hypothesis import Phase, settings  # noqa: PLC0415 - a toy may do without

            phases = (Phase.explicit, Phase.generate)
            parent = settings.get_profile("ci")
            settings.register_profile("mutants", parent=parent, phases=phases)
            settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests that are asked for, those first that are named first."""
        chosen = [item for item in items if item.nodeid in self._places]
        items[:] = sorted(chosen, key=lambda item: self._places[item.nodeid])
        self.say(collected=len(items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell of code that can't even be imported."""
        if report.failed:
            self.say(failed="import", text=_reason(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell which test begins, as it might not end."""
        self.say(began=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell of a failure."""
        if report.failed:
            self.say(failed=report.nodeid, text=_reason(report.longreprtext))


def _reason(text: str) -> str:
    """Return the end of a failure's text, and whether the database could not read a statement."""
    found = next((name for name in _NOT_SQL if name in text), "")
    return f"{text[-300:]}{' ' + found if found else ''}"


def is_not_sql(text: str) -> bool:
    """Tell whether a failure came of SQL that means nothing, rather than of a wrong answer."""
    return any(name in text for name in _NOT_SQL)


def read(line: bytes) -> dict[str, Any]:
    """Return what a child said."""
    said: dict[str, Any] = json.loads(line)
    return said
