"""Owns the erasure of an account: nothing is left but audit events without personal fields."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.revocations.listener import Revocation
from authsvc.errors import user_not_found
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Claims
from authsvc.store import account_deletion as store
from authsvc.store import revocations
from authsvc.store.postgres.database import Connection, Database

# Of an event's details: what a chain of events can't be understood without, and nobody known by.
_KEPT_DETAILS = ("cause", "kind", "methods", "reason", "replaced", "sessions")
_BATCH = 5_000

Condition: TypeAlias = Callable[[Connection], Awaitable[bool]]


class AccountDeletion:
    """Erases accounts.

    `forget` makes this process's caches drop what was revoked; the others hear of it soon.
    """

    def __init__(
        self,
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

    async def delete(self, call: Call, claims: Claims) -> None:
        """Erase the account of the token's user; its sessions and keys end at once.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            NotFound: USER_NOT_FOUND.
            Unauthenticated: BEARER_INVALID: the session was ended meanwhile.
        """
        self._recent_login.require(claims)
        await self.erase(call, claims.subject, claims.session_id)

    async def erase(
        self,
        call: Call,
        user_id: UserId,
        session_id: SessionId | None = None,
        *,
        only_if: Condition | None = None,
    ) -> None:
        """Erase an account; `session_id` is the user's who asked for it.

        With `only_if`, which is asked while the user's row is held, one for which it says no is as
        if there were none.

        A long history is scrubbed beforehand, in transactions of their own: one that took minutes
        would outlast the call. Cut off there, the account lives on, and the next call has less to
        do.

        Raises:
            NotFound: USER_NOT_FOUND.
        """
        after: datetime | None = None
        while after := await self._scrub_batch(user_id, after, only_if):
            pass
        async with self._database.transaction() as connection:
            leaving = await self._lock(connection, user_id, only_if)
            if session_id is not None:
                await self._recent_login.require_live(connection, session_id)
            await self._erase(connection, call, user_id, session_id, leaving)
        self._forget(Revocation("user", str(user_id)))

    async def _scrub_batch(
        self, user_id: UserId, after: datetime | None, only_if: Condition | None
    ) -> datetime | None:
        """Scrub a full batch of events and return the time of its last; None: there is none."""
        async with self._database.transaction() as connection:
            end = await store.find_batch_end(connection, user_id, after, _BATCH)
            if end is not None:
                await self._lock(connection, user_id, only_if)
                await store.scrub_events(connection, user_id, _KEPT_DETAILS, after=after, until=end)
        return end

    async def _erase(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        session_id: SessionId | None,
        leaving: store.Leaving,
    ) -> None:
        # Without the user's id, or it would go with the user.
        notice = Message(MessageKind.ACCOUNT_DELETED, leaving.email, None)
        await self._outbox.enqueue(connection, notice)
        now = self._clock.now()
        await revocations.append(connection, now, session_ids=leaving.session_ids, user_id=user_id)
        event = AuditEvent(AuditType.ACCOUNT_DELETE, call, user_id, session_id)
        await record_event(connection, now, event)
        # All of them, as some may have been committed later than others of their time.
        await store.scrub_events(connection, user_id, _KEPT_DETAILS)
        await store.delete_codes_of_nobody(connection, user_id)
        await store.delete(connection, user_id)

    async def _lock(
        self, connection: Connection, user_id: UserId, only_if: Condition | None
    ) -> store.Leaving:
        leaving = await store.lock(connection, user_id)
        if leaving is None or (only_if is not None and not await only_if(connection)):
            raise user_not_found()
        return leaving
