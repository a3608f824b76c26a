"""Several databases for one test."""

from collections.abc import Iterator

import pytest

from tests.polyglot.foreign import NewDatabase
from tests.support.postgres import PostgresServer


@pytest.fixture
def new_database(postgres_server: PostgresServer) -> Iterator[NewDatabase]:
    """Creates databases with all migrations, for this test only; returns their DSNs."""
    names: list[str] = []

    def create() -> str:
        names.append(postgres_server.create())
        return postgres_server.dsn(names[-1])

    yield create
    for name in names:
        postgres_server.drop(name)
