"""Owns the fixtures of the tests with forged access tokens."""

import pytest

from authsvc.core.signing.jwk import ALGORITHMS
from tests.support.forging import World, open_world
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def world(postgres_server: PostgresServer) -> World:
    """A replica that signs with ES256, the default."""
    return open_world(postgres_server, "ES256")


@pytest.fixture(scope="session", params=ALGORITHMS)
def any_world(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> World:
    """A replica for each algorithm."""
    return open_world(postgres_server, request.param)
