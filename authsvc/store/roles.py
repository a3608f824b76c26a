"""Owns the rows of roles that are defined at run time."""

from datetime import datetime

from authsvc.models.definitions import DefinedIn
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.connector import Connection

_PUT = """
INSERT INTO roles (name, permissions, requires_second_factor, idle_lifetime, absolute_lifetime,
    access_lifetime, update_time)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE SET permissions = excluded.permissions,
    requires_second_factor = excluded.requires_second_factor,
    idle_lifetime = excluded.idle_lifetime, absolute_lifetime = excluded.absolute_lifetime,
    access_lifetime = excluded.access_lifetime, update_time = excluded.update_time
"""


async def put(connection: Connection, role: RoleDefinition, now: datetime) -> None:
    """Insert a role, or replace the one of the same name."""
    await connection.execute(
        _PUT, role.name, role.permissions, role.requires_second_factor, *role.lifetimes, now
    )


_DELETE = "DELETE FROM roles WHERE name = $1"


async def delete(connection: Connection, name: str) -> bool:
    """Delete a role; return whether there was one of this name."""
    return await connection.execute(_DELETE, name) == "DELETE 1"


_READ = """
SELECT name, permissions, requires_second_factor, idle_lifetime, absolute_lifetime, access_lifetime
FROM roles ORDER BY name
"""


async def read(connection: Connection) -> list[RoleDefinition]:
    """Return all roles that are defined at run time, by name."""
    return [
        RoleDefinition(
            name=row["name"],
            permissions=tuple(row["permissions"]),
            requires_second_factor=row["requires_second_factor"],
            lifetimes=Lifetimes(
                row["idle_lifetime"], row["absolute_lifetime"], row["access_lifetime"]
            ),
            defined_in=DefinedIn.RUN_TIME,
        )
        for row in await connection.fetch(_READ)
    ]


_COUNT_USERS = "SELECT count(*) FROM users WHERE roles @> ARRAY[$1::text]"


async def count_users(connection: Connection, name: str) -> int:
    """Return how many users have a role of this name; reads the whole table of users."""
    return int(await connection.fetchval(_COUNT_USERS, name))


# Tokens that were issued before `$2` have expired.
_NARROW = """
INSERT INTO revocations (user_id, revoke_time, cache_only)
SELECT user_id, $3, true FROM users WHERE roles @> ARRAY[$1::text] AND EXISTS (
    SELECT FROM sessions s
    WHERE s.user_id = users.user_id AND s.revoke_time IS NULL AND s.refresh_time > $2)
"""


async def announce_narrowed(
    connection: Connection, name: str, oldest_token: datetime, now: datetime
) -> None:
    """Let every replica drop what it has cached of the role's users who may have a token for it."""
    await connection.execute(_NARROW, name, oldest_token, now)
    ring_after_commit(connection, Channel.REVOCATIONS)
