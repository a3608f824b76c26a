"""The statements that a service runs for its callers, to compare what different calls cost."""

import asyncio
from typing import Any

import asyncpg
import pytest

from authsvc.config import Settings
from authsvc.rpc.call_context import CALL
from authsvc.store.postgres.connector import Connector
from tests.support.probe import with_changes
from tests.support.service import Service


class Statements:
    """What calls run, one call after the other; not what runs in the background."""

    def __init__(self) -> None:
        self._noted: list[str] = []

    def note(self, query: asyncpg.connection.LoggedQuery) -> None:
        # Checks of limits run in a context that is no call's.
        if CALL.get(None) is not None or "rate_limit" in query.query:
            self._noted.append(query.query)

    async def take(self, service: Service) -> list[str]:
        """Return what the service has run on its one connection since the last time."""
        # An answer may come before what was begun is undone.
        async with service.app._core.base.database.connection():
            # Loggers are called in the loop's next round.
            await asyncio.sleep(0)
        taken, self._noted = self._noted, []
        return taken


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Listens to every connection that is opened from now on."""
    heard = Statements()
    connect = Connector.connect

    async def connect_and_listen(connector: Connector) -> Any:
        connection = await connect(connector)
        connection.add_query_logger(heard.note)
        return connection

    monkeypatch.setattr(Connector, "connect", connect_and_listen)
    return heard


def on_one_connection(settings: Settings) -> Settings:
    """Return settings by which all calls share a connection, which asks for types but once."""
    return with_changes(settings, "database", pool_min=1, pool_max=1)
