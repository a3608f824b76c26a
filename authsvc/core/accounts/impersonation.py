"""Owns the sessions that operators open in a user's name.

Such a session is short, can't be refreshed, and names its impersonator in the access token (`act`),
in the session and in each of its audit events. It is not a login: the user's last login, failed
attempts, devices and other sessions stay as they are, it has no authentication methods, and its
`auth_time` is that of the account's creation, so that nothing that demands a recent login takes it
for one.
"""

from datetime import datetime

from authsvc.config import SessionSettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.ids import uuid7
from authsvc.core.sessions.secrets import digest, new_csrf_token, new_session_token
from authsvc.core.sessions.token_issuing import TokenIssuer
from authsvc.errors import impersonation_not_allowed, user_not_found
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session
from authsvc.models.tokens import Tokens
from authsvc.models.users import User
from authsvc.store import users
from authsvc.store.postgres.database import Database
from authsvc.store.session_opening import open_impersonated


class Impersonation:
    """Opens sessions in users' names."""

    def __init__(
        self, *, database: Database, issuer: TokenIssuer, settings: SessionSettings, clock: Clock
    ) -> None:
        self._database = database
        self._issuer = issuer
        self._lifetime = settings.impersonation_lifetime
        self._roles = settings.impersonation_roles
        self._clock = clock

    async def impersonate(
        self, call: Call, user_id: UserId, reason: str, client: ClientContext
    ) -> Tokens:
        """Open a session in a user's name for the caller; `reason` is recorded.

        Raises:
            NotFound: USER_NOT_FOUND, also if the account is disabled.
            PermissionDenied: IMPERSONATION_NOT_ALLOWED: one of the user's roles is not to be
                impersonated.
        """
        now = self._clock.now()
        session_token, csrf_token = new_session_token(), new_csrf_token()
        async with self._database.transaction(user_id) as connection:
            # Locked, so that the user can't be disabled or given a role in between.
            user = await users.lock_user(connection, user_id)
            if user is None or not user.active:
                raise user_not_found()
            if not self._roles.issuperset(user.roles):
                raise impersonation_not_allowed("One of the user's roles must not be impersonated.")
            session = self._session(call, user, client, digest(csrf_token), now)
            await open_impersonated(connection, session, digest(session_token))
            detail = {"reason": reason, "expire_time": session.absolute_expire_time.isoformat()}
            event = AuditEvent(
                AuditType.IMPERSONATE, call, user_id, session.session_id, client, detail
            )
            await record_event(connection, now, event)
            # Before the commit, so that no session is left whose token nobody got.
            return await self._issuer.issue(
                session, now, session_token=session_token, csrf_token=csrf_token
            )

    def _session(
        self, call: Call, user: User, client: ClientContext, csrf_hash: bytes, now: datetime
    ) -> Session:
        end = now + self._lifetime
        return Session(
            session_id=SessionId(uuid7(now)),
            user_id=user.user_id,
            create_time=now,
            last_use_time=now,
            authentication_time=user.create_time,
            idle_expire_time=end,
            absolute_expire_time=end,
            client=client,
            authentication_methods=(),
            csrf_hash=csrf_hash,
            refresh_counter=0,
            revoke_time=None,
            revoke_reason=None,
            user_status=user.status,
            user_roles=user.roles,
            impersonator=call.caller,
            token_revoke_time=user.token_revoke_time,
        )
