"""Owns the reading of sessions from the database, many at once, and the keeping of what was read.

Whatever is asked for while one statement is in flight forms the next, so an answer is never older
than its question.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TypeVar

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.lib.batching import Batcher
from authsvc.core.sessions.cache import CachedSession, SessionCache
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.sessions import Session
from authsvc.models.users import UserStatus
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.sessions import StoredSession

# Rows of one statement, and callers that may wait for theirs.
_MAX_BATCH = 1_000
_MAX_WAITING = 20_000

Key = TypeVar("Key")


class SessionReader:
    """Reads sessions by token hash or id, or extends them; None is a session that isn't there."""

    def __init__(
        self,
        database: Database,
        cache: SessionCache,
        settings: SessionSettings,
        tokens: TokenSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._cache = cache
        self._touch_interval = settings.last_use_interval
        self._idle_lifetime = tokens.refresh_lifetime
        self._clock = clock
        self._by_token = Batcher(self._read_by_token, _MAX_BATCH, _MAX_WAITING)
        self._by_id = Batcher(self._read_by_id, _MAX_BATCH, _MAX_WAITING)
        self._extensions = Batcher(self._extend, _MAX_BATCH, _MAX_WAITING)

    async def by_token(self, token_hash: bytes) -> CachedSession | None:
        """Return the session whose token has this SHA-256, ended or not."""
        return await self._by_token.submit(token_hash)

    async def by_id(self, session_id: SessionId) -> CachedSession | None:
        """Return the session with this id, ended or not."""
        return await self._by_id.submit(session_id)

    async def extend(self, session_id: SessionId) -> CachedSession | None:
        """Give an active session its whole idle life again and return it.

        None: it is no longer active, or another transaction holds it.
        """
        return await self._extensions.submit(session_id)

    async def _read_by_token(self, hashes: list[bytes]) -> list[CachedSession | None]:
        return await self._read(hashes, store.find_by_token)

    async def _read_by_id(self, ids: list[SessionId]) -> list[CachedSession | None]:
        return await self._read(ids, store.find)

    async def _extend(self, ids: list[SessionId]) -> list[CachedSession | None]:
        now = self._clock.now()
        return await self._read(
            ids,
            lambda connection, _: store.extend(connection, ids, now, now + self._idle_lifetime),
        )

    async def _read(
        self,
        keys: list[Key],
        query: Callable[[Connection, list[Key]], Awaitable[Mapping[Key, StoredSession]]],
    ) -> list[CachedSession | None]:
        with self._cache.loading() as loading:
            async with self._database.connection() as connection:
                found = await query(connection, keys)
            entries = {key: self._entry(stored) for key, stored in found.items()}
            now = self._clock.now()
            for entry in entries.values():
                if is_in_force(entry.session, now):
                    loading.keep(entry)
        return [entries.get(key) for key in keys]

    def _entry(self, stored: StoredSession) -> CachedSession:
        session = stored.session
        slide_time = session.idle_expire_time
        if slide_time < session.absolute_expire_time:
            slide_time -= self._idle_lifetime / 2
        touch_time = session.last_use_time + self._touch_interval
        return CachedSession(session, stored.token_hash, touch_time, slide_time)


def is_in_force(session: Session, now: datetime) -> bool:
    """Return whether what was issued under the session still counts, be it idle or not."""
    return (
        session.revoke_time is None
        and session.user_status is UserStatus.ACTIVE
        and now < session.absolute_expire_time
    )
