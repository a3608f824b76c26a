"""Owns the cache of sessions: bounded, only sessions in force, dropped as soon as one is revoked.

A row that was read before a revocation was committed may come in after the revocation was
announced. So whoever reads rows to cache them does it within `loading`, which notices what was
dropped meanwhile and does not keep that.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

from authsvc.models import Session, SessionId, UserId


class CachedSession:
    """A session in the cache, and when its use means more than reading it.

    At `touch_time` its use is worth noting again, at `slide_time` its life is worth extending.
    """

    __slots__ = ("session", "slide_time", "token_hash", "touch_time")

    def __init__(
        self, session: Session, token_hash: bytes, touch_time: datetime, slide_time: datetime
    ) -> None:
        self.session = session
        self.token_hash = token_hash
        self.touch_time = touch_time
        self.slide_time = slide_time


class Loading:
    """One reading of rows for the cache."""

    def __init__(self, cache: "SessionCache") -> None:
        self._cache = cache
        self._dropped: set[UUID] = set()
        self._all_dropped = False

    def keep(self, entry: CachedSession) -> None:
        """Put a session that was read since the loading began into the cache, unless dropped."""
        session = entry.session
        if not self._all_dropped and self._dropped.isdisjoint(
            (session.session_id, session.user_id)
        ):
            self._cache.put(entry)

    def drop(self, key: SessionId | UserId) -> None:
        """Don't keep this session, or those of this user."""
        self._dropped.add(key)

    def drop_all(self) -> None:
        """Keep nothing."""
        self._all_dropped = True


class SessionCache:
    """The most recently used sessions, up to `max_size` (0: none), by token hash and by id."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._by_token: OrderedDict[bytes, CachedSession] = OrderedDict()
        self._by_id: dict[SessionId, CachedSession] = {}
        self._ids_of_user: dict[UserId, set[SessionId]] = {}
        self._loadings: set[Loading] = set()

    def __len__(self) -> int:
        return len(self._by_token)

    def by_token(self, token_hash: bytes) -> CachedSession | None:
        """Return the session whose token has this SHA-256."""
        entry = self._by_token.get(token_hash)
        if entry is not None:
            self._by_token.move_to_end(token_hash)
        return entry

    def by_id(self, session_id: SessionId) -> CachedSession | None:
        """Return the session with this id."""
        entry = self._by_id.get(session_id)
        if entry is not None:
            self._by_token.move_to_end(entry.token_hash)
        return entry

    @contextmanager
    def loading(self) -> Iterator[Loading]:
        """Open a reading of rows; ends with the block."""
        loading = Loading(self)
        self._loadings.add(loading)
        try:
            yield loading
        finally:
            self._loadings.remove(loading)

    def put(self, entry: CachedSession) -> None:
        """Keep a session, and forget the least recently used one if there are too many."""
        session = entry.session
        self._by_token[entry.token_hash] = entry
        self._by_token.move_to_end(entry.token_hash)
        self._by_id[session.session_id] = entry
        self._ids_of_user.setdefault(session.user_id, set()).add(session.session_id)
        if len(self._by_token) > self._max_size:
            self._forget(next(iter(self._by_token.values())))

    def drop_session(self, session_id: SessionId) -> None:
        """Forget this session, also if it is being read."""
        for loading in self._loadings:
            loading.drop(session_id)
        entry = self._by_id.get(session_id)
        if entry is not None:
            self._forget(entry)

    def drop_user(self, user_id: UserId) -> None:
        """Forget all sessions of this user, also those being read."""
        for loading in self._loadings:
            loading.drop(user_id)
        for session_id in tuple(self._ids_of_user.get(user_id, ())):
            self._forget(self._by_id[session_id])

    def drop_all(self) -> None:
        """Forget everything, also what is being read."""
        for loading in self._loadings:
            loading.drop_all()
        self._by_token.clear()
        self._by_id.clear()
        self._ids_of_user.clear()

    def _forget(self, entry: CachedSession) -> None:
        session = entry.session
        del self._by_token[entry.token_hash]
        del self._by_id[session.session_id]
        ids = self._ids_of_user[session.user_id]
        ids.remove(session.session_id)
        if not ids:
            del self._ids_of_user[session.user_id]
