"""The statements that a service runs for its callers, to compare the cost of calls."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from authsvc.config import Settings
from authsvc.core.attempts import freezes
from authsvc.core.limits import block_list
from authsvc.rpc.call_context import CALL
from authsvc.store.postgres.connector import Connector
from tests.support.probe import with_changes
from tests.support.service import Service


class Statements:
    """The statements of calls, made one after another; without those in the background."""

    def __init__(self) -> None:
        self._noted: list[str] = []

    def note(self, query: asyncpg.connection.LoggedQuery) -> None:
        # Checks of limits run in a context that belongs to no call; violations are added up in the
        # background.
        is_check = "rate_limit" in query.query and not any(map(_is_of_violations, query.args))
        if CALL.get(None) is not None or is_check:
            self._noted.append(query.query)

    async def take(self, service: Service) -> list[str]:
        """Return what the service ran on its one connection since the last time."""
        # The answer may arrive before the transaction is rolled back.
        async with service.app._parts.database.connection():
            # Loggers are called in the next iteration of the loop.
            await asyncio.sleep(0)
        taken, self._noted = self._noted, []
        return taken


def _is_of_violations(argument: object) -> bool:
    """Return whether a statement with this argument only adds up violations, one or more."""
    return isinstance(argument, list) and set(map(str, argument)) == {"authsvc.violations"}


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Records the statements of every connection opened from now on."""
    heard = Statements()
    connect = Connector.connect

    async def connect_and_listen(connector: Connector) -> Any:
        connection = await connect(connector)
        connection.add_query_logger(heard.note)
        return connection

    monkeypatch.setattr(Connector, "connect", connect_and_listen)
    # On a busy machine, whichever call comes first would read what background jobs were to read.
    monkeypatch.setattr(freezes, "_BOUND", 3_600.0)
    monkeypatch.setattr(block_list, "_STALENESS", timedelta(hours=1))
    return heard


def on_one_connection(settings: Settings) -> Settings:
    """Return settings with a single connection for all calls, which queries types only once."""
    return with_changes(settings, "database", pool_min=1, pool_max=1)
