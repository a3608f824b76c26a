"""Owns the selection of `make test-fast`: it marks the tests to skip as `slow`.

A test can be marked `slow` by hand. Four kinds are slow by nature, unless they are marked `fast`:

- attacks, drills and all other tests in one of `FOLDERS`;
- tests that start the whole service;
- all cases but the first of a parametrized test that has a database of its own;
- all cases but the first of a parametrized test that starts the whole service, even a `fast` one.
"""

from collections.abc import Iterable

import pytest

FOLDERS = {"attacks", "drills", "polyglot", "security"}
_DATABASE, _SERVICE = "database_dsn", "start_service"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that are slow by nature, before `-m` selects by marks."""
    seen: set[str] = set()
    for item in items:
        if isinstance(item, pytest.Function):
            test, _, _ = item.nodeid.partition("[")
            if _is_slow(item, first=test not in seen):
                item.add_marker("slow")
            seen.add(test)


def _is_slow(item: pytest.Function, *, first: bool) -> bool:
    fast = item.get_closest_marker("fast") is not None
    if _SERVICE in item.fixturenames:
        return not (fast and first)
    if fast:
        return False
    folders = item.path.relative_to(item.config.rootpath).parent.parts
    return not FOLDERS.isdisjoint(folders) or (_DATABASE in item.fixturenames and not first)
