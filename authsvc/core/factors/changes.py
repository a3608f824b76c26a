"""Owns what every change of a user's second factors asks for, and its flag, event and notice."""

from dataclasses import dataclass, field

from authsvc.core.attempts.recent_login import RecentLogin
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.errors import bearer_invalid, email_not_verified, limit_reached
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.ids import FactorId, UserId
from authsvc.models.tokens import Claims
from authsvc.store import devices, factors, recovery_codes
from authsvc.store.factors import FactorKind, Holder
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class FactorChange:
    """Whose factor changes, which one, and by what call; `email` is the stored address."""

    call: Call
    user_id: UserId
    email: str = field(repr=False)
    factor_id: FactorId
    kind: FactorKind
    client: ClientContext | None = None


class FactorChanges:
    """Notes factors that were added or removed, within the transaction that did so.

    That transaction holds the user's row.
    """

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    async def added(self, connection: Connection, change: FactorChange) -> None:
        """Let the new factor be asked for from now on, and tell the user (ASVS 6.3.7)."""
        await factors.update_flag(connection, change.user_id)
        await self._note(connection, change, AuditType.FACTOR_ENROLL, MessageKind.FACTOR_ADDED)

    async def removed(self, connection: Connection, change: FactorChange) -> bool:
        """End what was built on the factor, and tell the user; return whether others are left.

        With the last one the recovery codes go.
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
) -> Holder:
    """Hold the row of the token's user, who may have one more factor, and return what it says.

    The address has to be proved: no code goes around a second factor (ASVS 6.4.3), so whoever
    made an account for somebody else's address could keep its owner out by one.

    Raises:
        Unauthenticated: BEARER_INVALID: the user is disabled or gone, or the session has ended.
        FailedPrecondition: EMAIL_NOT_VERIFIED, LIMIT_REACHED.
    """
    holder = await factors.lock_holder(connection, claims.subject)
    if holder is None:
        raise bearer_invalid()
    await recent_login.require_live(connection, claims.session_id)
    if not holder.email_verified:
        raise email_not_verified()
    if await factors.count(connection, holder.user_id) >= max_factors:
        raise limit_reached(max_factors)
    return holder
