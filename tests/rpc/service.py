"""The whole application, serving in the test's own process over real mutual TLS."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio
from pydantic import SecretStr

from authsvc.app import Application
from authsvc.config import Settings
from tests.rpc.certificates import Authority
from tests.rpc.probe import Clients, with_changes


@dataclass(frozen=True)
class Service:
    """The whole application, and clients to call it with."""

    app: Application
    clients: Clients


@pytest_asyncio.fixture
async def service(
    settings: Settings, database_dsn: str, authority: Authority
) -> AsyncIterator[Service]:
    """The whole application, serving, on a database of its own."""
    app = await Application.start(with_changes(settings, "database", url=SecretStr(database_dsn)))
    clients = Clients(app.grpc_port, authority)
    yield Service(app, clients)
    await clients.close()
    await app.stop()
