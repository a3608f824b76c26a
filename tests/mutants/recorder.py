"""A pytest plugin that notes which lines each test runs, how long it takes and whether it passes.

Loaded by `tests.mutants.coverage_map` with `-p`; each worker of pytest-xdist writes its own files
into the folder that AUTHSVC_MUTANTS_RECORD names.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

FOLDER = "AUTHSVC_MUTANTS_RECORD"
SOURCE = "AUTHSVC_MUTANTS_SOURCE"


class Recorder:
    """Measures the tests of one process."""

    def __init__(self, folder: Path, source: str, worker: str) -> None:
        self._notes = folder / f"tests.{worker}.json"
        self._coverage = coverage.Coverage(
            data_file=folder / f"lines.{worker}",
            config_file=False,
            source=[source],
            omit=[f"{source}/v1/*"],
        )
        self._tests: dict[str, dict[str, object]] = {}
        self._coverage.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Measure one test, its fixtures included."""
        self._coverage.switch_context(item.nodeid)
        begin = time.monotonic()
        self._tests[item.nodeid] = {"passed": True}
        try:
            return (yield)
        finally:
            self._tests[item.nodeid]["seconds"] = round(time.monotonic() - begin, 3)
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure; what is skipped can't tell anything either."""
        if report.outcome != "passed" and report.nodeid in self._tests:
            self._tests[report.nodeid]["passed"] = False

    def pytest_sessionfinish(self) -> None:
        """Write what was measured, and what was imported for it."""
        self._coverage.stop()
        self._coverage.save()
        notes = {"tests": self._tests, "modules": sorted(sys.modules)}
        self._notes.write_text(json.dumps(notes))


def pytest_configure(config: pytest.Config) -> None:
    """Record, unless this process only hands out tests to others."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker or not config.getoption("numprocesses", None):
        recorder = Recorder(
            Path(os.environ[FOLDER]), os.environ[SOURCE], f"{worker or 'main'}.{os.getpid()}"
        )
        config.pluginmanager.register(recorder, "mutants-recorder")
