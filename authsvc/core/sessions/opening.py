"""Owns the opening of sessions: fresh secrets every time, and no more sessions than allowed."""

from collections.abc import Sequence
from dataclasses import replace

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row, log_event
from authsvc.core.lib.ids import uuid7
from authsvc.core.sessions.secrets import digest, new_csrf_token, new_session_token
from authsvc.core.sessions.token_issuing import TokenIssuer
from authsvc.errors import user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens
from authsvc.models.users import UserStatus
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection
from authsvc.store.session_opening import open_session


class SessionOpener:
    """Opens sessions."""

    def __init__(
        self,
        issuer: TokenIssuer,
        settings: SessionSettings,
        tokens: TokenSettings,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._max_per_user = settings.max_per_user
        self._absolute_lifetime = settings.absolute_lifetime
        self._idle_lifetime = tokens.refresh_lifetime
        self._clock = clock

    async def open(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        client: ClientContext,
        methods: Sequence[str],
    ) -> Tokens:
        """Open a session within the caller's transaction; the oldest ends if there are too many.

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
        """
        owner = await store.lock_owner(connection, user_id)
        if owner is None or owner.status is not UserStatus.ACTIVE:
            raise user_not_found()
        return await self.open_for(
            connection, call, user_id, owner, client, methods, AuditType.SESSION_CREATE
        )

    async def open_for(
        self,
        connection: Connection,
        call: Call,
        user_id: UserId,
        owner: store.Owner,
        client: ClientContext,
        methods: Sequence[str],
        event_type: AuditType,
    ) -> Tokens:
        """Do as `open` for an active user whose row the caller's transaction holds."""
        session_token, csrf_token = new_session_token(), new_csrf_token()
        session = self._new_session(user_id, owner, client, methods, csrf_token)
        await self._store(connection, call, session, digest(session_token), event_type)
        return self._issuer.issue(session, session_token, csrf_token)

    def _new_session(
        self,
        user_id: UserId,
        owner: store.Owner,
        client: ClientContext,
        methods: Sequence[str],
        csrf_token: str,
    ) -> Session:
        now = self._clock.now()
        absolute_expire_time = now + self._absolute_lifetime
        return Session(
            session_id=SessionId(uuid7(now)),
            user_id=user_id,
            create_time=now,
            last_use_time=now,
            authentication_time=now,
            idle_expire_time=min(now + self._idle_lifetime, absolute_expire_time),
            absolute_expire_time=absolute_expire_time,
            client=client,
            authentication_methods=tuple(methods),
            csrf_hash=digest(csrf_token),
            refresh_counter=0,
            revoke_time=None,
            revoke_reason=None,
            user_status=owner.status,
            user_roles=owner.roles,
        )

    async def _store(
        self,
        connection: Connection,
        call: Call,
        session: Session,
        token_hash: bytes,
        event_type: AuditType,
    ) -> None:
        event = AuditEvent(
            event_type,
            call,
            session.user_id,
            session.session_id,
            session.client,
            {"methods": session.authentication_methods},
        )
        replaced = await open_session(
            connection,
            session,
            token_hash,
            self._max_per_user - 1,
            event_row(session.create_time, event),
        )
        detail = {**event.detail, "replaced": [str(session_id) for session_id in replaced]}
        log_event(replace(event, detail=detail))
