"""Owns the batched reading of sessions from the database, and the caching of the results.

Lookups that arrive while a statement is in flight form the next batch, so a result is never older
than its request.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.lib.batching import Batcher
from authsvc.core.sessions.cache import CachedSession, SessionCache
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId
from authsvc.models.roles import capped
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.sessions import StoredSession

# Rows per statement, and callers that may wait. Rows are read into objects without a pause, so
# more would keep the event loop.
_MAX_BATCH = 50
_MAX_WAITING = 20_000

Key = TypeVar("Key")


class SessionReader:
    """Reads sessions by token hash or id, and extends them; returns None for an unknown session."""

    def __init__(
        self,
        *,
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
        self._by_token = Batcher(
            run=self._read_by_token, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING
        )
        self._by_id = Batcher(run=self._read_by_id, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING)
        self._extensions = Batcher(run=self._extend, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING)

    async def by_token(self, token_hash: bytes) -> CachedSession | None:
        """Return the session whose token has this SHA-256, ended or not."""
        return await self._by_token.submit(token_hash)

    async def by_tokens(self, hashes: Sequence[bytes]) -> list[CachedSession | None]:
        """Return the sessions whose tokens have these SHA-256, in order."""
        return await self._by_token.submit_many(hashes)

    async def by_id(self, session_id: SessionId) -> CachedSession | None:
        """Return the session with this id, ended or not."""
        return await self._by_id.submit(session_id)

    async def by_ids(self, ids: Sequence[SessionId]) -> list[CachedSession | None]:
        """Return the sessions with these ids, in order."""
        return await self._by_id.submit_many(ids)

    async def extend(self, session_id: SessionId) -> CachedSession | None:
        """Reset the idle lifetime of an active session and return it.

        Return None if it is no longer active or another transaction has locked it.
        """
        return await self._extensions.submit(session_id)

    async def extend_many(self, ids: Sequence[SessionId]) -> list[CachedSession | None]:
        """Extend several sessions as `extend` does, in order."""
        return await self._extensions.submit_many(ids)

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
                if entry.session.is_in_force(now):
                    loading.keep(entry)
        return [entries.get(key) for key in keys]

    def _entry(self, stored: StoredSession) -> CachedSession:
        session = stored.session
        slide_time = session.idle_expire_time
        if slide_time < session.absolute_expire_time:
            slide_time -= capped(session.idle_lifetime, self._idle_lifetime) / 2
        touch_time = session.last_use_time + self._touch_interval
        return CachedSession(
            session=session,
            token_hash=stored.token_hash,
            touch_time=touch_time,
            slide_time=slide_time,
        )
