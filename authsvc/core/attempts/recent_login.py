"""Owns the requirement of a recent login and a live session for sensitive changes (ASVS 7.5.1)."""

from datetime import timedelta

from authsvc.errors import bearer_invalid, reauthentication_required
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.tokens import Claims
from authsvc.store import sessions
from authsvc.store.postgres.database import Connection


class RecentLogin:
    """Requires a login at most `max_age` ago."""

    def __init__(self, max_age: timedelta, clock: Clock) -> None:
        self._max_age = max_age
        self._clock = clock

    def require(self, claims: Claims) -> None:
        """Reject a token whose login (`auth_time`) is too long ago.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
        """
        if self._clock.now() - claims.authentication_time > self._max_age:
            raise reauthentication_required(self._max_age.total_seconds())

    async def require_live(self, connection: Connection, session_id: SessionId) -> None:
        """Reject a change from a session that has ended since its token was validated.

        Otherwise a thief's change could wait for the very transaction that ends the thief's session
        and be made after it. The caller's transaction holds the user's row, and so does every
        transaction that ends all of a user's sessions.

        Raises:
            Unauthenticated: BEARER_INVALID.
        """
        if await sessions.has_ended(connection, session_id):
            raise bearer_invalid()
