"""Owns the life of sessions: opened, validated, refreshed, listed, ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib import paging
from authsvc.core.lib.last_use import LastUse
from authsvc.core.revocations.listener import Revocation
from authsvc.core.sessions.cache import SessionCache
from authsvc.core.sessions.ending import end_session
from authsvc.core.sessions.opening import SessionOpener
from authsvc.core.sessions.reading import SessionReader
from authsvc.core.sessions.refresh import SessionRefresh
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.token_issuing import TokenIssuer
from authsvc.core.sessions.validation import SessionCheck, SessionResult, SessionValidation
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.errors import FieldInvalid, session_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import RevokeReason, Session
from authsvc.models.tokens import Tokens
from authsvc.models.users import User
from authsvc.store import revocations
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection, Database

__all__ = ["Page", "SessionCheck", "SessionResult", "Sessions"]

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a user's sessions; `next_page_token` is "" if these were the last."""

    sessions: Sequence[Session]
    next_page_token: str


class Sessions:
    """The sessions of all users.

    `is_fresh` says whether `on_revocation` would have been called by now for whatever was revoked
    `cache_staleness` ago; while it says no, the cache is not used.
    """

    def __init__(
        self,
        database: Database,
        access_tokens: AccessTokens,
        refresh_codec: RefreshTokenCodec,
        settings: SessionSettings,
        tokens: TokenSettings,
        clock: Clock,
        is_fresh: Callable[[], bool],
    ) -> None:
        self._database = database
        self._clock = clock
        self._codec = refresh_codec
        issuer = TokenIssuer(access_tokens, refresh_codec)
        self._opener = SessionOpener(issuer, settings, tokens, clock)
        self._cache = SessionCache(settings.cache_size)
        self._last_use = LastUse(database, store.touch, settings.last_use_interval)
        self._validation = SessionValidation(
            SessionReader(database, self._cache, settings, tokens, clock),
            self._cache,
            self._last_use,
            settings,
            clock,
            is_fresh,
        )
        self._refresh = SessionRefresh(
            database, self._cache, refresh_codec, issuer, settings, tokens, clock
        )

    async def create(
        self, call: Call, user_id: UserId, client: ClientContext, methods: Sequence[str]
    ) -> Tokens:
        """Open a session for a user who was authenticated by `methods` (RFC 8176).

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
        """
        async with self._database.transaction() as connection:
            return await self._opener.open(connection, call, user_id, client, methods)

    async def log_in(
        self,
        connection: Connection,
        call: Call,
        user: User,
        client: ClientContext,
        methods: Sequence[str],
    ) -> Tokens:
        """Open a session for a user who just logged in, and record that in the same event.

        Within the caller's transaction, which found the user active and holds the user's row.
        """
        owner = store.Owner(user.status, user.roles)
        return await self._opener.open_for(
            connection, call, user.user_id, owner, client, methods, AuditType.LOGIN
        )

    async def refresh(self, call: Call, refresh_token: str, client: ClientContext) -> Tokens:
        """Replace a refresh token; the session token and anti-forgery token are left empty.

        Raises:
            Unauthenticated: REFRESH_TOKEN_INVALID, or REFRESH_TOKEN_REUSED and the session ended.
        """
        return await self._refresh.refresh(call, refresh_token, client)

    async def logout(self, call: Call, refresh_token: str) -> None:
        """End the session of a refresh token, current or not; harmless if it has ended.

        Raises:
            Unauthenticated: REFRESH_TOKEN_INVALID: it is not one of ours.
        """
        session_id, _ = self._codec.decode(refresh_token)
        await self._end(call, session_id, RevokeReason.LOGOUT)

    async def validate(self, check: SessionCheck) -> SessionResult:
        """Say whether a session is active, by its token, and keep it alive if it is."""
        return await self._validation.validate(check)

    async def validate_many(self, checks: Sequence[SessionCheck]) -> list[SessionResult]:
        """Do as `validate` for several; the results are in the order of the checks."""
        return await self._validation.validate_many(checks)

    def find_cached(self, session_id: SessionId) -> Session | None:
        """Return a session that an access token is used for, if it is in force and in the cache.

        None says nothing but that `find` has to be asked.
        """
        return self._validation.find_cached(session_id)

    async def find(self, session_id: SessionId, *, strict: bool = False) -> Session | None:
        """Return a session that an access token is used for, ended or not; None: unknown.

        With `strict` it is never from the cache.
        """
        return await self._validation.find(session_id, strict=strict)

    async def get(self, session_id: SessionId) -> Session:
        """Return a session, ended or not, from the database.

        Raises:
            NotFound: SESSION_NOT_FOUND.
        """
        async with self._database.connection() as connection:
            found = await store.find(connection, [session_id])
        if session_id not in found:
            raise session_not_found()
        return found[session_id].session

    async def revoke(self, call: Call, session_id: SessionId) -> None:
        """End a session; harmless if it has ended.

        Raises:
            NotFound: SESSION_NOT_FOUND.
        """
        if not await self._end(call, session_id, RevokeReason.REVOKED):
            await self.get(session_id)

    async def revoke_all(
        self, call: Call, user_id: UserId, except_session_id: SessionId | None = None
    ) -> int:
        """End all sessions of a user but one; return how many were active, 0 for unknown users."""
        async with self._database.transaction() as connection:
            return await self.revoke_in(
                connection, call, user_id, RevokeReason.REVOKED, except_session_id
            )

    async def revoke_in(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        reason: RevokeReason,
        except_session_id: SessionId | None = None,
    ) -> int:
        """Do as `revoke_all` within the caller's transaction, for any reason."""
        if await store.lock_owner(connection, user_id) is None:
            return 0
        now = self._clock.now()
        ended = await store.revoke_of_user(connection, user_id, now, reason, except_session_id)
        if ended:
            await revocations.append(connection, now, session_ids=list(ended))
            detail = {"reason": reason.value, "sessions": [str(key) for key in ended]}
            event = AuditEvent(AuditType.REVOKE, call, user_id, detail=detail)
            await record_event(connection, now, event)
        return sum(ended.values())

    async def list(self, user_id: UserId, page_size: int, page_token: str) -> Page:
        """Return a user's active sessions, newest first; `page_size` 0 means 50.

        Raises:
            FieldInvalid: The page size is not 0 to 1000, or the token is not one of this user's.
        """
        if not 0 <= page_size <= _MAX_PAGE_SIZE:
            raise FieldInvalid("page_size", f"Must be 0 to {_MAX_PAGE_SIZE}.")
        size = page_size or _DEFAULT_PAGE_SIZE
        before = SessionId(paging.parse_page_token(user_id, page_token)) if page_token else None
        async with self._database.connection() as connection:
            found = await store.list_active(
                connection, user_id, self._clock.now(), before, size + 1
            )
        page = found[:size]
        more = len(found) > size
        return Page(page, paging.page_token(user_id, page[-1].session_id) if more else "")

    def on_revocation(self, revocation: Revocation) -> None:
        """Forget what was revoked; called for every announcement."""
        if revocation.kind == "session":
            self._cache.drop(SessionId(UUID(revocation.id)))
        elif revocation.kind == "user":
            self._cache.drop_user(UserId(UUID(revocation.id)))

    def on_gap(self) -> None:
        """Forget everything; called when announcements may have been missed."""
        self._cache.drop_all()

    async def flush(self) -> None:
        """Write when sessions were last used; the last thing before the database is closed."""
        await self._last_use.flush()

    async def run(self) -> None:
        """Write when sessions were last used, every second, until cancelled."""
        await self._last_use.run()

    async def _end(self, call: Call, session_id: SessionId, reason: RevokeReason) -> bool:
        async with self._database.transaction() as connection:
            ended = await end_session(connection, call, self._clock.now(), session_id, reason)
        self._cache.drop(session_id)
        return ended
