"""Owns messages kept beside what they were made of, where making them costs more than the rest."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
Message = TypeVar("Message")


class MessageCache(Generic[Value, Message]):
    """The messages of the values used last, between `size` and twice `size` of them.

    A key has one message at most, and it is returned for the very object that it was made of only:
    a newer version of the same thing gets one of its own. There are two generations, of which the
    older is dropped whole, so a look-up costs little more than one access to a dictionary.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: dict[Hashable, tuple[Value, Message]] = {}
        self._old: dict[Hashable, tuple[Value, Message]] = {}

    def get(self, key: Hashable, value: Value) -> Message | None:
        """Return the message that was made of `value`, if it is kept."""
        entry = self._young.get(key)
        if entry is not None and entry[0] is value:
            return entry[1]
        entry = self._old.get(key)
        if entry is not None and entry[0] is value:
            self.put(key, *entry)
            return entry[1]
        return None

    def put(self, key: Hashable, value: Value, message: Message) -> None:
        """Keep the message that was made of `value`, in place of another of this key."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[key] = (value, message)
