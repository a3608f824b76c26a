"""Owns the redemption of codes, which prove who the user is and that the address is the user's.

Until an address is verified, its account may have been created by somebody other than its owner. So
the first proof transfers the account, and removes every earlier way to log in. Only an account with
a second factor stays as it is: a user without the factor can't log in anyway. No factor is enrolled
for an unverified address (`lock_user_for_new_factor`), but accounts from before that rule may have
one.
"""

from dataclasses import dataclass
from uuid import UUID

from authsvc.core.attempts.attempts import Attempt
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.users import User
from authsvc.store import emails, users
from authsvc.store.emails import Addressee
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Proof:
    """A user who returned the right code, and the address to which it was sent."""

    user: User
    addressee: Addressee


class CodeProofs:
    """Redeems codes for logging in and for setting a password."""

    def __init__(self, codes: OneTimeCodes, reclaim: AccountReclaim, clock: Clock) -> None:
        self._codes = codes
        self._reclaim = reclaim
        self._clock = clock

    async def claim(
        self,
        connection: Connection,
        attempt: Attempt,
        purpose: Purpose,
        code: str,
        *,
        code_id: UUID | None = None,
    ) -> Proof | None:
        """Use up a code; return its user, or None if it is wrong or the user can't log in.

        Runs in the caller's transaction, which has to commit in any case, as it counts the try. The
        user's row stays locked in it.
        """
        user_id = await self._codes.claim(connection, attempt, purpose, code, code_id=code_id)
        if user_id is None:
            return None
        login_time = self._clock.now() if purpose is Purpose.LOGIN else None
        user = await users.confirm(connection, user_id, login_time)
        if user is None:
            return None
        if user.email_verify_time is None and user.has_second_factor:
            # A code does not bypass a second factor (ASVS 6.4.3), nor does it verify the address of
            # an account that its reader can't log in to.
            addressee = await emails.of_user(connection, user.user_id)
            current = addressee is not None and addressee.email_canonical == attempt.account
            return Proof(user, addressee) if addressee is not None and current else None
        addressee = await note_verified(connection, attempt, user.user_id, self._clock)
        if addressee is None:
            return None
        if not addressee.verified:
            user = await self._reclaim.claim(connection, attempt.call, user, attempt.client)
        return Proof(user, addressee)


async def note_verified(
    connection: Connection, attempt: Attempt, user_id: UserId, clock: Clock
) -> Addressee | None:
    """Record, once, that the user has proved to own the address; return the user's earlier state.

    Return None if the user was disabled or the address was changed meanwhile. Runs in the caller's
    transaction, in which the user's row stays locked.
    """
    now = clock.now()
    user = await emails.verify(connection, user_id, attempt.account, now)
    if user is not None and not user.verified:
        event = AuditEvent(AuditType.EMAIL_VERIFY, attempt.call, user_id, client=attempt.client)
        await record_event(connection, now, event)
    return user
