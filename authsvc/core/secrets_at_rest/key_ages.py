"""Owns how long the newest key of the keyring and the newest pepper have been in use."""

from datetime import datetime

from authsvc.models.clock import Clock
from authsvc.store import key_first_uses as store
from authsvc.store.postgres.database import Database


class KeyAges:
    """Ages of the newest key and the newest pepper, in seconds, from when any replica used them.

    They are stored at the start, and known from then on without the database. What was in use
    before there was a place to store it counts from then.
    """

    def __init__(
        self, *, database: Database, newest_key_id: str, newest_pepper_id: str, clock: Clock
    ) -> None:
        self._database = database
        self._ids = (newest_key_id, newest_pepper_id)
        self._clock = clock
        self._since: tuple[datetime, datetime] | None = None

    async def note(self) -> None:
        """Note that they are in use; may raise StoreUnavailable."""
        async with self._database.connection() as connection:
            self._since = await store.note(connection, *self._ids, self._clock.now())

    def keyring(self) -> float | None:
        """Return the age of the newest key; None before `note`."""
        return self._since and self._age(self._since[0])

    def pepper(self) -> float | None:
        """Return the age of the newest pepper; None before `note`."""
        return self._since and self._age(self._since[1])

    def _age(self, since: datetime) -> float:
        return (self._clock.now() - since).total_seconds()
