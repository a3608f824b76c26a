"""Owns bulk access to the rows of users: inserts by an import, reads by an export."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import UserId
from authsvc.models.users import UserOrigin, UserStatus
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user as it is stored; `phc` is None without a password."""

    user_id: UserId
    email: str = field(repr=False)
    email_canonical: str = field(repr=False)
    display_name: str = field(repr=False)
    phc: str | None = field(repr=False)
    pepper_id: str | None
    roles: tuple[str, ...]
    status: UserStatus
    create_time: datetime
    email_verify_time: datetime | None


# Rows are inserted in a fixed order, as two parallel imports could deadlock otherwise. Roles are
# passed as one text, as arrays of arrays would be flattened.
_INSERT_NEW = """
INSERT INTO users (user_id, email, email_canonical, display_name, password_hash, pepper_id,
                   roles, status, origin, create_time, email_verify_time, update_time)
SELECT user_id, email, email_canonical, display_name, password_hash, pepper_id,
    string_to_array(roles, ' '), status, $12, create_time, email_verify_time, $11
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::timestamptz[], $10::timestamptz[])
    AS new (user_id, email, email_canonical, display_name, password_hash, pepper_id, roles, status,
            create_time, email_verify_time)
ORDER BY email_canonical
ON CONFLICT DO NOTHING
RETURNING email_canonical
"""


async def insert_new(connection: Connection, rows: Sequence[UserRow], now: datetime) -> set[str]:
    """Store the users whose address and id are not taken; return their canonical addresses.

    No two of `rows` may have the same address or id.
    """
    inserted = await connection.fetch(
        _INSERT_NEW,
        [row.user_id for row in rows],
        [row.email for row in rows],
        [row.email_canonical for row in rows],
        [row.display_name for row in rows],
        [row.phc for row in rows],
        [row.pepper_id for row in rows],
        [" ".join(row.roles) for row in rows],
        [row.status for row in rows],
        [row.create_time for row in rows],
        [row.email_verify_time for row in rows],
        now,
        UserOrigin.IMPORT,
    )
    return {found["email_canonical"] for found in inserted}


_FIND_ADDRESSES = "SELECT email_canonical FROM users WHERE email_canonical = ANY($1::text[])"


async def find_addresses(connection: Connection, addresses: Sequence[str]) -> set[str]:
    """Return those of the canonical addresses that are taken."""
    rows = await connection.fetch(_FIND_ADDRESSES, addresses)
    return {row["email_canonical"] for row in rows}


_FIND_IDS = "SELECT user_id FROM users WHERE user_id = ANY($1::uuid[])"


async def find_ids(connection: Connection, ids: Sequence[UserId]) -> set[UserId]:
    """Return those of the ids that are taken."""
    rows = await connection.fetch(_FIND_IDS, ids)
    return {UserId(row["user_id"]) for row in rows}


_LIST = """
SELECT user_id, email, email_canonical, display_name, password_hash, pepper_id, roles, status,
    create_time, email_verify_time
FROM users WHERE $1::uuid IS NULL OR user_id > $1
ORDER BY user_id LIMIT $2
"""


async def list_after(
    connection: Connection, user_id: UserId | None, limit: int
) -> Sequence[UserRow]:
    """Return the next users in order of their ids; `after` None starts with the first."""
    return [
        UserRow(
            user_id=UserId(row["user_id"]),
            email=row["email"],
            email_canonical=row["email_canonical"],
            display_name=row["display_name"],
            phc=row["password_hash"],
            pepper_id=row["pepper_id"],
            roles=tuple(row["roles"]),
            status=UserStatus(row["status"]),
            create_time=row["create_time"],
            email_verify_time=row["email_verify_time"],
        )
        for row in await connection.fetch(_LIST, user_id, limit)
    ]
