"""Owns the rows of identities: which user of a provider is which user here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from authsvc.models.ids import SessionId, UserId
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's identity at a provider; `email` is the address that the provider named last."""

    provider: str
    subject: str
    email: str = field(repr=False)
    create_time: datetime
    last_use_time: datetime


@dataclass(frozen=True, slots=True)
class Owner:
    """The account that an identity belongs to, or that a session is of."""

    user_id: UserId
    email_canonical: str = field(repr=False)


_FIND_OWNER = """
SELECT users.user_id, users.email_canonical FROM identities JOIN users USING (user_id)
WHERE identities.provider = $1 AND identities.subject = $2
"""


async def find_owner(connection: Connection, provider: str, subject: str) -> Owner | None:
    """Return whose an identity is; never found by address (ASVS 6.8.1)."""
    row = await connection.fetchrow(_FIND_OWNER, provider, subject)
    return None if row is None else Owner(UserId(row["user_id"]), row["email_canonical"])


_FIND_LINKING = """
SELECT users.user_id, users.email_canonical FROM sessions JOIN users USING (user_id)
WHERE sessions.session_id = $1 AND sessions.revoke_time IS NULL
"""


async def find_linking(connection: Connection, session_id: SessionId) -> Owner | None:
    """Return whose a session is; None: it has ended."""
    row = await connection.fetchrow(_FIND_LINKING, session_id)
    return None if row is None else Owner(UserId(row["user_id"]), row["email_canonical"])


_LOCK_HOLDER = """
SELECT email FROM users WHERE user_id = $1 AND status = 'active' FOR NO KEY UPDATE
"""


async def lock_holder(connection: Connection, user_id: UserId) -> str | None:
    """Hold an active user's row until the transaction ends; return the address, None: no such."""
    email: str | None = await connection.fetchval(_LOCK_HOLDER, user_id)
    return email


_USE = """
UPDATE identities SET email = $4, last_use_time = $5
WHERE provider = $1 AND subject = $2 AND user_id = $3
RETURNING true
"""


async def use(connection: Connection, user_id: UserId, identity: Identity) -> bool:
    """Note that this user logged in by an identity; return False if it isn't this user's."""
    return bool(
        await connection.fetchval(
            _USE,
            identity.provider,
            identity.subject,
            user_id,
            identity.email,
            identity.last_use_time,
        )
    )


_INSERT = """
INSERT INTO identities (provider, subject, user_id, email, create_time, last_use_time)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (provider, subject) DO NOTHING
RETURNING true
"""


async def insert(connection: Connection, user_id: UserId, identity: Identity) -> bool:
    """Link an identity to a user; return False if it is linked, to whomever."""
    return bool(
        await connection.fetchval(
            _INSERT,
            identity.provider,
            identity.subject,
            user_id,
            identity.email,
            identity.create_time,
            identity.last_use_time,
        )
    )


_COUNT = "SELECT count(*) FROM identities WHERE user_id = $1"


async def count(connection: Connection, user_id: UserId) -> int:
    """Return how many identities a user has, which stay so many while the user's row is held."""
    return int(await connection.fetchval(_COUNT, user_id))


_LIST = """
SELECT provider, subject, identities.email, identities.create_time, last_use_time
FROM users LEFT JOIN identities USING (user_id)
WHERE users.user_id = $1 AND users.status = 'active'
ORDER BY identities.create_time, provider, subject
"""


async def list_of(connection: Connection, user_id: UserId) -> Sequence[Identity] | None:
    """Return a user's identities, oldest first; None: there is no such active user."""
    rows = await connection.fetch(_LIST, user_id)
    if not rows:
        return None
    return [
        Identity(
            row["provider"], row["subject"], row["email"], row["create_time"], row["last_use_time"]
        )
        for row in rows
        if row["provider"] is not None
    ]


_DELETE = """
DELETE FROM identities WHERE provider = $1 AND subject = $2 AND user_id = $3
RETURNING true
"""


async def delete(connection: Connection, user_id: UserId, provider: str, subject: str) -> bool:
    """Unlink an identity; return False if the user has no such one."""
    return bool(await connection.fetchval(_DELETE, provider, subject, user_id))
