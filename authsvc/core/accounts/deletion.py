"""Owns the erasure of accounts: only audit events without personal data remain."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import user_not_found
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.revocations import Revocation, RevocationCursor
from authsvc.models.tokens import Claims
from authsvc.models.users import LockedUser
from authsvc.store import deletion as store
from authsvc.store import revocations, users
from authsvc.store.postgres.database import Connection, Database

# Details of events that are needed to understand the events and identify nobody.
_KEPT_DETAILS = (
    "added",
    "cause",
    "fields",
    "kind",
    "methods",
    "reason",
    "removed",
    "replaced",
    "sessions",
)
# Its reason is a text that an operator wrote, perhaps about the user.
_EMPTIED = (AuditType.IMPERSONATE.value,)
_BATCH = 5_000

Condition: TypeAlias = Callable[[Connection], Awaitable[bool]]


class AccountDeletion:
    """Erases accounts.

    `forget` drops what was revoked from this process's caches; other replicas hear of it soon.
    """

    def __init__(
        self,
        *,
        database: Database,
        recent_login: RecentLogin,
        outbox: Outbox,
        clock: Clock,
        forget: Callable[[Revocation], None],
    ) -> None:
        self._database = database
        self._recent_login = recent_login
        self._outbox = outbox
        self._clock = clock
        self._forget = forget

    async def delete(self, call: Call, claims: Claims) -> RevocationCursor:
        """Erase the account of the token's user; its sessions and keys end at once.

        Return what names that.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            NotFound: USER_NOT_FOUND.
            Unauthenticated: BEARER_INVALID: the session was ended meanwhile.
        """
        self._recent_login.require(claims)
        return await self.erase(call, claims.subject, claims.session_id)

    async def erase(
        self,
        call: Call,
        user_id: UserId,
        session_id: SessionId | None = None,
        *,
        only_if: Condition | None = None,
    ) -> RevocationCursor:
        """Erase an account, and return what names that.

        `session_id` is that of the user who requested it.

        `only_if` is evaluated while the user's row is locked; if it returns False, the account
        counts as not found.

        A long history is scrubbed beforehand, in separate transactions, as one that takes minutes
        would outlast the call. If the call is interrupted there, the account still exists, and the
        next call has less to do.

        Raises:
            NotFound: USER_NOT_FOUND.
        """
        after: datetime | None = None
        while after := await self._scrub_batch(user_id, after, only_if):
            pass
        async with self._database.transaction(user_id) as connection:
            user = await self._lock(connection, user_id, only_if)
            if session_id is not None:
                await self._recent_login.require_live(connection, session_id)
            await self._erase(connection, call, user, session_id)
            cursor = await revocations.cursor_of_now(connection)
        self._forget(Revocation("user", str(user_id)))
        return cursor

    async def _scrub_batch(
        self, user_id: UserId, after: datetime | None, only_if: Condition | None
    ) -> datetime | None:
        """Scrub a full batch of events and return the time of its last, or None if none is left."""
        async with self._database.transaction(user_id) as connection:
            end = await store.find_batch_end(connection, user_id, after, _BATCH)
            if end is not None:
                await self._lock(connection, user_id, only_if)
                await store.scrub_events(
                    connection, user_id, _KEPT_DETAILS, emptied=_EMPTIED, after=after, until=end
                )
        return end

    async def _erase(
        self,
        connection: Connection,
        call: Call,
        user: LockedUser,
        session_id: SessionId | None,
    ) -> None:
        user_id = user.user_id
        # Without the user's id, or it would be deleted with the user.
        notice = Message(MessageKind.ACCOUNT_DELETED, user.email, None)
        await self._outbox.enqueue(connection, notice)
        now = self._clock.now()
        session_ids = await store.list_sessions(connection, user_id)
        await revocations.append(connection, now, session_ids=session_ids, user_id=user_id)
        event = AuditEvent(AuditType.ACCOUNT_DELETE, call, user_id, session_id)
        await record_event(connection, now, event)
        # All of them, as events may be committed out of the order of their times.
        await store.scrub_events(connection, user_id, _KEPT_DETAILS, emptied=_EMPTIED)
        await store.delete_codes_of_nobody(connection, user_id)
        await store.delete(connection, user_id)

    async def _lock(
        self, connection: Connection, user_id: UserId, only_if: Condition | None
    ) -> LockedUser:
        user = await users.lock_user(connection, user_id, to_delete=True)
        if user is None or (only_if is not None and not await only_if(connection)):
            raise user_not_found()
        return user
