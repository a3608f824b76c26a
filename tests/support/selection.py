"""Owns the selection of tests for each target: it marks those that need it by their kind.

Tests in `drills/` are marked `drill`, and run by `make drills` alone; tests that need more than
Python, or take long, are marked `world` by hand, and run by `make test-world` alone. The rest is
run by `make test`; `make test-fast` skips those marked `slow`.

A test can be marked `slow` by hand. Four kinds are slow by nature, unless they are marked `fast`:

- attacks and all other tests in one of `FOLDERS`;
- tests that start the whole service;
- all tests of a file that have a database each, but the first `DATABASES_OF_A_FILE`, and of a
  parametrized one all cases but the first;
- all cases but the first of a parametrized test that starts the whole service, even a `fast` one.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

FOLDERS = {"attacks", "polyglot", "security"}
# A test with a database of its own takes a tenth of a second, most others a hundredth.
DATABASES_OF_A_FILE = 2
_DATABASE, _SERVICE = "database_dsn", "start_service"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that are slow by nature, before `-m` selects by marks."""
    seen: set[str] = set()
    databases: Counter[Path] = Counter()
    for item in items:
        if isinstance(item, pytest.Function):
            if "drills" in _folders(item):
                item.add_marker("drill")
            test, _, _ = item.nodeid.partition("[")
            first = test not in seen
            seen.add(test)
            if first and _has_database_alone(item):
                databases[item.path] += 1
                first = databases[item.path] <= DATABASES_OF_A_FILE
            if _is_slow(item, first=first):
                item.add_marker("slow")


def _is_slow(item: pytest.Function, *, first: bool) -> bool:
    fast = item.get_closest_marker("fast") is not None
    if any(item.get_closest_marker(mark) for mark in ("world", "drill")):
        return True
    if _SERVICE in item.fixturenames:
        return not (fast and first)
    if fast:
        return False
    return not FOLDERS.isdisjoint(_folders(item)) or (_DATABASE in item.fixturenames and not first)


def _has_database_alone(item: pytest.Function) -> bool:
    marks = ("world", "drill", "slow", "fast")
    return (
        _DATABASE in item.fixturenames
        and _SERVICE not in item.fixturenames
        and not any(item.get_closest_marker(mark) for mark in marks)
    )


def _folders(item: pytest.Function) -> tuple[str, ...]:
    return item.path.relative_to(item.config.rootpath).parent.parts
