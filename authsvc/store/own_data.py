"""Owns the reading of all data held about one user: audit events by page, and tables in batches.

Hashes, seeds, keys and sealed content are never read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import asyncpg

from authsvc.models.audit import SecurityEvent
from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Connection

_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=(1 << 128) - 1)


@dataclass(frozen=True, slots=True)
class EventKey:
    """The position of an audit event in the order: by time, then by id."""

    occur_time: datetime
    event_id: UUID


FIRST_EVENT = EventKey(datetime.min.replace(tzinfo=UTC), _FIRST_ID)
LAST_EVENT = EventKey(datetime.max.replace(tzinfo=UTC), _LAST_ID)


# The first condition on the time lets PostgreSQL skip partitions; the second alone does not.
_LIST_EVENTS = """
SELECT event_id, occur_time, type, session_id, host(ip) AS ip, user_agent,
    detail ->> 'impersonator' AS impersonator
FROM audit_events
WHERE user_id = $1 AND occur_time <= $2 AND (occur_time, event_id) < ($2, $3)
ORDER BY occur_time DESC, event_id DESC LIMIT $4
"""


async def list_events(
    connection: Connection, user_id: UserId, before: EventKey, limit: int
) -> list[SecurityEvent]:
    """Return up to `limit` audit events of a user, newest first, older than `before`."""
    rows = await connection.fetch(_LIST_EVENTS, user_id, before.occur_time, before.event_id, limit)
    return [
        SecurityEvent(
            row["event_id"],
            row["occur_time"],
            row["type"],
            row["session_id"],
            row["ip"],
            row["user_agent"],
            row["impersonator"],
        )
        for row in rows
    ]


# By kind of row: the statements for tables in which a user ($1) has only a few rows.
SMALL: Mapping[str, str] = MappingProxyType(
    {
        "user": """
            SELECT user_id, email, email_canonical, display_name, roles, status, origin,
                failed_logins, failed_device_logins, create_time, update_time, last_login_time,
                email_verify_time, token_revoke_time, has_second_factor,
                password_hash IS NOT NULL AS has_password,
                password_change_required
            FROM users WHERE user_id = $1""",
        "device": """
            SELECT last_use_time, trust_expire_time FROM devices
            WHERE user_id = $1 ORDER BY last_use_time""",
        "identity": """
            SELECT provider, subject, email, create_time, last_use_time FROM identities
            WHERE user_id = $1 ORDER BY create_time""",
        "recovery_codes": """
            SELECT count(*) AS count, min(create_time) AS create_time FROM recovery_codes
            WHERE user_id = $1 HAVING count(*) > 0""",
        "oauth_state": """
            SELECT provider, redirect_uri, link_session_id, o.create_time, o.expire_time
            FROM oauth_states o JOIN sessions ON session_id = link_session_id
            WHERE user_id = $1 ORDER BY o.create_time""",
    }
)
# By kind of row: the statements for tables in which a user ($1) may have many rows. They return up
# to $3 rows with ids greater than $2.
LARGE: Mapping[str, str] = MappingProxyType(
    {
        "session": """
            SELECT session_id, create_time, last_use_time, authentication_time, refresh_time,
                idle_expire_time, absolute_expire_time, idle_lifetime, host(ip) AS ip,
                host(other_ip) AS other_ip, user_agent, device_id, authentication_methods,
                refresh_counter, refresh_burned, revoke_time, revoke_reason, end_time, impersonator
            FROM sessions WHERE user_id = $1 AND session_id > $2 ORDER BY session_id LIMIT $3""",
        "session_key": """
            SELECT session_key_id, session_id, purpose, k.kind AS session_key_kind, public_key,
                k.create_time, k.expire_time
            FROM session_keys k JOIN sessions USING (session_id)
            WHERE user_id = $1 AND session_key_id > $2 ORDER BY session_key_id LIMIT $3""",
        "factor": """
            SELECT factor_id, kind AS factor_kind, name, create_time, confirm_time, last_use_time,
                last_step, sign_count, transports, backup_eligible
            FROM factors WHERE user_id = $1 AND factor_id > $2 ORDER BY factor_id LIMIT $3""",
        "one_time_code": """
            SELECT code_id, purpose, email_canonical, attempts, create_time, expire_time, use_time
            FROM one_time_codes WHERE user_id = $1 AND code_id > $2 ORDER BY code_id LIMIT $3""",
        "api_key": """
            SELECT key_id, name, prefix, scopes, policy, create_time, expire_time, last_use_time,
                revoke_time, end_time
            FROM api_keys WHERE user_id = $1 AND key_id > $2 ORDER BY key_id LIMIT $3""",
        "message": """
            SELECT message_id, kind AS message_kind, state, attempts, create_time, next_time,
                expire_time, end_time, last_error
            FROM outbox WHERE user_id = $1 AND message_id > $2 ORDER BY message_id LIMIT $3""",
        "challenge": """
            SELECT challenge_id, kind AS challenge_kind, methods, factor_id, conditional, attempts,
                create_time, expire_time
            FROM challenges
            WHERE user_id = $1 AND challenge_id > $2 ORDER BY challenge_id LIMIT $3""",
    }
)
_EXPORT_EVENTS = """
SELECT event_id, occur_time, type, caller, request_id, session_id, host(ip) AS ip, user_agent,
    detail
FROM audit_events
WHERE user_id = $1 AND occur_time >= $2 AND (occur_time, event_id) > ($2, $3)
ORDER BY occur_time, event_id LIMIT $4
"""

Row = Mapping[str, Any]


async def read_small(connection: Connection, kind: str, user_id: UserId) -> Sequence[Row]:
    """Return a user's rows of a kind of `SMALL`."""
    return _rows(await connection.fetch(SMALL[kind], user_id))


async def read_large(
    connection: Connection, kind: str, user_id: UserId, after: UUID | None, limit: int
) -> Sequence[Row]:
    """Return a user's rows of a kind of `LARGE`, in order of id, the first column."""
    return _rows(await connection.fetch(LARGE[kind], user_id, after or _FIRST_ID, limit))


async def read_events(
    connection: Connection, user_id: UserId, after: EventKey, limit: int
) -> Sequence[Row]:
    """Return up to `limit` audit events of a user, oldest first, newer than `after`."""
    found = await connection.fetch(_EXPORT_EVENTS, user_id, after.occur_time, after.event_id, limit)
    return _rows(found)


def _rows(records: Sequence[asyncpg.Record]) -> list[Row]:
    return [dict(record) for record in records]
