"""Owns the fixtures that every test may ask for."""

import pytest

from tests.clock import FakeClock

pytest_plugins = [
    "tests.postgres",
    "tests.databases",
    "tests.sessions",
    "tests.logins",
    "tests.importing",
    "tests.rpc.probe",
    "tests.rpc.service",
    "tests.provider",
    "tests.oauth",
    "tests.factors",
    "tests.codes",
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
