"""Owns the refresh of tokens: single use, retries within a grace window, detection of theft.

The counter in the session's row decides. A token with the current counter advances it, in one
statement, and gets the next token. The parent of the current token, within the grace window, comes
from an honest client whose answer was lost or that sent two requests at once: it gets the current
pair and nothing changes. After the window, from the session's own device, it comes from a client
that never got the answer: in the same statement, it burns the lost token and gets the one after.
Any other token, burned ones included, has been used by two parties, one of whom is a thief, so the
session ends (RFC 9700, 4.14.2; ASVS 10.4.5; docs/decisions/0015).
"""

from dataclasses import dataclass, replace
from datetime import datetime

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row, log_event, record_event
from authsvc.core.lib.batching import Batcher
from authsvc.core.revocations.cursors import write_revocation_cursor
from authsvc.core.sessions.cache import SessionCache
from authsvc.core.sessions.client_binding import ClientBinding
from authsvc.core.sessions.ending import end_session
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.token_issuing import TokenIssuer
from authsvc.errors import (
    refresh_token_invalid,
    refresh_token_reused,
    session_binding_mismatch,
)
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Tokens
from authsvc.store import refresh, revocations
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Database
from authsvc.store.refresh import AdvanceTimes, PresentedToken
from authsvc.store.sessions import StoredSession

# Rows per statement, which are read without a pause, and callers that may wait.
_MAX_BATCH = 100
_MAX_WAITING = 20_000


@dataclass(frozen=True, slots=True)
class _Advance:
    """A refresh token to use up, and the event that records it."""

    token: PresentedToken
    event: AuditEvent


