"""Reads that an answer of "active" rests on: never from a server that was replaced.

Behind a pooler the server can change under an open connection, and nothing tells but the statement.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from authsvc.errors import StoreUnavailable
from authsvc.models.ids import SessionId, UserId
from authsvc.store import (
    api_keys,
    ip_blocks,
    login_freezes,
    revocations,
    session_keys,
    sessions,
    signing_keys,
)
from authsvc.store.postgres.connector import Connection, Server, as_pool_connection, known_timeline
from authsvc.store.postgres.database import Database


async def _revocations(connection: Connection) -> object:
    return (await revocations.read_page(connection, (datetime.now(UTC), 0), 1)).rows


# They find nothing, and have to fail all the same: "unknown" would be an answer, too.
_READS: list[Callable[[Connection], Awaitable[object]]] = [
    lambda connection: sessions.find_by_token(connection, [b"unknown"]),
    lambda connection: sessions.find(connection, [SessionId(UUID(int=1))]),
    lambda connection: api_keys.find(connection, [b"unknown"]),
    signing_keys.list_all,
    lambda connection: session_keys.list_live(
        connection, UserId(UUID(int=1)), datetime.now(UTC), None, 1
    ),
    lambda connection: ip_blocks.end_of(connection, "192.0.2.1", datetime.now(UTC)),
    login_freezes.list_all,
    _revocations,
]
_NAMES = [
    "session by token",
    "session by id",
    "API key",
    "signing keys",
    "session keys",
    "IP blocks",
    "login freezes",
    "revocations",
]


@pytest.mark.parametrize("read", _READS, ids=_NAMES)
async def test_read_fails_on_read_only_server(
    database: Database, read: Callable[[Connection], Awaitable[object]]
) -> None:
    left: list[str] = []
    database.on_leave(lambda: left.append("left"))
    async with database.connection() as connection:
        assert not await read(connection)

    async def read_from_read_only_server() -> None:
        async with database.transaction() as connection:
            # As behind a pooler, the server does not report it.
            await connection.execute("SET LOCAL transaction_read_only = on")
            await read(connection)

    with pytest.raises(StoreUnavailable) as refused:
        await read_from_read_only_server()
    assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
    assert left == ["left"]


@pytest.mark.parametrize("read", _READS, ids=_NAMES)
async def test_read_fails_on_another_timeline(
    database: Database, read: Callable[[Connection], Awaitable[object]]
) -> None:
    async def read_after_promotion() -> None:
        async with database.connection() as connection:
            own = as_pool_connection(connection)
            assert own
            assert own.server
            assert known_timeline(connection) == "00000001"
            own.server = Server(own.server.system, "00000002")
            await read(connection)

    with pytest.raises(StoreUnavailable) as refused:
        await read_after_promotion()
    assert "another timeline" in str(refused.value.__cause__)


async def test_timeline_that_is_not_known_is_not_compared(
    database: Database, database_dsn: str
) -> None:
    connection = await asyncpg.connect(database_dsn)
    assert known_timeline(connection) is None
    for read in _READS:
        assert not await read(connection)
    await connection.close()
