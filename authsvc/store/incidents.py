"""Owns what an incident's operator reads: the events and sessions of a time span, by page."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from authsvc.models.ids import UserId
from authsvc.models.incidents import IncidentEvent, LoginMethod, PasswordSelection
from authsvc.store.postgres.connector import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

# Of each type the newest by its index, and of these the newest.
_LIST_EVENTS = """
SELECT event_id, occur_time, found.type, caller, detail
FROM unnest($1::text[]) AS wanted, LATERAL (
    SELECT event_id, occur_time, type, caller,
        detail || jsonb_strip_nulls(jsonb_build_object('ip', host(ip))) AS detail
    FROM audit_events WHERE type = wanted AND event_id > $2 AND occur_time > $3
    ORDER BY event_id DESC LIMIT $4) AS found
ORDER BY event_id DESC LIMIT $4
"""


async def list_events(
    connection: Connection, types: Sequence[str], since: datetime, limit: int
) -> list[IncidentEvent]:
    """Return the newest `limit` events of these types since then, in ascending order."""
    rows = await connection.fetch(_LIST_EVENTS, types, first_id(since), since, limit)
    return [
        IncidentEvent(
            event_id=row["event_id"],
            occur_time=row["occur_time"],
            type=row["type"],
            caller=row["caller"],
            detail=json.loads(row["detail"]),
        )
        for row in reversed(rows)
    ]


# What shows in the events which logins a freeze would have refused: the type, and for logins the
# method of RFC 8176 that they began with.
_TYPES = {
    LoginMethod.ISSUED: "session.create",
    LoginMethod.REGISTRATION: "user.register",
    LoginMethod.PASSWORD_RESET: "user.password_reset_request",
}
_PROOFS = {
    LoginMethod.PASSWORD: ("pwd",),
    LoginMethod.CODE: ("otp",),
    LoginMethod.PASSKEY: ("hwk", "swk"),
    LoginMethod.FEDERATED: ("fed",),
}
_COUNT_LOGINS = """
SELECT count(*) FROM audit_events
WHERE event_id > $1 AND occur_time > $2 AND ($3::text::cidr IS NULL OR ip <<= $3::text::cidr)
    AND (type = ANY ($4::text[])
         OR (type = 'user.login' AND detail -> 'methods' ->> 0 = ANY ($5::text[])))
    AND type = ANY (ARRAY['user.login', 'session.create', 'user.register',
                          'user.password_reset_request'])
"""


async def count_logins(
    connection: Connection, methods: Sequence[LoginMethod], network: str | None, since: datetime
) -> int:
    """Return how many logins and the like by these methods succeeded from this network."""
    types = [_TYPES[method] for method in methods if method in _TYPES]
    proofs = [proof for method in methods for proof in _PROOFS.get(method, ())]
    return int(
        await connection.fetchval(_COUNT_LOGINS, first_id(since), since, network, types, proofs)
    )


# Who has no password, or has to change it already, is left out.
_SELECTED_USERS = """
SELECT user_id FROM users
WHERE password_hash IS NOT NULL AND NOT password_change_required AND user_id > $1
    AND ($2::uuid[] IS NULL OR user_id = ANY ($2))
    AND (NOT $3 OR user_id IN (
        SELECT user_id FROM audit_events
        WHERE type = 'user.login' AND event_id > $4 AND occur_time >= $5 AND occur_time < $6
            AND ($7::text::cidr IS NULL OR ip <<= $7::text::cidr)))
ORDER BY user_id LIMIT $8
"""
_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


async def list_users_with_password(
    connection: Connection, selection: PasswordSelection, after: UserId | None, limit: int
) -> list[UserId]:
    """Return up to `limit` selected users that follow `after`, by id."""
    since, until = selection.since or _EPOCH, selection.until or _FOREVER
    by_login = any((selection.since, selection.until, selection.network))
    rows = await connection.fetch(
        _SELECTED_USERS,
        after or UUID(int=0),
        list(selection.user_ids) or None,
        by_login,
        first_id(since),
        since,
        until,
        selection.network,
        limit,
    )
    return [UserId(row["user_id"]) for row in rows]


_EVENTS_BETWEEN = """
SELECT event_id, occur_time, type, caller, request_id, user_id, session_id, host(ip) AS ip,
    user_agent, detail
FROM audit_events
WHERE occur_time >= $1 AND occur_time < $2 AND event_id > $3 ORDER BY event_id LIMIT $4
"""


async def list_events_between(
    connection: Connection, since: datetime, until: datetime, after: UUID | None, limit: int
) -> Sequence[asyncpg.Record]:
    """Return up to `limit` audit events of a time span, those that follow `after`, by id."""
    return await connection.fetch(_EVENTS_BETWEEN, since, until, after or first_id(since), limit)


# A session is of the span if it existed in it. Ids ascend with the time of creation.
_SESSIONS_BETWEEN = """
SELECT session_id, user_id, create_time, last_use_time, authentication_time, idle_expire_time,
    absolute_expire_time, host(ip) AS ip, user_agent, device_id, authentication_methods,
    refresh_counter, refresh_time, revoke_time, revoke_reason
FROM sessions
WHERE session_id > $3 AND session_id < $5 AND create_time < $2 AND end_time >= $1
ORDER BY session_id LIMIT $4
"""


async def list_sessions_between(
    connection: Connection, since: datetime, until: datetime, after: UUID | None, limit: int
) -> Sequence[asyncpg.Record]:
    """Return up to `limit` sessions that existed in a time span, those that follow `after`."""
    beyond = first_id(until + _MILLISECOND)
    return await connection.fetch(
        _SESSIONS_BETWEEN, since, until, after or UUID(int=0), limit, beyond
    )


def first_id(time: datetime) -> UUID:
    """Return an id below those that were made from this time on: ids ascend with time."""
    return UUID(int=max(0, (time - _EPOCH) // _MILLISECOND) << 80)
