"""Owns caches of revocable objects: bounded, and whatever is revoked is dropped at once.

A row that was read before a revocation was committed may arrive after the revocation was announced.
Rows to be cached are therefore read within `loading`, which notes what is dropped in the meantime
and does not keep it.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from authsvc.models.ids import UserId
from authsvc.models.revocations import Kind, Revocation


class Revocable(Protocol):
    """An object that can be cached: found by the hash of its secret or its id, dropped by user.

    The three values never change.
    """

    @property
    def token_hash(self) -> bytes:
        """The SHA-256 of its secret."""

    @property
    def id(self) -> UUID:
        """Its public id."""

    @property
    def user_id(self) -> UserId:
        """The user that it belongs to."""


Entry = TypeVar("Entry", bound=Revocable)


class Loading(Generic[Entry]):
    """One read of rows for a cache."""

    def __init__(self, cache: "RevocableCache[Entry]") -> None:
        self._cache = cache
        self._dropped: set[UUID] = set()
        self._all_dropped = False

    def keep(self, entry: Entry) -> None:
        """Cache an entry read since the loading began, unless it has been dropped since then."""
        if not self._all_dropped and self._dropped.isdisjoint((entry.id, entry.user_id)):
            self._cache.put(entry)

    def drop(self, key: UUID) -> None:
        """Do not keep the entry with this id, or the entries of the user with this id."""
        self._dropped.add(key)

    def drop_all(self) -> None:
        """Do not keep anything."""
        self._all_dropped = True


class RevocableCache(Generic[Entry]):
    """The most recently used entries, up to `max_size` (0: none), by token hash and by id.

    `kind` is the kind under which revocations name its entries.
    """

    def __init__(self, kind: Kind, max_size: int) -> None:
        self._kind = kind
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
        """Surround a read of rows to be cached."""
        loading = Loading(self)
        self._loadings.add(loading)
        try:
            yield loading
        finally:
            self._loadings.remove(loading)

    def put(self, entry: Entry) -> None:
        """Cache an entry, and evict the least recently used one if there are too many."""
        self._by_token[entry.token_hash] = entry
        self._by_token.move_to_end(entry.token_hash)
        self._by_id[entry.id] = entry
        self._ids_of_user.setdefault(entry.user_id, set()).add(entry.id)
        if len(self._by_token) > self._max_size:
            self._forget(next(iter(self._by_token.values())))

    def on_revocation(self, revocation: Revocation) -> None:
        """Drop what was revoked; called for every announced revocation."""
        if revocation.kind == self._kind:
            self.drop(UUID(revocation.id))
        elif revocation.kind == "user":
            self.drop_user(UserId(UUID(revocation.id)))

    def drop(self, key: UUID) -> None:
        """Drop the entry with this id, even if it is still being read."""
        for loading in self._loadings:
            loading.drop(key)
        entry = self._by_id.get(key)
        if entry is not None:
            self._forget(entry)

    def drop_user(self, user_id: UserId) -> None:
        """Drop all entries of this user, including those still being read."""
        for loading in self._loadings:
            loading.drop(user_id)
        for key in tuple(self._ids_of_user.get(user_id, ())):
            self._forget(self._by_id[key])

    def drop_all(self) -> None:
        """Drop everything, including what is still being read: revocations may have been missed."""
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
