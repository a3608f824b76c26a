"""Owns what becomes of an account when the owner of its address comes, who didn't make it.

Whoever made it never proved the address, and may wait for the owner to use it (Sudhodanan and
Paverd, "Pre-hijacked accounts", 2022): nothing of it stays that could be come back with.
"""

from dataclasses import replace

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.sessions.sessions import Sessions
from authsvc.models.calls import Call, ClientContext
from authsvc.models.clock import Clock
from authsvc.models.sessions import RevokeReason
from authsvc.models.users import User
from authsvc.store import owner_arrival, revocations
from authsvc.store.postgres.database import Connection


class AccountReclaim:
    """Hands accounts over to the owners of their addresses."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    async def reclaim(
        self, connection: Connection, call: Call, owner: User, client: ClientContext
    ) -> None:
        """Leave of the account of `owner`, whose address was never proved, but what this says.

        Sessions end; password, factors, codes, identities, API keys and devices are gone. Within
        the caller's transaction, which holds the user's row.
        """
        now = self._clock.now()
        reason = RevokeReason.OWNER_ARRIVED
        await self._sessions.revoke_in(connection, call, owner.user_id, reason)
        await owner_arrival.take_over(connection, owner, now)
        await revocations.append(connection, now, user_id=owner.user_id)
        event = AuditEvent(AuditType.OWNER_ARRIVED, call, owner.user_id, client=client)
        await record_event(connection, now, event)

    async def claim(
        self, connection: Connection, call: Call, user: User, client: ClientContext
    ) -> User:
        """Hand an account over to who just proved its address, for the first time, by a code.

        Return the account as it is then: without a name, as that may be somebody else's.
        """
        proved = self._clock.now()
        owner = replace(user, display_name="", email_verify_time=proved, has_second_factor=False)
        await self.reclaim(connection, call, owner, client)
        return owner
