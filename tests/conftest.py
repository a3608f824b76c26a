"""Owns the fixtures that every test may ask for."""

import pytest
from hypothesis import settings

from tests.clock import FakeClock

pytest_plugins = [
    "tests.support.selection",
    "tests.support.timeouts",
    "tests.postgres",
    "tests.databases",
    "tests.ports",
    "tests.sessions",
    "tests.logins",
    "tests.importing",
    "tests.rpc.probe",
    "tests.rpc.service",
    "tests.provider",
    "tests.oauth",
    "tests.factors",
    "tests.security.statements",
    "tests.codes",
]

# The same examples on every run and no deadline; `--hypothesis-profile=default` looks for others.
settings.load_profile("ci")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
