"""Owns the reclaim of an account by the owner of its address, who did not create it.

Its creator never verified the address, and may be waiting for the owner to use the account
(Sudhodanan and Paverd, "Pre-hijacked accounts", 2022), so nothing is kept with which the creator
could get back in.
"""

from dataclasses import replace

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.revocations.user_tokens import revoke_tokens
from authsvc.core.sessions.ending import SessionEnding
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.sessions import RevokeReason
from authsvc.models.users import LockedUser
from authsvc.store import reclaim
from authsvc.store.postgres.database import Connection


class AccountReclaim:
    """Transfers accounts to the owners of their addresses."""

    def __init__(self, sessions: SessionEnding, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def reclaim(
        self, connection: Connection, call: Call, owner: LockedUser, client: ClientContext
    ) -> LockedUser:
        """Reset an account whose address was never verified to the values of `owner`.

        Its sessions are ended; its password, factors, codes, identities, API keys and devices are
        deleted. Return the account after that. Runs in the caller's transaction, which has locked
        the user's row.
        """
        now = self._clock.now()
        reason = RevokeReason.OWNER_ARRIVED
        await self._sessions.revoke_in(connection, call, owner.user_id, reason)
        await reclaim.take_over(connection, owner, now)
        token_revoke_time = await revoke_tokens(connection, owner.user_id, now)
        event = AuditEvent(AuditType.OWNER_ARRIVED, call, owner.user_id, client=client)
        await record_event(connection, now, event)
        return replace(owner, token_revoke_time=token_revoke_time)

    async def claim(
        self, connection: Connection, call: Call, user: LockedUser, client: ClientContext
    ) -> LockedUser:
        """Transfer an account to the user who verified its address by a code, for the first time.

        Return the account after that: without a name, as that may be somebody else's.
        """
        now = self._clock.now()
        owner = replace(user, display_name="", email_verify_time=now, has_second_factor=False)
        return await self.reclaim(connection, call, owner, client)
