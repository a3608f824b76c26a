"""Owns what is sent to all watchers of revocations: each message once, for as long as it may wait.

Every watcher has its own place in one sequence, so a slow one costs no memory of its own and delays
nobody; once what it has not been sent yet is gone, it is told to go elsewhere.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from authsvc.store.log_reading import Position

# Messages and revocations that are kept: at ten messages a second, more than a minute.
_MAX_MESSAGES = 1_000
_MAX_REVOCATIONS = 50_000

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Sent(Generic[Message]):
    """A message, and how many revocations it has.

    Whoever has been sent it is at `reached`. It is only needed by those who don't know all that is
    known at `end`: of several messages up to the same end, only the last one reaches it.
    """

    message: Message
    count: int
    reached: Position
    end: Position


class Broadcast(Generic[Message]):
    """The last messages; each begins where the one before ends, since the last `restart`.

    They are numbered from `first` to `end`, which is the number of the next one.
    """

    def __init__(self) -> None:
        self._messages: deque[Sent[Message]] = deque()
        self._start: Position | None = None
        self._restarted = 0
        self._revocations = 0
        self.first = 0

    @property
    def end(self) -> int:
        """The number of the next message."""
        return self.first + len(self._messages)

    @property
    def position(self) -> Position | None:
        """Where a watcher is that has been sent everything; None before the first `restart`."""
        return self._messages[-1].reached if self._messages else self._start

    def restart(self, position: Position) -> None:
        """Begin anew at a position: what was committed before, and not sent, is not in here."""
        self.first = self._restarted = self.end + 1
        self._messages.clear()
        self._revocations = 0
        self._start = position

    def append(self, sent: Sent[Message]) -> None:
        """Append a message."""
        self._messages.append(sent)
        self._revocations += sent.count
        while len(self._messages) > 1 and (
            len(self._messages) > _MAX_MESSAGES or self._revocations > _MAX_REVOCATIONS
        ):
            oldest = self._messages.popleft()
            self._revocations -= oldest.count
            self._start = oldest.end
            self.first += 1

    def find(self, position: Position) -> int | None:
        """Return the number of the message to go on with from a position; None if it is gone."""
        start = self._start
        if start is None or start.run_id != position.run_id or not position.covers(start):
            return None
        found = bisect_left(self._messages, True, key=lambda sent: not position.covers(sent.end))
        return self.first + found

    def get(self, number: int) -> Sent[Message]:
        """Return a message from `first` to before `end`."""
        return self._messages[number - self.first]

    def is_gap(self, number: int) -> bool:
        """Return whether the broadcast began anew, so that a number from before is no place."""
        return number < self._restarted
