"""Owns the demand for a recent login, in a live session, for sensitive changes (ASVS 7.5.1)."""

from datetime import timedelta

from authsvc.errors import bearer_invalid, reauthentication_required
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.tokens import Claims
from authsvc.store import sessions
from authsvc.store.postgres.database import Connection


class RecentLogin:
    """Lets pass whose login is at most `max_age` ago."""

    def __init__(self, max_age: timedelta, clock: Clock) -> None:
        self._max_age = max_age
        self._clock = clock

    def require(self, claims: Claims) -> None:
        """Refuse a token whose login (`auth_time`) is too long ago.

        Raises:
            FailedPrecondition: REAUTHENTICATION_REQUIRED.
        """
        if self._clock.now() - claims.authentication_time > self._max_age:
            raise reauthentication_required(self._max_age.total_seconds())

    async def require_live(self, connection: Connection, session_id: SessionId) -> None:
        """Refuse a change from a session that was ended since its token was judged.

        A thief's change must not wait for the very transaction that ends the thief's session, and
        then be made. The caller's transaction holds the user's row, as does whoever ends all of a
        user's sessions.

        Raises:
            Unauthenticated: BEARER_INVALID.
        """
        if await sessions.has_ended(connection, session_id):
            raise bearer_invalid()
