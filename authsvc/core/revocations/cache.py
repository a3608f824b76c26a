"""Owns caches of what can be revoked: bounded, and whatever is revoked is dropped at once.

A row that was read before a revocation was committed may come in after the revocation was
announced. So whoever reads rows to cache them does it within `loading`, which notices what was
dropped meanwhile and does not keep that.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from authsvc.models.ids import UserId


class Revocable(Protocol):
    """What such a cache holds: found by the hash of its secret or by its id, dropped by its user's.

    Its three names never change.
    """

    @property
    def token_hash(self) -> bytes:
        """The SHA-256 of its secret."""

    @property
    def id(self) -> UUID:
        """Its public id."""

    @property
    def user_id(self) -> UserId:
        """Whose it is."""


Entry = TypeVar("Entry", bound=Revocable)


class Loading(Generic[Entry]):
    """One reading of rows for a cache."""

    def __init__(self, cache: "RevocableCache[Entry]") -> None:
        self._cache = cache
        self._dropped: set[UUID] = set()
        self._all_dropped = False

    def keep(self, entry: Entry) -> None:
        """Put what was read since the loading began into the cache, unless it was dropped."""
        if not self._all_dropped and self._dropped.isdisjoint((entry.id, entry.user_id)):
            self._cache.put(entry)

    def drop(self, key: UUID) -> None:
        """Don't keep what has this id, or is this user's."""
        self._dropped.add(key)

    def drop_all(self) -> None:
        """Keep nothing."""
        self._all_dropped = True


class RevocableCache(Generic[Entry]):
    """The most recently used entries, up to `max_size` (0: none), by token hash and by id."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._by_token: OrderedDict[bytes, Entry] = OrderedDict()
        self._by_id: dict[UUID, Entry] = {}
        self._ids_of_user: dict[UserId, set[UUID]] = {}
        self._loadings: set[Loading[Entry]] = set()

    def __len__(self) -> int:
        return len(self._by_token)

    def by_token(self, token_hash: bytes) -> Entry | None:
        """Return the entry whose secret has this SHA-256."""
        entry = self._by_token.get(token_hash)
        if entry is not None:
            self._by_token.move_to_end(token_hash)
        return entry

    def by_id(self, key: UUID) -> Entry | None:
        """Return the entry with this id."""
        entry = self._by_id.get(key)
        if entry is not None:
            self._by_token.move_to_end(entry.token_hash)
        return entry

    @contextmanager
    def loading(self) -> Iterator[Loading[Entry]]:
        """Open a reading of rows; ends with the block."""
        loading = Loading(self)
        self._loadings.add(loading)
        try:
            yield loading
        finally:
            self._loadings.remove(loading)

    def put(self, entry: Entry) -> None:
        """Keep an entry, and forget the least recently used one if there are too many."""
        self._by_token[entry.token_hash] = entry
        self._by_token.move_to_end(entry.token_hash)
        self._by_id[entry.id] = entry
        self._ids_of_user.setdefault(entry.user_id, set()).add(entry.id)
        if len(self._by_token) > self._max_size:
            self._forget(next(iter(self._by_token.values())))

    def drop(self, key: UUID) -> None:
        """Forget what has this id, also if it is being read."""
        for loading in self._loadings:
            loading.drop(key)
        entry = self._by_id.get(key)
        if entry is not None:
            self._forget(entry)

    def drop_user(self, user_id: UserId) -> None:
        """Forget all that this user has, also what is being read."""
        for loading in self._loadings:
            loading.drop(user_id)
        for key in tuple(self._ids_of_user.get(user_id, ())):
            self._forget(self._by_id[key])

    def drop_all(self) -> None:
        """Forget everything, also what is being read."""
        for loading in self._loadings:
            loading.drop_all()
        self._by_token.clear()
        self._by_id.clear()
        self._ids_of_user.clear()

    def _forget(self, entry: Entry) -> None:
        del self._by_token[entry.token_hash]
        del self._by_id[entry.id]
        ids = self._ids_of_user[entry.user_id]
        ids.remove(entry.id)
        if not ids:
            del self._ids_of_user[entry.user_id]
