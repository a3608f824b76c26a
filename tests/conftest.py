"""Owns the fixtures that every test may ask for."""

import pytest
from hypothesis import settings

from authsvc.core.audit import schema
from tests.support.clock import FakeClock

# An event with an undeclared detail fails its test.
schema.strict = True

pytest_plugins = [
    "tests.support.selection",
    "tests.support.timeouts",
    "tests.support.workers",
    "tests.support.postgres",
    "tests.support.databases",
    "tests.support.ports",
    "tests.support.sessions",
    "tests.support.logins",
    "tests.support.logs",
    "tests.support.importing",
    "tests.support.probe",
    "tests.support.service",
    "tests.support.clients",
    "tests.support.guarded",
    "tests.support.provider",
    "tests.support.breached",
    "tests.support.oauth",
    "tests.support.factors",
    "tests.support.statements",
    "tests.support.codes",
    "tests.support.processes",
    "tests.support.otlp",
]

# The same examples on every run and no deadline; `--hypothesis-profile=default` looks for others.
settings.load_profile("ci")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
