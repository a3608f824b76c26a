"""Owns what changes of a user's second factors share: preconditions, flag, event and notice."""

from dataclasses import dataclass, field

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import bearer_invalid, email_not_verified, limit_reached
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.factors import FactorKind
from authsvc.models.ids import FactorId, UserId
from authsvc.models.tokens import Claims
from authsvc.models.users import LockedUser
from authsvc.store import devices, factors, recovery_codes, users
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class FactorChange:
    """A factor that is added or removed, its user and the call; `email` is the stored address."""

    call: Call
    user_id: UserId
    email: str = field(repr=False)
    factor_id: FactorId
    kind: FactorKind
    client: ClientContext | None = None


class FactorChanges:
    """Records that factors were added or removed, within the caller's transaction.

    The transaction has locked the user's row.
    """

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    async def added(self, connection: Connection, change: FactorChange) -> None:
        """Require a second factor from now on, and notify the user (ASVS 6.3.7)."""
        await factors.update_flag(connection, change.user_id)
        await self._note(connection, change, AuditType.FACTOR_ENROLL, MessageKind.FACTOR_ADDED)

    async def removed(self, connection: Connection, change: FactorChange) -> bool:
        """Stop trusting the user's devices, and notify the user; return whether factors are left.

        With the last factor, the recovery codes are deleted.
        """
        left = await factors.update_flag(connection, change.user_id)
        if not left:
            await recovery_codes.delete(connection, change.user_id)
        await devices.forget_trust(connection, change.user_id)
        await self._note(connection, change, AuditType.FACTOR_REMOVE, MessageKind.FACTOR_REMOVED)
        return left

    async def _note(
        self,
        connection: Connection,
        change: FactorChange,
        event_type: AuditType,
        message_kind: MessageKind,
    ) -> None:
        detail = {"factor": str(change.factor_id), "kind": change.kind.value}
        event = AuditEvent(
            event_type, change.call, change.user_id, client=change.client, detail=detail
        )
        await record_event(connection, self._clock.now(), event)
        values = {"factor": change.kind.value}
        message = Message(message_kind, change.email, change.user_id, values=values)
        await self._outbox.enqueue(connection, message)


async def lock_user_for_new_factor(
    connection: Connection, claims: Claims, recent_login: RecentLogin, max_factors: int
) -> LockedUser:
    """Lock the row of the token's user, who may enrol another factor, and return the user.

    The address has to be verified: as no code bypasses a second factor (ASVS 6.4.3), somebody who
    registers another person's address could lock out its owner with one.

    Raises:
        Unauthenticated: BEARER_INVALID: the user is disabled or deleted, or the session has ended.
        FailedPrecondition: EMAIL_NOT_VERIFIED, LIMIT_REACHED.
    """
    user = await users.lock_user(connection, claims.subject)
    if user is None or not user.active:
        raise bearer_invalid()
    await recent_login.require_live(connection, claims.session_id)
    if user.email_verify_time is None:
        raise email_not_verified()
    if await factors.count(connection, user.user_id) >= max_factors:
        raise limit_reached(max_factors)
    return user
