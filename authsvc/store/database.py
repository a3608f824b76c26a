"""Owns the connections to PostgreSQL: how they are borrowed, and what their failures mean."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import asyncpg

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


class Database:
    """A pool of connections to PostgreSQL."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, settings: DatabaseSettings) -> "Database":
        """Connect; raises StoreUnavailable when that fails."""
        try:
            pool = await asyncpg.create_pool(
                settings.url.get_secret_value(),
                min_size=settings.pool_min,
                max_size=settings.pool_max,
                timeout=settings.connect_timeout.total_seconds(),
                command_timeout=settings.command_timeout.total_seconds(),
                statement_cache_size=settings.statement_cache_size,
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreUnavailable from error
        return cls(pool)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; each statement is a transaction of its own."""
        try:
            async with self._pool.acquire() as connection:
                yield cast("Connection", connection)
        except (
            OSError,
            asyncpg.PostgresConnectionError,
            asyncpg.OperatorInterventionError,
            asyncpg.ReadOnlySQLTransactionError,
            asyncpg.TransactionRollbackError,
        ) as error:
            raise StoreUnavailable from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection within a transaction: committed at the end, undone by an exception."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def ping(self) -> None:
        """Return if the database answers; raises StoreUnavailable."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1")

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()