class SessionRefresh:
    """Replaces refresh tokens."""

    def __init__(
        self,
        *,
        database: Database,
        cache: SessionCache,
        codec: RefreshTokenCodec,
        issuer: TokenIssuer,
        sessions: SessionSettings,
        tokens: TokenSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._cache = cache
        self._codec = codec
        self._issuer = issuer
        self._binding = ClientBinding(sessions)
        self._idle_lifetime = tokens.refresh_lifetime
        self._grace = tokens.refresh_grace
        self._recovers_lost_answers = tokens.refresh_lost_answer == "same_device"
        self._clock = clock
        self._advances = Batcher(
            run=self._advance_many, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )

    async def refresh(self, call: Call, refresh_token: str, client: ClientContext) -> Tokens:
        """Return the next tokens of the session, or the current ones again within the grace window.

        Raises:
            Unauthenticated: REFRESH_TOKEN_INVALID; REFRESH_TOKEN_REUSED: the session has been
                ended; SESSION_BINDING_MISMATCH: it is bound to another client, and goes on.
        """
        session_id, counter = self._codec.decode(refresh_token)
        now = self._clock.now()
        stored = None
        if await self._may_advance(session_id, client):
            stored = await self._advance(call, session_id, counter, client, now)
        if stored is None:
            stored = await self._repeat(call, session_id, counter, client, now)
        # Also if it is repeated: the user was locked when the current token was first issued, but
        # may be losing a role at this moment.
        return await self._issuer.issue(stored.session, stored.refresh_time)

    async def _may_advance(self, session_id: SessionId, client: ClientContext) -> bool:
        if not self._binding.is_on:
            return True
        # A session's binding never changes, so it can be read before the advance.
        stored = await self._find(session_id)
        return stored is not None and not self._binding.mismatch(stored.session, client)

    async def _advance(
        self,
        call: Call,
        session_id: SessionId,
        counter: int,
        client: ClientContext,
        now: datetime,
    ) -> StoredSession | None:
        device_id = client.device_id if self._recovers_lost_answers else ""
        token = PresentedToken(session_id, counter, device_id)
        event = AuditEvent(AuditType.REFRESH, call, session_id=session_id, client=client)
        stored = await self._advances.submit(_Advance(token, event))
        if stored is None:
            # If another transaction has locked the session, this call alone waits for it.
            async with self._database.connection(session_id) as connection:
                stored = await refresh.advance(
                    connection, token, self._times(now), event_row(now, event)
                )
        if stored is None:
            return None
        detail = {"lost_answer": True} if stored.refresh_burned else {}
        log_event(replace(event, user_id=stored.session.user_id, detail=detail))
        # The cached copy still has the old expiry.
        self._cache.drop(session_id)
        return stored

    async def _advance_many(self, asked: list[_Advance]) -> list[StoredSession | None]:
        now = self._clock.now()
        first: dict[SessionId, _Advance] = {}
        for advance in asked:
            first.setdefault(advance.token.session_id, advance)
        async with self._database.connection() as connection:
            stored = await refresh.advance_many(
                connection,
                [advance.token for advance in first.values()],
                self._times(now),
                [event_row(now, advance.event) for advance in first.values()],
            )
        return [
            stored.get(advance.token.session_id)
            if first[advance.token.session_id] is advance
            else None
            for advance in asked
        ]

    def _times(self, now: datetime) -> AdvanceTimes:
        return AdvanceTimes(now + self._idle_lifetime, now - self._grace)

    async def _repeat(
        self,
        call: Call,
        session_id: SessionId,
        counter: int,
        client: ClientContext,
        now: datetime,
    ) -> StoredSession:
        """Return the unchanged session for a token that can't advance it but may be repeated."""
        stored = await self._find(session_id)
        if stored is None or stored.session.inactive_reason(now):
            raise refresh_token_invalid()
        session = stored.session
        if counter > session.refresh_counter:
            # The keys leaked or the database was restored, which does not mean that this session's
            # token was stolen.
            raise refresh_token_invalid()
        is_current = counter == session.refresh_counter
        may_repeat = self._may_repeat(stored, counter, client, now)
        if not (is_current or may_repeat or self._may_recover(stored, counter, client)):
            raise refresh_token_reused(await self._end(call, session_id, client, now))
        if self._binding.mismatch(session, client):
            raise session_binding_mismatch()
        if not may_repeat:
            # The session changed since the attempt to advance it: its user was enabled, perhaps.
            raise refresh_token_invalid()
        event = AuditEvent(
            AuditType.REFRESH, call, session.user_id, session_id, client, {"repeated": True}
        )
        async with self._database.connection() as connection:
            await record_event(connection, now, event)
        return stored

    def _may_repeat(
        self, stored: StoredSession, counter: int, client: ClientContext, now: datetime
    ) -> bool:
        """Return whether the token is the parent of the current one, within the grace window.

        If an answer was lost before, the window is a later one, and open to the session's own
        device only: others would have been noticed after the first.
        """
        return (
            counter == stored.parent_counter
            and now < stored.refresh_time + self._grace
            and (stored.refresh_burned == 0 or self._is_own_device(stored, client))
        )

    def _may_recover(self, stored: StoredSession, counter: int, client: ClientContext) -> bool:
        """Return whether the token may replace the current one, which was lost in an answer."""
        return (
            counter == stored.parent_counter
            and stored.refresh_burned < refresh.MAX_BURNED
            and self._is_own_device(stored, client)
        )

    def _is_own_device(self, stored: StoredSession, client: ClientContext) -> bool:
        device_id = client.device_id if self._recovers_lost_answers else ""
        return device_id != "" and device_id == stored.session.client.device_id

    async def _end(
        self, call: Call, session_id: SessionId, client: ClientContext, now: datetime
    ) -> str:
        # In a separate transaction, as the error raised next must not roll it back.
        async with self._database.transaction(session_id) as connection:
            await end_session(
                connection, call, now, session_id, RevokeReason.REFRESH_TOKEN_REUSED, client
            )
            cursor = await revocations.cursor_of_now(connection)
        self._cache.drop(session_id)
        return write_revocation_cursor(cursor)

    async def _find(self, session_id: SessionId) -> StoredSession | None:
        async with self._database.connection() as connection:
            return (await store.find(connection, [session_id])).get(session_id)
