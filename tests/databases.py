"""The database that a test talks to as the service does."""

from collections.abc import AsyncIterator

import pytest_asyncio
from pydantic import SecretStr

from authsvc.config import DatabaseSettings
from authsvc.store.database import Database


@pytest_asyncio.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    """An open pool on this test's own database, with all migrations applied."""
    opened = await Database.open(DatabaseSettings(url=SecretStr(database_dsn), pool_min=1))
    yield opened
    await opened.close()
