"""Owns the use of refresh tokens: the counter in the session's row determines the current one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from authsvc.models.audit import AuditRow
from authsvc.models.ids import SessionId
from authsvc.store import audit
from authsvc.store.postgres.database import Connection
from authsvc.store.sessions import COLUMNS, StoredSession, stored_session

# Answers that may be lost in a row. Without a limit, a thief who shares a token with its owner
# could present it every few seconds and get each of the owner's pairs (docs/decisions/0015).
MAX_BURNED = 3


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """A refresh token that a client presents, by its session and counter.

    `device_id` is the client's, if it may replace a token that was lost in an answer; else "".
    """

    session_id: SessionId
    counter: int
    device_id: str


@dataclass(frozen=True, slots=True)
class AdvanceTimes:
    """When a session expires if it is not used again, and until when a lost answer was given.

    A session with a shorter idle lifetime of its own expires sooner. A token that was issued after
    `lost_until` may still be repeated, so none is burned for it.
    """

    idle_expire_time: datetime
    lost_until: datetime


# One statement, with the event, because a transaction around two takes four round trips, and this
# is one of the most frequent operations. `counter - burned - 1` is the parent of the current token.
_LOST = """
        CASE WHEN refresh_burned > 0 THEN '{"lost_answer": true}'::jsonb ELSE '{}' END"""
# The user's row is locked while the session advances: while a role is being taken from a user, no
# token with that role may be issued that counts as issued later. It is locked first, as everywhere.
_ADVANCE = f"""
WITH u AS MATERIALIZED (
    SELECT user_id, status, roles, token_revoke_time FROM users
    WHERE user_id = (SELECT user_id FROM sessions WHERE session_id = $1)
    FOR SHARE
), advanced AS (
    UPDATE sessions s
    SET refresh_counter = s.refresh_counter + 1, refresh_burned = s.refresh_counter - $2,
        refresh_time = $3, last_use_time = greatest(s.last_use_time, $3),
        idle_expire_time = least($3 + s.idle_lifetime, $4, s.absolute_expire_time)
    FROM u
    WHERE s.session_id = $1
        AND (s.refresh_counter = $2 OR (s.refresh_counter - s.refresh_burned - 1 = $2
            AND s.refresh_burned < {MAX_BURNED} AND s.refresh_time <= $13
            AND s.device_id = $12 AND $12 <> ''))
        AND s.revoke_time IS NULL AND s.idle_expire_time > $3 AND u.status = 'active'
    RETURNING {COLUMNS}
), recorded AS (
    INSERT INTO {audit.TARGET}
    SELECT $5, $3, $6, $7, $8, user_id, session_id, $9, $10, $11::jsonb || {_LOST} FROM advanced
)
SELECT * FROM advanced
"""  # noqa: S608 - made of constants


async def advance(
    connection: Connection,
    token: PresentedToken,
    times: AdvanceTimes,
    event: AuditRow,
) -> StoredSession | None:
    """Use up a refresh token, extend its active session, record the event.

    It has to be the current token or, from the session's own device, the parent of a token that was
    issued long enough ago and never used: its answer was lost. Then the current token is burned,
    and the next one has the same parent.

    The time is that of the event; the event's user is that of the session. If the token is neither
    or the session is not active, return None and change nothing.
    """
    row = await connection.fetchrow(
        _ADVANCE,
        token.session_id,
        token.counter,
        event.occur_time,
        times.idle_expire_time,
        event.event_id,
        event.type,
        event.call.caller,
        event.call.request_id,
        event.client.ip,
        event.client.user_agent,
        event.detail,
        token.device_id,
        times.lost_until,
    )
    return None if row is None else stored_session(row)


# As above, for many sessions. It never waits for a lock, so that no session holds up the others,
# and so that it can't deadlock, in whatever order it locks.
_ADVANCE_MANY = f"""
WITH asked AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::bigint[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::text[],
        $11::text[], $12::text[]
    ) AS asked (
        session_id, counter, event_id, caller, request_id, client_ip, agent, detail, device_id
    )
), free AS (
    SELECT s.session_id, u.user_id, u.status, u.roles, u.token_revoke_time
    FROM sessions s JOIN users u USING (user_id) WHERE s.session_id = any($1)
    FOR NO KEY UPDATE OF s SKIP LOCKED FOR SHARE OF u SKIP LOCKED
), advanced AS (
    UPDATE sessions s
    SET refresh_counter = s.refresh_counter + 1,
        refresh_burned = s.refresh_counter - asked.counter, refresh_time = $3,
        last_use_time = greatest(s.last_use_time, $3),
        idle_expire_time = least($3 + s.idle_lifetime, $4, s.absolute_expire_time)
    FROM free u, asked
    WHERE s.session_id = u.session_id AND s.session_id = asked.session_id
        AND (s.refresh_counter = asked.counter
            OR (s.refresh_counter - s.refresh_burned - 1 = asked.counter
                AND s.refresh_burned < {MAX_BURNED} AND s.refresh_time <= $13
                AND s.device_id = asked.device_id AND asked.device_id <> ''))
        AND s.revoke_time IS NULL AND s.idle_expire_time > $3 AND u.status = 'active'
    RETURNING {COLUMNS}, asked.event_id, asked.caller, asked.request_id, asked.client_ip,
        asked.agent, asked.detail
), recorded AS (
    INSERT INTO {audit.TARGET}
    SELECT event_id, $3, $5, caller, request_id, user_id, session_id, client_ip::inet, agent,
        detail::jsonb || {_LOST}
    FROM advanced
)
SELECT * FROM advanced
"""  # noqa: S608 - made of constants


async def advance_many(
    connection: Connection,
    tokens: Sequence[PresentedToken],
    times: AdvanceTimes,
    events: Sequence[AuditRow],
) -> Mapping[SessionId, StoredSession]:
    """Do as `advance` for tokens of several sessions with an event each, all of one type and time.

    Sessions that can't be advanced, or that are locked by another transaction, or whose user is,
    are left out.
    """
    rows = await connection.fetch(
        _ADVANCE_MANY,
        [token.session_id for token in tokens],
        [token.counter for token in tokens],
        events[0].occur_time,
        times.idle_expire_time,
        events[0].type,
        [event.event_id for event in events],
        [event.call.caller for event in events],
        [event.call.request_id for event in events],
        [event.client.ip for event in events],
        [event.client.user_agent for event in events],
        [event.detail for event in events],
        [token.device_id for token in tokens],
        times.lost_until,
    )
    return {row["session_id"]: stored_session(row) for row in rows}
