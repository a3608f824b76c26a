"""Owns the opening of sessions, with new secrets each time and a maximum per user."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row, log_event
from authsvc.core.audit.schema import Detail
from authsvc.core.lib.ids import uuid7
from authsvc.core.roles.permissions import Permissions
from authsvc.core.sessions.secrets import digest, new_csrf_token, new_session_token
from authsvc.core.sessions.token_issuing import TokenIssuer
from authsvc.errors import user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.roles import capped
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens
from authsvc.models.users import User
from authsvc.store import revocations, users
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.session_opening import open_session


class SessionOpening:
    """Opens sessions."""

    def __init__(
        self,
        *,
        database: Database,
        issuer: TokenIssuer,
        settings: SessionSettings,
        tokens: TokenSettings,
        permissions: Permissions,
        clock: Clock,
    ) -> None:
        self._database = database
        self._issuer = issuer
        self._max_per_user = settings.max_per_user
        self._absolute_lifetime = settings.absolute_lifetime
        self._idle_lifetime = tokens.refresh_lifetime
        self._permissions = permissions
        self._clock = clock

    async def create(
        self, call: Call, user_id: UserId, client: ClientContext, methods: Sequence[str]
    ) -> Tokens:
        """Open a session for a user who was authenticated by `methods` (RFC 8176).

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
        """
        async with self._database.transaction(user_id) as connection:
            return await self.open(connection, call, user_id, client, methods)

    async def log_in(
        self,
        connection: Connection,
        call: Call,
        user: User,
        client: ClientContext,
        methods: Sequence[str],
        *,
        new_device: bool = False,
    ) -> Tokens:
        """Open a session for a user who just logged in, and record both in one event.

        `new_device` means that the user has never logged in from the client's device. Runs in the
        caller's transaction, which found the user active and has locked the user's row.
        """
        detail = {"new_device": True} if new_device else {}
        return await self._open(connection, call, user, client, methods, AuditType.LOGIN, detail)

    async def open(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        client: ClientContext,
        methods: Sequence[str],
    ) -> Tokens:
        """Open a session within the caller's transaction; end the oldest if there are too many.

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
        """
        user = await users.note_login(connection, user_id, self._clock.now())
        if user is None:
            raise user_not_found()
        return await self._open(connection, call, user, client, methods, AuditType.SESSION_CREATE)

    async def _open(
        self,
        connection: Connection,
        call: Call,
        user: User,
        client: ClientContext,
        methods: Sequence[str],
        event_type: AuditType,
        detail: Detail = MappingProxyType({}),
    ) -> Tokens:
        session_token, csrf_token = new_session_token(), new_csrf_token()
        session = self._new_session(user, client, methods, csrf_token)
        await self._store(connection, call, session, digest(session_token), event_type, detail)
        # Before the commit, although an HSM may take a while and this holds the connection: if it
        # fails, the user's other sessions go on, however often the login is tried again.
        return await self._issuer.issue(
            session,
            session.create_time,
            session_token=session_token,
            csrf_token=csrf_token,
            revoked=revocations.noted(connection),
        )

    def _new_session(
        self,
        user: User,
        client: ClientContext,
        methods: Sequence[str],
        csrf_token: str,
    ) -> Session:
        now = self._clock.now()
        lifetimes = self._permissions.lifetimes(user.roles)
        absolute_expire_time = now + capped(lifetimes.absolute, self._absolute_lifetime)
        idle_lifetime = capped(lifetimes.idle, self._idle_lifetime)
        return Session(
            session_id=SessionId(uuid7(now)),
            user_id=user.user_id,
            create_time=now,
            last_use_time=now,
            authentication_time=now,
            idle_expire_time=min(now + idle_lifetime, absolute_expire_time),
            absolute_expire_time=absolute_expire_time,
            client=client,
            authentication_methods=tuple(methods),
            csrf_hash=digest(csrf_token),
            refresh_counter=0,
            revoke_time=None,
            revoke_reason=None,
            user_status=user.status,
            user_roles=user.roles,
            idle_lifetime=lifetimes.idle,
            token_revoke_time=user.token_revoke_time,
        )

    async def _store(
        self,
        connection: Connection,
        call: Call,
        session: Session,
        token_hash: bytes,
        event_type: AuditType,
        detail: Detail,
    ) -> None:
        event = AuditEvent(
            event_type,
            call,
            session.user_id,
            session.session_id,
            session.client,
            {"methods": session.authentication_methods, **detail},
        )
        replaced = await open_session(
            connection,
            session,
            token_hash,
            self._max_per_user - 1,
            event_row(session.create_time, event),
        )
        logged = {**event.detail, "replaced": [str(session_id) for session_id in replaced]}
        log_event(replace(event, detail=logged))
