"""Owns the pytest plugin: the fixture of the real service.

pytest loads it in every project where authsvc is installed. So it imports only Python's own library
until its fixture is used, adds no options, and its names begin with `authsvc_`.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from authsvc.testing.service import TestService

_RUNNING: pytest.StashKey["TestService"] = pytest.StashKey()
_INSTALL = "pip install 'authsvc[server,embedded]'"


@pytest.fixture(scope="session")
def authsvc_settings() -> Mapping[str, Any]:
    """Settings of the service, as tables and keys of its settings file; override it to have any."""
    return {}


@pytest.fixture(scope="session")
def authsvc_service(
    authsvc_settings: Mapping[str, Any], pytestconfig: pytest.Config
) -> "Iterator[TestService]":
    """The real service with its own PostgreSQL, one for each session (and each xdist worker).

    After each test, its faults end and its clock returns to the real time.
    """
    with ExitStack() as stack:
        try:
            from authsvc.testing.database import ScratchDatabase  # noqa: PLC0415 - see above

            # Its start takes about as long as the import of the service.
            database = stack.enter_context(ScratchDatabase())
            from authsvc.dev.binaries import BinariesNotFoundError  # noqa: PLC0415 - see above
            from authsvc.testing.service import TestService  # noqa: PLC0415 - see above
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith("authsvc."):
                raise
            pytest.fail(f"authsvc_service needs {error.name}: {_INSTALL}", pytrace=False)
        try:
            service = TestService.start(authsvc_settings, database=database)
        except BinariesNotFoundError as error:
            pytest.fail(f"authsvc_service needs PostgreSQL: {_INSTALL} ({error})", pytrace=False)
        stack.enter_context(service)
        pytestconfig.stash[_RUNNING] = service
        try:
            yield service
        finally:
            del pytestconfig.stash[_RUNNING]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Return the service to the real time and end its faults after each test."""
    outcome = yield
    # Unless it was not used yet, or has just been stopped.
    service = item.config.stash.get(_RUNNING, None)
    if service is not None:
        service.reset()
    return outcome
