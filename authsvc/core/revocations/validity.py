"""Owns how long a revocation can concern a token: also one of a longer lifetime, set before."""

import asyncio
import contextlib
from datetime import timedelta

from authsvc.errors import StoreUnavailable
from authsvc.models.clock import Clock
from authsvc.store import token_validities as store
from authsvc.store.postgres.database import Database

# Seconds after which a replica knows what another one, with other settings, issues.
_READ_SECONDS = 10.0


class TokenValidity:
    """The longest validity of the tokens that may not have expired, whichever replica issued them.

    `own` is that of the tokens which this replica issues. Another one may have other settings, and
    so may this one have had before its restart.

    While this replica doesn't yet know what another has begun to issue, nothing is forgotten too
    early: what revokes such a token is younger than that, so whoever begins to watch is sent it,
    and retention, which keeps minutes at least, doesn't remove it; and the time until which it
    matters is read with the revocation itself (`authsvc/store/revocations.py`).
    """

    def __init__(self, *, database: Database, clock: Clock, own: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._own = self._longest = own

    @property
    def longest(self) -> timedelta:
        """How long after its time a revocation can concern a token that is still valid."""
        return self._longest

    async def note(self) -> None:
        """Note what is issued here, before it is, and read what others issue.

        Raises:
            StoreUnavailable: The database did not answer.
        """
        async with self._database.connection() as connection:
            now = self._clock.now()
            await store.note(connection, self._own, now)
            self._longest = max(self._own, await store.longest(connection, now))

    async def run(self) -> None:
        """Note it again and again until cancelled; while the database is away, nothing changes."""
        while True:
            await asyncio.sleep(_READ_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await self.note()
