"""Owns what users do with their own second factors: listing, removal, new recovery codes."""

from collections.abc import Sequence

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.factors.changes import FactorChange, FactorChanges
from authsvc.core.factors.recovery_codes import RecoveryCodes
from authsvc.core.factors.signals import PasskeySignalling
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.roles.permissions import Permissions
from authsvc.errors import bearer_invalid, factor_not_found, last_credential
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.factors import Factor, FactorKind, PasskeySignals
from authsvc.models.ids import FactorId, UserId
from authsvc.models.tokens import Claims
from authsvc.models.users import LockedUser
from authsvc.store import factors, passkeys, users
from authsvc.store import recovery_codes as store
from authsvc.store.postgres.database import Connection, Database


class Factors:
    """Lists and removes a user's second factors, and generates recovery codes."""

    def __init__(
        self,
        *,
        database: Database,
        permissions: Permissions,
        recent_login: RecentLogin,
        recovery_codes: RecoveryCodes,
        changes: FactorChanges,
        signals: PasskeySignalling,
        outbox: Outbox,
        clock: Clock,
    ) -> None:
        self._database = database
        self._permissions = permissions
        self._recent_login = recent_login
        self._recovery_codes = recovery_codes
        self._changes = changes
        self._signals = signals
        self._outbox = outbox
        self._clock = clock

    async def list(self, user_id: UserId) -> tuple[Sequence[Factor], int]:
        """Return the confirmed factors, oldest first, and how many recovery codes are left."""
        async with self._database.connection() as connection:
            found = await factors.list_confirmed(connection, user_id)
            return found, await store.count(connection, user_id)

    async def signals(self, user_id: UserId) -> PasskeySignals:
        """Return what to tell the browser about the user's passkeys."""
        async with self._database.connection() as connection:
            own = await passkeys.list_of_user(connection, user_id)
            user = await users.get(connection, user_id)
        if user is None:
            return self._signals.deleted_account(user_id)
        return self._signals.passkeys(user, [one.credential_id for one in own])

    async def remove(self, call: Call, claims: Claims, factor_id: FactorId) -> PasskeySignals:
        """Remove one of the user's factors; with the last one, delete the recovery codes.

        Return what to tell the browser about the user's passkeys.

        Raises:
            NotFound: FACTOR_NOT_FOUND.
            FailedPrecondition: REAUTHENTICATION_REQUIRED. LAST_CREDENTIAL: one of the user's roles
                requires a factor, or it is the user's only way to log in without a code.
            Unauthenticated: BEARER_INVALID: the user is disabled or deleted.
        """
        self._recent_login.require(claims)
        user_id = claims.subject
        async with self._database.transaction(user_id) as connection:
            user = await self._lock(connection, claims)
            own = await passkeys.list_of_user(connection, user_id)
            removed = await factors.remove(connection, factor_id, user_id)
            if removed is None:
                raise factor_not_found()
            change = FactorChange(call, user_id, user.email, factor_id, removed.kind)
            left = await self._changes.removed(connection, change)
            if not left and self._permissions.require_second_factor(user.roles):
                raise last_credential()
            if removed.kind is FactorKind.PASSKEY and not await factors.can_begin_login(
                connection, user_id
            ):
                raise last_credential()
        return self._signals.passkeys(
            user,
            [one.credential_id for one in own if one.factor_id != factor_id],
            removed=next((one.credential_id for one in own if one.factor_id == factor_id), None),
        )

    async def generate_recovery_codes(self, call: Call, claims: Claims) -> Sequence[str]:
        """Replace the user's recovery codes with ten new ones and return these.

        Raises:
            NotFound: FACTOR_NOT_FOUND: the user has no factor.
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
            Unauthenticated: BEARER_INVALID: the user is disabled or deleted.
        """
        self._recent_login.require(claims)
        user_id = claims.subject
        async with self._database.transaction(user_id) as connection:
            user = await self._lock(connection, claims)
            if not user.has_second_factor:
                raise factor_not_found()
            codes = await self._recovery_codes.generate(connection, user_id)
            event = AuditEvent(AuditType.RECOVERY_CODES_GENERATE, call, user_id)
            await record_event(connection, self._clock.now(), event)
            message = Message(MessageKind.RECOVERY_CODES_GENERATED, user.email, user_id)
            await self._outbox.enqueue(connection, message)
            return codes

    async def _lock(self, connection: Connection, claims: Claims) -> LockedUser:
        user = await users.lock_user(connection, claims.subject)
        if user is None or not user.active:
            raise bearer_invalid()
        await self._recent_login.require_live(connection, claims.session_id)
        return user
