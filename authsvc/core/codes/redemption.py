"""Owns what a code that was sent to a user proves: who it is, and that the address is the user's.

Until an address is proved, whoever made its account may be another than its owner. So the first
proof hands the account over, and every way in that was there before is gone. Only a second factor
keeps it as it is: who has none of these can't get in anyway. None is enrolled for an address that
was not proved (`lock_user_for_new_factor`), but accounts from before that rule may have one.
"""

from dataclasses import dataclass
from uuid import UUID

from authsvc.core.attempts.attempts import Attempt
from authsvc.core.codes.email_verification import note_verified
from authsvc.core.codes.one_time_codes import OneTimeCodes, Purpose
from authsvc.core.codes.reclaim import AccountReclaim
from authsvc.models.clock import Clock
from authsvc.models.users import User
from authsvc.store import addresses, users
from authsvc.store.addresses import Addressee
from authsvc.store.postgres.database import Connection


@dataclass(frozen=True, slots=True)
class Proof:
    """A user who sent back the right code, and the address that the code had been sent to."""

    user: User
    addressee: Addressee


class CodeProofs:
    """Takes codes to log in and to set a password with."""

    def __init__(self, codes: OneTimeCodes, arrival: AccountReclaim, clock: Clock) -> None:
        self._codes = codes
        self._arrival = arrival
        self._clock = clock

    async def find_account(self, connection: Connection, purpose: Purpose, code_id: UUID) -> str:
        """Do as `OneTimeCodes.find_account`."""
        return await self._codes.find_account(connection, purpose, code_id)

    async def claim(
        self,
        connection: Connection,
        attempt: Attempt,
        purpose: Purpose,
        code: str,
        *,
        code_id: UUID | None = None,
    ) -> Proof | None:
        """Use up a code; return whose it was, or None if it is wrong or the user can't log in.

        Within the caller's transaction, which has to be committed in any case, as the try is
        counted in it. The user's row is held from then on.
        """
        user_id = await self._codes.claim(connection, attempt, purpose, code, code_id=code_id)
        user = await users.confirm(connection, user_id) if user_id is not None else None
        if user is None:
            return None
        if user.email_verify_time is None and user.has_second_factor:
            # A code is no way around a second factor (ASVS 6.4.3), nor does it make an account
            # more credible that its reader can't get into.
            addressee = await addresses.of_user(connection, user.user_id)
            current = addressee is not None and addressee.email_canonical == attempt.account
            return Proof(user, addressee) if addressee is not None and current else None
        addressee = await note_verified(connection, attempt, user.user_id, self._clock)
        if addressee is None:
            return None
        if not addressee.verified:
            user = await self._arrival.claim(connection, attempt.call, user, attempt.client)
        return Proof(user, addressee)
