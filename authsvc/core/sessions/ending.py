"""Owns the ending of sessions: row, revocation and audit event, in one transaction."""

from collections.abc import Mapping
from datetime import datetime

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.sessions.cache import SessionCache
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.errors import session_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.revocations import EndedSessions, RevocationCursor
from authsvc.models.sessions import RevokeReason
from authsvc.store import revocations, users
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection, Database

_EVENT_TYPES: Mapping[RevokeReason, AuditType] = {
    RevokeReason.LOGOUT: AuditType.LOGOUT,
    RevokeReason.REVOKED: AuditType.REVOKE,
    RevokeReason.REFRESH_TOKEN_REUSED: AuditType.REFRESH_REUSE,
}


class SessionEnding:
    """Ends one session, or all sessions of a user."""

    def __init__(
        self, *, database: Database, cache: SessionCache, codec: RefreshTokenCodec, clock: Clock
    ) -> None:
        self._database = database
        self._cache = cache
        self._codec = codec
        self._clock = clock

    async def log_out(self, call: Call, refresh_token: str) -> RevocationCursor:
        """End the session of a refresh token, current or not; do nothing if it has already ended.

        Return what names the end of the session, also if it has already ended: the answer that
        said so may have been lost.

        Raises:
            Unauthenticated: REFRESH_TOKEN_INVALID: this service did not issue it.
        """
        session_id, _ = self._codec.decode(refresh_token)
        _, cursor = await self._end(call, session_id, RevokeReason.LOGOUT)
        return cursor

    async def revoke(self, call: Call, session_id: SessionId) -> RevocationCursor:
        """End a session; do nothing if it has already ended. Return the same as `log_out`.

        Raises:
            NotFound: SESSION_NOT_FOUND.
        """
        ended, cursor = await self._end(call, session_id, RevokeReason.REVOKED)
        if not ended:
            async with self._database.connection() as connection:
                if not await store.find(connection, [session_id]):
                    raise session_not_found()
        return cursor

    async def revoke_all(
        self, call: Call, user_id: UserId, except_session_id: SessionId | None = None
    ) -> EndedSessions:
        """End all sessions of a user but one; return how many were active (0 for unknown ids).

        The cursor names also what had already ended.
        """
        async with self._database.transaction(user_id) as connection:
            count = await self.revoke_in(
                connection, call, user_id, RevokeReason.REVOKED, except_session_id
            )
            return EndedSessions(count, await revocations.cursor_of_now(connection))

    async def revoke_in(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        reason: RevokeReason,
        except_session_id: SessionId | None = None,
    ) -> int:
        """End sessions as `revoke_all` does, but in the caller's transaction and for any reason."""
        if await users.lock_user(connection, user_id) is None:
            return 0
        now = self._clock.now()
        ended = await store.revoke_of_user(connection, user_id, now, reason, except_session_id)
        if ended:
            await revocations.append(connection, now, session_ids=list(ended))
            detail = {"reason": reason.value, "sessions": [str(key) for key in ended]}
            event = AuditEvent(AuditType.REVOKE, call, user_id, detail=detail)
            await record_event(connection, now, event)
        return sum(ended.values())

    async def _end(
        self, call: Call, session_id: SessionId, reason: RevokeReason
    ) -> tuple[bool, RevocationCursor]:
        async with self._database.transaction(session_id) as connection:
            ended = await end_session(connection, call, self._clock.now(), session_id, reason)
            cursor = await revocations.cursor_of_now(connection)
        self._cache.drop(session_id)
        return ended, cursor


async def end_session(
    connection: Connection,
    call: Call,
    now: datetime,
    session_id: SessionId,
    reason: RevokeReason,
    client: ClientContext | None = None,
) -> bool:
    """End a session within the caller's transaction; return False if none was left to end.

    An expired session is ended too, since its access tokens may still be valid. Ending a session
    twice is harmless: only the first time writes a revocation and an event.
    """
    user_id = await store.revoke(connection, session_id, now, reason)
    if user_id is None:
        return False
    await revocations.append(connection, now, session_ids=[session_id])
    event = AuditEvent(_EVENT_TYPES[reason], call, user_id, session_id, client)
    await record_event(connection, now, event)
    return True
