"""Owns the demand for a recent login before a sensitive change (ASVS 7.5.1)."""

from datetime import timedelta

from authsvc.errors import reauthentication_required
from authsvc.models import Claims, Clock


class RecentLogin:
    """Lets pass whose login is at most `max_age` ago."""

    def __init__(self, max_age: timedelta, clock: Clock) -> None:
        self._max_age = max_age
        self._clock = clock

    def require(self, claims: Claims) -> None:
        """Refuse a token whose login (`auth_time`) is too long ago.

        Raises:
            NotPossibleNow: REAUTHENTICATION_REQUIRED.
        """
        if self._clock.now() - claims.authentication_time > self._max_age:
            raise reauthentication_required(self._max_age.total_seconds())
