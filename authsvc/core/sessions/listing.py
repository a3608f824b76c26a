"""Owns the lookup of sessions for their management: one by its id, or all of a user."""

from collections.abc import Sequence
from dataclasses import dataclass

from authsvc.core.lib import paging
from authsvc.errors import session_not_found
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.sessions import Session
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Database


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a user's sessions; `next_page_token` is "" on the last page."""

    sessions: Sequence[Session]
    next_page_token: str


class SessionListing:
    """Looks up sessions in the database, not in the cache."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, session_id: SessionId) -> Session:
        """Return a session, ended or not.

        Raises:
            NotFound: SESSION_NOT_FOUND.
        """
        async with self._database.connection() as connection:
            found = await store.find(connection, [session_id])
        if session_id not in found:
            raise session_not_found()
        return found[session_id].session

    async def list(self, user_id: UserId, page_size: int, page_token: str) -> Page:
        """Return a user's active sessions, newest first; `page_size` 0 means 50.

        Raises:
            FieldInvalid: The page size is not 0 to 1000, or the page token is not this user's.
        """
        size = paging.page_size(page_size)
        before = SessionId(paging.parse_page_token(user_id, page_token)) if page_token else None
        found = await self.list_before(user_id, before, size + 1)
        return Page(
            *paging.cut(found, size, lambda last: paging.page_token(user_id, last.session_id))
        )

    async def list_before(
        self, user_id: UserId, before: SessionId | None, limit: int
    ) -> Sequence[Session]:
        """Return up to `limit` active sessions of a user, newest first, older than `before`."""
        async with self._database.connection() as connection:
            return await store.list_active(connection, user_id, self._clock.now(), before, limit)
