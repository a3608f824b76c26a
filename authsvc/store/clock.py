"""Owns the reading of the database's clock."""

from datetime import datetime

from authsvc.store.postgres.connector import Connection

_NOW = "SELECT clock_timestamp()"


async def now(connection: Connection) -> datetime:
    """Return the database's present time, even within a transaction."""
    time: datetime = await connection.fetchval(_NOW)
    return time
