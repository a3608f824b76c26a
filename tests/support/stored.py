"""Rows that tests of the store refer to."""

from datetime import UTC, datetime

from authsvc.core.lib.ids import uuid7
from authsvc.models.ids import UserId
from authsvc.models.users import User, UserOrigin, UserStatus
from authsvc.store import users
from authsvc.store.postgres.database import Connection

NOW = datetime(2030, 1, 1, tzinfo=UTC)


async def add_user(connection: Connection, name: str = "ada", phc: str | None = None) -> UserId:
    """Store an active account with the address `name`@example.test."""
    email = f"{name}@example.test"
    user = User(UserId(uuid7(NOW)), email, "", ("user",), UserStatus.ACTIVE, NOW)
    assert await users.insert(
        connection, user, email_canonical=email, origin=UserOrigin.REGISTER, phc=phc
    )
    return user.user_id


async def updates(connection: Connection) -> int:
    """Return how many rows this connection has updated of late, in this transaction or before."""
    query = "SELECT coalesce(sum(n_tup_upd), 0) FROM pg_stat_xact_user_tables"
    return int(await connection.fetchval(query))
