"""Owns the fixtures of the tests of what the service calls."""

import aiohttp
import pytest

from tests.support.clock import FakeClock
from tests.support.oidc_client import Client
from tests.support.provider import LocalProvider


@pytest.fixture
def client(provider: LocalProvider, http: aiohttp.ClientSession, clock: FakeClock) -> Client:
    """The service's side of OpenID Connect."""
    return Client(provider, http, clock)
