"""Owns a cache of messages built from domain values, where building them is the main cost."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
Message = TypeVar("Message")


class MessageCache(Generic[Value, Message]):
    """The messages of the most recently used values, between `size` and twice `size` of them.

    A key has at most one message, which is returned only for the very object that it was built
    from: a newer version of the same value gets its own. There are two generations, and the older
    one is dropped as a whole, so a lookup costs little more than a dictionary access.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[Hashable, tuple[Value, Message]] = {}
        self._old: dict[Hashable, tuple[Value, Message]] = {}

    def get(self, key: Hashable, value: Value) -> Message | None:
        """Return the cached message that was built from `value`, or None."""
        entry = self._young.get(key)
        if entry is not None and entry[0] is value:
            return entry[1]
        entry = self._old.get(key)
        if entry is not None and entry[0] is value:
            self.put(key, *entry)
            return entry[1]
        return None

    def put(self, key: Hashable, value: Value, message: Message) -> None:
        """Cache the message that was built from `value`, replacing any other with this key."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = (value, message)
