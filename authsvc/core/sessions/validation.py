"""Owns the question whether a session is active: the rules, the cache, keeping alive what is used.

An answer without `strict` may come from the cache, which lags a revocation by no more than
`sessions.cache_staleness`: it is used only while the listener hears from the database, and forgets
what is revoked when it is told. What is not active is never cached, and a cached session that is
due to be extended or looks expired is read again, because another replica may have extended it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from authsvc.config import SessionSettings
from authsvc.core.lib.last_use import LastUse
from authsvc.core.sessions.cache import CachedSession, SessionCache
from authsvc.core.sessions.client_binding import ClientBinding
from authsvc.core.sessions.reading import SessionReader, is_in_force
from authsvc.core.sessions.secrets import digest, is_csrf_token, is_session_token
from authsvc.models.calls import ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason
from authsvc.models.users import UserStatus


@dataclass(frozen=True, slots=True)
class SessionCheck:
    """A session token to be judged, and what came with it; `csrf_token` "" is not checked."""

    session_token: str = field(repr=False)
    client: ClientContext = field(default_factory=ClientContext)
    csrf_token: str = field(default="", repr=False)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What became of a check: the session if it is active, else the reason."""

    active: bool
    reason: InactiveReason | None = None
    session: Session | None = None
    csrf_valid: bool = False


_INACTIVE: Final = {reason: SessionResult(active=False, reason=reason) for reason in InactiveReason}


class SessionValidation:
    """Judges sessions, by their secret token or for an access token by their id."""

    def __init__(
        self,
        reader: SessionReader,
        cache: SessionCache,
        last_use: LastUse[SessionId],
        settings: SessionSettings,
        clock: Clock,
        is_fresh: Callable[[], bool],
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._last_use = last_use
        self._touch_interval = settings.last_use_interval
        self._binding = ClientBinding(settings)
        self._clock = clock
        self._is_fresh = is_fresh

    async def validate(self, check: SessionCheck) -> SessionResult:
        """Judge a session token, and keep its session alive if that is active."""
        return self._judge_cached(check) or await self._judge_stored(check)

    async def validate_many(self, checks: Sequence[SessionCheck]) -> list[SessionResult]:
        """Judge several session tokens; the results are in their order."""
        cached = [self._judge_cached(check) for check in checks]
        missing = [check for check, found in zip(checks, cached, strict=True) if found is None]
        stored = iter(await asyncio.gather(*map(self._judge_stored, missing)))
        return [result or next(stored) for result in cached]

    def find_cached(self, session_id: SessionId) -> Session | None:
        """Return a session in force that an access token is used for, if the cache has it."""
        if not self._is_fresh():
            return None
        entry = self._cache.by_id(session_id)
        if entry is None:
            return None
        now = self._clock.now()
        if now >= entry.touch_time:
            self._note_use(entry, now)
        return entry.session

    async def find(self, session_id: SessionId, *, strict: bool) -> Session | None:
        """Return a session that an access token is used for, ended or not; None: unknown.

        An access token does not extend its session: refreshing does.
        """
        if not strict and (session := self.find_cached(session_id)):
            return session
        entry = await self._reader.by_id(session_id)
        if entry is None:
            return None
        now = self._clock.now()
        if now >= entry.touch_time and is_in_force(entry.session, now):
            self._note_use(entry, now)
        return entry.session

    def _judge_cached(self, check: SessionCheck) -> SessionResult | None:
        if check.strict or not self._is_fresh():
            return None
        entry = self._cache.by_token(digest(check.session_token))
        if entry is None:
            return None
        now = self._clock.now()
        if now >= entry.slide_time:
            return None
        return self._answer(entry, check, now)

    async def _judge_stored(self, check: SessionCheck) -> SessionResult:
        if not is_session_token(check.session_token):
            return _INACTIVE[InactiveReason.MALFORMED]
        entry = await self._reader.by_token(digest(check.session_token))
        if entry is None:
            return _INACTIVE[InactiveReason.SESSION_UNKNOWN]
        now = self._clock.now()
        reason = _state(entry.session, now) or self._mismatch(entry.session, check.client)
        if reason is not None:
            return _INACTIVE[reason]
        if now >= entry.slide_time:
            # None: it is being refreshed, extended or ended elsewhere, and was active when read.
            entry = await self._reader.extend(entry.session.session_id) or entry
        return self._answer(entry, check, now)

    def _answer(self, entry: CachedSession, check: SessionCheck, now: datetime) -> SessionResult:
        """Return the result for a session that is active but may be bound to another client."""
        mismatch = self._mismatch(entry.session, check.client)
        if mismatch is not None:
            return _INACTIVE[mismatch]
        if now >= entry.touch_time:
            self._note_use(entry, now)
        session = entry.session
        csrf_valid = bool(check.csrf_token) and is_csrf_token(check.csrf_token, session.csrf_hash)
        return SessionResult(active=True, session=session, csrf_valid=csrf_valid)

    def _mismatch(self, session: Session, client: ClientContext) -> InactiveReason | None:
        return self._binding.mismatch(session.client, client) if self._binding.is_on else None

    def _note_use(self, entry: CachedSession, now: datetime) -> None:
        self._last_use.note(entry.session.session_id, now)
        entry.session = replace(entry.session, last_use_time=now)
        entry.touch_time = now + self._touch_interval


def _state(session: Session, now: datetime) -> InactiveReason | None:
    if session.revoke_time is not None:
        return InactiveReason.SESSION_REVOKED
    if session.user_status is not UserStatus.ACTIVE:
        return InactiveReason.USER_DISABLED
    return InactiveReason.SESSION_EXPIRED if now >= session.idle_expire_time else None
