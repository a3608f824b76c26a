"""Owns the validation of sessions: the rules, the cache, and the extension of sessions in use.

A result without `strict` may come from the cache, which lags a revocation by no more than
`sessions.cache_staleness`: it is used only while the revocation listener is up to date, and drops a
revoked session when notified. Inactive sessions are never cached, and a cached session that is due
for extension or looks expired is read again, because another replica may have extended it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from authsvc.config import SessionSettings
from authsvc.core.lib.last_use import LastUse
from authsvc.core.lib.memo import Memo
from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.sessions.cache import CachedSession, SessionCache
from authsvc.core.sessions.client_binding import ClientBinding
from authsvc.core.sessions.reading import SessionReader
from authsvc.core.sessions.secrets import digest, is_csrf_token, is_session_token
from authsvc.models.calls import ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.revocations import RevocationCursor
from authsvc.models.sessions import Session
from authsvc.models.tokens import InactiveReason


@dataclass(frozen=True, slots=True)
class SessionCheck:
    """A session token to validate, and its context; an empty `csrf_token` is not checked.

    What `min_cursor` names is taken into account.
    """

    session_token: str = field(repr=False)
    client: ClientContext = field(default_factory=ClientContext)
    csrf_token: str = field(default="", repr=False)
    strict: bool = False
    min_cursor: RevocationCursor | None = None


@dataclass(frozen=True, slots=True)
class SessionResult:
    """The result of a check: the session if it is active, otherwise the reason.

    `memo` is for what the caller derives from the session; it is cached as long as the session is.
    """

    active: bool
    reason: InactiveReason | None = None
    session: Session | None = None
    csrf_valid: bool = False
    memo: Memo | None = None


_INACTIVE: Final = {reason: SessionResult(active=False, reason=reason) for reason in InactiveReason}


class SessionValidation:
    """Validates sessions, by their secret token or, for an access token, by their id.

    `is_fresh` returns whether the cache has been notified of everything that was revoked more than
    `cache_staleness` ago; while it returns False, the cache is not used.
    """

    def __init__(
        self,
        *,
        reader: SessionReader,
        cache: SessionCache,
        last_use: LastUse[SessionId],
        settings: SessionSettings,
        clock: Clock,
        is_fresh: Callable[[], bool],
        revocations: KnownRevocations,
        slices: Slices,
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._last_use = last_use
        self._touch_interval = settings.last_use_interval
        self._binding = ClientBinding(settings)
        self._clock = clock
        self._is_fresh = is_fresh
        self._revocations = revocations
        self._slices = slices

    async def validate(self, check: SessionCheck) -> SessionResult:
        """Return whether the session of a token is active, and extend it if it is due."""
        result = self._validate_without_read(check)
        if result is not None:
            return result
        entry = await self._reader.by_token(digest(check.session_token))
        now = self._clock.now()
        if entry is not None and self._is_due(entry, check, now):
            # On None another transaction refreshes, extends or ends it; it was active when read.
            entry = await self._reader.extend(entry.id) or entry
        return self._judge(entry, check, now)

    async def validate_many(self, checks: Sequence[SessionCheck]) -> list[SessionResult]:
        """Validate several sessions; the results are in the order of the checks."""
        results = await self._slices.map(self._validate_without_read, checks)
        missing = [check for check, result in zip(checks, results, strict=True) if result is None]
        read = iter(await self._validate_stored(missing) if missing else ())
        return [result or next(read) for result in results]

    def find_cached(self, session_id: SessionId) -> Session | None:
        """Return the session of an access token if it is in force and in the cache.

        None means only that `find` has to be called.
        """
        if not self._is_fresh():
            return None
        entry = self._cache.by_id(session_id)
        if entry is None:
            return None
        now = self._clock.now()
        if now >= entry.touch_time:
            self._note_use(entry, now)
        return entry.session

    async def find(self, session_id: SessionId, *, strict: bool = False) -> Session | None:
        """Return the session of an access token, ended or not, or None if it is unknown.

        With `strict` the cache is not used. Using an access token does not extend its session;
        refreshing does.
        """
        if not strict and (session := self.find_cached(session_id)):
            return session
        return self._use(await self._reader.by_id(session_id))

    async def find_many(self, ids: Sequence[SessionId]) -> list[Session | None]:
        """Return the sessions of several access tokens like `find`, read from the database."""
        return await self._slices.map(self._use, await self._reader.by_ids(ids))

    def _validate_without_read(self, check: SessionCheck) -> SessionResult | None:
        """Return the result if it needs no read, otherwise None."""
        if (
            not check.strict
            and (check.min_cursor is None or not self._revocations.lack(check.min_cursor))
            and self._is_fresh()
        ):
            entry = self._cache.by_token(digest(check.session_token))
            if entry is not None and (now := self._clock.now()) < entry.slide_time:
                return self._result(entry, check, now)
        if not is_session_token(check.session_token):
            return _INACTIVE[InactiveReason.MALFORMED]
        return None

    async def _validate_stored(self, checks: Sequence[SessionCheck]) -> list[SessionResult]:
        hashes = await self._slices.map(lambda check: digest(check.session_token), checks)
        entries = await self._reader.by_tokens(hashes)
        now = self._clock.now()
        pairs = list(zip(checks, entries, strict=True))
        due = await self._slices.map(
            lambda pair: pair[1] is not None and self._is_due(pair[1], pair[0], now), pairs
        )
        ids = list(
            {entry.id for entry, is_due in zip(entries, due, strict=True) if entry and is_due}
        )
        extended = dict(zip(ids, await self._reader.extend_many(ids), strict=True))
        return await self._slices.map(
            lambda pair: self._judge(
                pair[1] and (extended.get(pair[1].id) or pair[1]), pair[0], now
            ),
            pairs,
        )

    def _is_due(self, entry: CachedSession, check: SessionCheck, now: datetime) -> bool:
        return now >= entry.slide_time and self._inactive_reason(entry, check, now) is None

    def _judge(
        self, entry: CachedSession | None, check: SessionCheck, now: datetime
    ) -> SessionResult:
        """Return the result for a session as it was read, None if it is unknown."""
        if entry is None:
            return _INACTIVE[InactiveReason.SESSION_UNKNOWN]
        reason = self._inactive_reason(entry, check, now)
        return _INACTIVE[reason] if reason else self._result(entry, check, now)

    def _inactive_reason(
        self, entry: CachedSession, check: SessionCheck, now: datetime
    ) -> InactiveReason | None:
        return entry.session.inactive_reason(now) or self._mismatch(entry.session, check.client)

    def _use(self, entry: CachedSession | None) -> Session | None:
        """Return the session of an access token, and note its use if it is in force."""
        if entry is None:
            return None
        now = self._clock.now()
        if now >= entry.touch_time and entry.session.is_in_force(now):
            self._note_use(entry, now)
        return entry.session

    def _result(self, entry: CachedSession, check: SessionCheck, now: datetime) -> SessionResult:
        """Return the result for a session that is active but may be bound to another client."""
        mismatch = self._mismatch(entry.session, check.client)
        if mismatch is not None:
            return _INACTIVE[mismatch]
        if now >= entry.touch_time:
            self._note_use(entry, now)
        session = entry.session
        csrf_valid = bool(check.csrf_token) and is_csrf_token(check.csrf_token, session.csrf_hash)
        return SessionResult(active=True, session=session, csrf_valid=csrf_valid, memo=entry.memo)

    def _mismatch(self, session: Session, client: ClientContext) -> InactiveReason | None:
        return self._binding.mismatch(session, client) if self._binding.is_on else None

    def _note_use(self, entry: CachedSession, now: datetime) -> None:
        self._last_use.note(entry.session.session_id, now)
        entry.use(now, now + self._touch_interval)
