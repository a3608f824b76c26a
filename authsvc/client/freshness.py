"""Owns how much a watcher knows: up to when, on its own clock, all that was revoked has arrived."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

# The seconds since some fixed moment, whatever happens to the machine's clock. They count while the
# machine is suspended, too; elsewhere than on Linux there is no such clock.
elapsed = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

# Seconds by which a response may seem to come before it was sent: how much two clocks drift apart
# while a stream lasts (500 parts per million of five minutes is the most that NTP corrects).
_DRIFT = 0.15


@dataclass(frozen=True, slots=True)
class Freshness:
    """How much a verifier knows.

    Attributes:
        status: "fresh": everything that was acknowledged longer ago than `max_staleness` is known.
            "stale": not so any more, but all that was acknowledged before `age` seconds ago.
            "unusable": it has no complete list of what was revoked, or no keys.
        age: The seconds within which a revocation may be unknown; infinite if unusable.
    """

    status: Literal["fresh", "stale", "unusable"]
    age: float


class KnownUntil:
    """The time, on the watcher's clock (`elapsed`), before which everything acknowledged is known.

    A request was sent at `s`. The first response carries the database's time `k0`, which is later
    than the request; a later one carries `k`. So what was acknowledged before `s + (k - k0)` is
    known, whatever the clocks show and however long responses were on their way. Nothing is known
    from after the moment when a response arrived.
    """

    def __init__(self) -> None:
        self.time = float("-inf")
        self._sent = 0.0
        self._first: float | None = None

    def open(self, now: float) -> None:
        """Begin a stream: its request is sent after this call."""
        self._sent, self._first = now, None

    def receive(self, known_until: float, *, is_complete: bool, now: float) -> bool:
        """Take note of a response; return whether the two clocks still run alike.

        They don't if something seems to be known before it was sent: the database's clock was set
        forward, and only a new stream tells how they compare.
        """
        if self._first is None:
            self._first = known_until
        until = self._sent + (known_until - self._first)
        # NaN and times of other centuries compare as false, or are clamped.
        if is_complete and until > self.time:
            self.time = min(until, now)
        return until <= now + _DRIFT

    def forget(self) -> None:
        """Know nothing, until a response is complete again."""
        self.time = float("-inf")
