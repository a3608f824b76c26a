"""Owns users' identities at external providers: linking, listing and unlinking."""

from collections.abc import Sequence

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import bearer_invalid, identity_not_found, last_credential, limit_reached
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.federation import Identity
from authsvc.models.ids import UserId
from authsvc.models.tokens import Claims
from authsvc.models.users import User
from authsvc.store import factors, users
from authsvc.store import identities as store
from authsvc.store.postgres.database import Connection, Database

# All of them have to fit in one response.
_MAX_PER_USER = 20


class Identities:
    """The identities of all users."""

    def __init__(
        self, *, database: Database, recent_login: RecentLogin, outbox: Outbox, clock: Clock
    ) -> None:
        self._database = database
        self._recent_login = recent_login
        self._outbox = outbox
        self._clock = clock

    async def list(self, user_id: UserId) -> Sequence[Identity]:
        """Return a user's identities, oldest first.

        Raises:
            Unauthenticated: BEARER_INVALID: the user is disabled or gone.
        """
        async with self._database.connection() as connection:
            found = await store.list_of(connection, user_id)
        if found is None:
            raise bearer_invalid()
        return found

    async def unlink(self, call: Call, claims: Claims, provider: str, subject: str) -> None:
        """Unlink an identity from the account of the token's user and notify the user.

        A password, a passkey or another identity must remain; codes by mail don't count, as they
        can be switched off in the settings.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED, LAST_CREDENTIAL.
            NotFound: IDENTITY_NOT_FOUND.
            Unauthenticated: BEARER_INVALID: the user is disabled or gone.
        """
        self._recent_login.require(claims)
        async with self._database.transaction(claims.subject) as connection:
            user_id = claims.subject
            user = await users.lock_user(connection, user_id)
            if user is None or not user.active:
                raise bearer_invalid()
            await self._recent_login.require_live(connection, claims.session_id)
            if not await store.delete(connection, user_id, provider, subject):
                raise identity_not_found()
            if not await factors.can_begin_login(connection, user_id):
                raise last_credential()
            await self._record(connection, call, AuditType.IDENTITY_UNLINK, user_id, provider)
            await self._notify(
                connection, MessageKind.IDENTITY_UNLINKED, user_id, user.email, provider
            )

    async def add(
        self,
        connection: Connection,
        call: Call,
        user: User,
        identity: Identity,
        client: ClientContext,
    ) -> bool:
        """Link an identity to a user; return False if it is already linked to any user.

        Runs in the caller's transaction, which has locked the user's row.

        Raises:
            FailedPrecondition: LIMIT_REACHED.
        """
        if not await store.insert(connection, user.user_id, identity):
            return False
        if await store.count(connection, user.user_id) > _MAX_PER_USER:
            raise limit_reached(_MAX_PER_USER)
        await self._record(
            connection, call, AuditType.IDENTITY_LINK, user.user_id, identity.provider, client
        )
        return True

    async def tell_of_link(self, connection: Connection, user: User, provider: str) -> None:
        """Notify a user that an identity was linked to the account."""
        kind = MessageKind.IDENTITY_LINKED
        await self._notify(connection, kind, user.user_id, user.email, provider)

    async def _record(
        self,
        connection: Connection,
        call: Call,
        event_type: AuditType,
        user_id: UserId,
        provider: str,
        client: ClientContext | None = None,
    ) -> None:
        detail = {"provider": provider}
        event = AuditEvent(event_type, call, user_id, client=client, detail=detail)
        await record_event(connection, self._clock.now(), event)

    async def _notify(
        self,
        connection: Connection,
        kind: MessageKind,
        user_id: UserId,
        address: str,
        provider: str,
    ) -> None:
        message = Message(kind, address, user_id, values={"provider": provider})
        await self._outbox.enqueue(connection, message)
