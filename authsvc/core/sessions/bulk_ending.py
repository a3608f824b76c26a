"""Owns the ending of many users' sessions at once, by an operator's criteria.

A thousand sessions end in one statement, which marks them, appends them to the revocation log and
records the events. One statement for all would hold its locks for seconds, while logins and
refreshes of the same users wait and time out; a thousand take some tens of milliseconds. What
somebody else has locked is left out at first, and waited for afterwards, one session at a time: so
nothing here can deadlock.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from authsvc.core.audit.recording import AuditEvent, AuditType, log_event, record_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.slices import Slices
from authsvc.core.sessions.cache import SessionCache
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.revocations import EndedSessions
from authsvc.models.sessions import RevokeReason, SessionSelection
from authsvc.store import revocations
from authsvc.store import session_selection as store
from authsvc.store.postgres.database import Database
from authsvc.store.session_selection import EndedSession, EndEvent

# Rows that one statement looks at, and sessions that one statement ends.
_FIND = 10_000
_END = 1_000


def _ignore(_count: int) -> None:
    """Ignore the progress."""


class BulkSessionEnding:
    """Counts and ends the sessions of all users that meet an operator's criteria."""

    def __init__(
        self, *, database: Database, cache: SessionCache, slices: Slices, clock: Clock
    ) -> None:
        self._database = database
        self._cache = cache
        self._slices = slices
        self._clock = clock

    async def count(self, selection: SessionSelection) -> int:
        """Return how many active sessions `end` would end now."""
        async with self._database.connection() as connection:
            return await store.count_active(connection, selection, self._clock.now())

    async def end(
        self,
        call: Call,
        selection: SessionSelection,
        on_progress: Callable[[int], object] = _ignore,
    ) -> EndedSessions:
        """End the sessions that meet the criteria; return how many of them were active.

        Sessions opened before the call are ended, and those opened during it may be. Idle ones
        are ended too, as their access tokens may still be valid. After a failure, what was ended
        stays ended, and another call ends the rest. `on_progress` is called with the count so far.
        The cursor names all that had ended when the call did.

        Raises:
            StoreUnavailable: The database did not answer, or somebody held a lock for too long.
        """
        now = self._clock.now()
        await self._record(call, now, {"stage": "begin", **_described(selection)})
        count, locked = 0, list[SessionId]()
        async for found in self._find(selection, now):
            ended = await self._end(call, selection, now, found)
            count += sum(session.was_active for session in ended)
            locked += set(found).difference(session.session_id for session in ended)
            on_progress(count)
        for session_id in locked:
            count += sum(
                session.was_active
                for session in await self._end_one(call, selection, now, session_id)
            )
        on_progress(count)
        await self._record(call, self._clock.now(), {"stage": "end", "count": count})
        async with self._database.connection() as connection:
            # Of a transaction that begins after all of the others: whoever knows that it has ended
            # knows of them, too.
            return EndedSessions(count, await revocations.cursor_of_now(connection))

    async def _find(
        self, selection: SessionSelection, now: datetime
    ) -> AsyncIterator[Sequence[SessionId]]:
        """Yield the selected sessions, as many as one statement may end at a time."""
        after: SessionId | None = None
        while True:
            async with self._database.connection() as connection:
                found = await store.find(connection, selection, now, after, _FIND)
            for start in range(0, len(found.session_ids), _END):
                yield found.session_ids[start : start + _END]
            if found.last is None:
                return
            after = found.last

    async def _end(
        self, call: Call, selection: SessionSelection, now: datetime, ids: Sequence[SessionId]
    ) -> Sequence[EndedSession]:
        event_ids = [uuid7(now) for _ in ids]
        event = EndEvent(AuditType.REVOKE, call, event_ids)
        async with self._database.connection() as connection:
            ended = await store.end_unlocked(connection, selection, now, ids, event)
        await self._note(call, ended)
        return ended

    async def _end_one(
        self, call: Call, selection: SessionSelection, now: datetime, session_id: SessionId
    ) -> Sequence[EndedSession]:
        event = EndEvent(AuditType.REVOKE, call, [uuid7(now)])
        async with self._database.connection(session_id) as connection:
            ended = await store.end_one(connection, selection, now, session_id, event)
        await self._note(call, ended)
        return ended

    async def _note(self, call: Call, ended: Sequence[EndedSession]) -> None:
        """Drop what was ended from the cache, and log the events that were stored with it."""
        of_user = defaultdict[UserId, list[str]](list)
        for session in ended:
            self._cache.drop(session.session_id)
            of_user[session.user_id].append(str(session.session_id))
        await self._slices.map(
            lambda item: log_event(
                AuditEvent(
                    AuditType.REVOKE,
                    call,
                    item[0],
                    detail={"reason": RevokeReason.REVOKED.value, "sessions": item[1]},
                )
            ),
            of_user.items(),
        )

    async def _record(self, call: Call, now: datetime, detail: Detail) -> None:
        async with self._database.connection() as connection:
            await record_event(
                connection, now, AuditEvent(AuditType.REVOKE_ALL, call, detail=detail)
            )


def _described(selection: SessionSelection) -> Detail:
    """Return the criteria for the audit log; none means all sessions."""
    before, after = selection.created_before, selection.created_after
    criteria: dict[str, object] = {
        "created_before": before and before.isoformat(),
        "created_after": after and after.isoformat(),
        "network": selection.network,
        "authentication_method": selection.authentication_method,
        "users": [str(user_id) for user_id in selection.user_ids],
        "impersonated_only": selection.impersonated_only,
    }
    return {name: value for name, value in criteria.items() if value}  # type: ignore[misc]
