"""Owns the sessions, of any user, that meet an operator's criteria: counting, finding, ending."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authsvc.models.calls import Call
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason, SessionSelection
from authsvc.store import audit
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.postgres.database import Connection

# Of sessions s. Expired ones are left out only once their access tokens have expired too.
_SELECTED = """
    s.revoke_time IS NULL AND s.absolute_expire_time > $1
    AND ($2::timestamptz IS NULL OR s.create_time < $2)
    AND ($3::timestamptz IS NULL OR s.create_time >= $3)
    AND ($4::inet IS NULL OR s.ip <<= $4)
    AND ($5 = '' OR $5 = ANY (s.authentication_methods))
    AND ($6::uuid[] IS NULL OR s.user_id = ANY ($6))
    AND (NOT $7::boolean OR s.impersonator IS NOT NULL)
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_TIME_SHIFT = 80
_MAX_ID = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class Found:
    """The selected sessions among the rows that one statement looked at.

    `last` is the last of these rows, None if there are no more.
    """

    session_ids: Sequence[SessionId]
    last: SessionId | None


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session that was ended; `was_active` unless it had been idle for too long."""

    session_id: SessionId
    user_id: UserId
    was_active: bool


_COUNT = f"""
SELECT count(*) FROM sessions s WHERE {_SELECTED} AND s.idle_expire_time > $1
"""  # noqa: S608 - made of constants


async def count_active(connection: Connection, selection: SessionSelection, now: datetime) -> int:
    """Return how many active sessions meet the criteria."""
    return int(await connection.fetchval(_COUNT, *_criteria(selection, now)))


# It looks at no more than $10 rows, however few of them are selected, so that it takes a bounded
# time on a table of any size. Ids ascend with the time of creation.
_FIND = """
WITH page AS (
    SELECT session_id FROM sessions
    WHERE session_id > $8 AND session_id <= $9 {users}
    ORDER BY session_id LIMIT $10
)
SELECT (SELECT session_id FROM page ORDER BY session_id DESC LIMIT 1) AS last,
    ARRAY (SELECT s.session_id FROM sessions s JOIN page USING (session_id)
           WHERE {selected}) AS selected
"""
_FIND_ALL = _FIND.format(users="", selected=_SELECTED)
# By the index on the sessions of users that were not revoked.
_FIND_OF_USERS = _FIND.format(
    users="AND user_id = ANY ($6) AND revoke_time IS NULL", selected=_SELECTED
)


async def find(
    connection: Connection,
    selection: SessionSelection,
    now: datetime,
    after: SessionId | None,
    limit: int,
) -> Found:
    """Return the selected ones of up to `limit` sessions, which follow `after` by their ids."""
    first, last = _bounds(selection)
    row = await connection.fetchrow(
        _FIND_OF_USERS if selection.user_ids else _FIND_ALL,
        *_criteria(selection, now),
        after or first,
        last,
        limit,
    )
    return Found(row["selected"], row["last"]) if row else Found((), None)


# One statement, so that no session ends without a revocation and an event. Events are one for each
# user, as if each user's sessions had been revoked on their own. The array keeps the update from
# reading the whole table for a join.
_END = """
WITH chosen AS (
    SELECT s.session_id FROM sessions s WHERE s.session_id = ANY ($8) AND {selected}
    FOR NO KEY UPDATE OF s {locked}
), ended AS (
    UPDATE sessions s SET revoke_time = $1, revoke_reason = $9
    WHERE s.session_id = ANY (ARRAY (SELECT session_id FROM chosen))
    RETURNING s.session_id, s.user_id, s.idle_expire_time > $1 AS was_active
), announced AS (
    -- A session may have got tokens until now, long after the beginning of the call ($1): watchers
    -- remember its end until they have expired.
    INSERT INTO revocations (session_id, revoke_time)
    SELECT session_id, greatest($1, clock_timestamp()) FROM ended
), owners AS (
    SELECT user_id, jsonb_agg(session_id) AS sessions, row_number() OVER () AS number
    FROM ended GROUP BY user_id
), recorded AS (
    INSERT INTO {audit_events}
    SELECT event_id, $1, $10, $11, $12, user_id, NULL, NULL, '',
        jsonb_build_object('reason', $9::text, 'sessions', sessions)
    FROM owners JOIN unnest($13::uuid[]) WITH ORDINALITY AS events (event_id, number)
        USING (number)
)
SELECT session_id, user_id, was_active FROM ended
"""
_END_UNLOCKED = _END.format(selected=_SELECTED, locked="SKIP LOCKED", audit_events=audit.TARGET)
_END_ONE = _END.format(selected=_SELECTED, locked="", audit_events=audit.TARGET)


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The events of users whose sessions end; `event_ids` are as many as there are sessions."""

    type: str
    call: Call
    event_ids: Sequence[UUID]


async def end_unlocked(
    connection: Connection,
    selection: SessionSelection,
    now: datetime,
    session_ids: Sequence[SessionId],
    event: EndEvent,
) -> Sequence[EndedSession]:
    """End those of the sessions that still meet the criteria and that nobody has locked.

    They are marked, appended to the revocation log, and recorded in an event for each user.
    """
    return await _end(_END_UNLOCKED, connection, selection, now, session_ids, event)


async def end_one(
    connection: Connection,
    selection: SessionSelection,
    now: datetime,
    session_id: SessionId,
    event: EndEvent,
) -> Sequence[EndedSession]:
    """Do as `end_unlocked` for one session, but wait for a lock on it.

    A statement that waits while it has locked others could deadlock.
    """
    return await _end(_END_ONE, connection, selection, now, [session_id], event)


async def _end(
    statement: str,
    connection: Connection,
    selection: SessionSelection,
    now: datetime,
    session_ids: Sequence[SessionId],
    event: EndEvent,
) -> Sequence[EndedSession]:
    rows = await connection.fetch(
        statement,
        *_criteria(selection, now),
        session_ids,
        RevokeReason.REVOKED,
        event.type,
        event.call.caller,
        event.call.request_id,
        event.event_ids,
    )
    if rows:
        # Many such statements make up a call, so what names them all is asked for at its end.
        ring_after_commit(connection, Channel.REVOCATIONS)
    return [EndedSession(row["session_id"], row["user_id"], row["was_active"]) for row in rows]


def _criteria(selection: SessionSelection, now: datetime) -> tuple[object, ...]:
    """Return the arguments 1 to 7."""
    return (
        now,
        selection.created_before,
        selection.created_after,
        selection.network,
        selection.authentication_method,
        list(selection.user_ids) or None,
        selection.impersonated_only,
    )


def _bounds(selection: SessionSelection) -> tuple[UUID, UUID]:
    """Return the ids between which those of the selected sessions are, by their creation."""
    first, last = 0, _MAX_ID
    if selection.created_after is not None:
        first = max(0, (_millisecond(selection.created_after) << _TIME_SHIFT) - 1)
    if selection.created_before is not None:
        last = min(_MAX_ID, (_millisecond(selection.created_before) + 1) << _TIME_SHIFT)
    return UUID(int=first), UUID(int=max(0, last))


def _millisecond(time: datetime) -> int:
    return (time - _EPOCH) // _MILLISECOND
