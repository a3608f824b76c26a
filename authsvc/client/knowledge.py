"""Owns what a process knows from the service: the keys, what was revoked, and up to when.

All verifiers of one client share it. Only the feed writes what was revoked, in one thread, and
whoever changes the keys takes their lock. Any number of threads read without a lock, as everything
is replaced as a whole and what was revoked is noted before the time up to which it is known. So
readers look at that time first.
"""

import os
import time
from collections import Counter
from weakref import WeakSet

from authsvc.client import tokens
from authsvc.client.cursors import read_revocation_cursor, read_watch_cursor
from authsvc.client.freshness import KnownUntil
from authsvc.client.key_set import KeySet
from authsvc.client.revoked import Revoked
from authsvc.v1.session_service_pb2 import Revocation, WatchRevocationsResponse

# Seconds for which an expired revocation is kept: a clock may be set back.
_MARGIN = 300.0
_NANO = 1e-9


class Knowledge:
    """The keys and revocations of a service, as far as they have arrived.

    Attributes:
        keys: The published keys.
        revoked: The sessions and users that were revoked.
        known_until: Up to when all revocations are known.
        swept_until: Revocations that expired by then may be forgotten: tokens that did are refused,
            even if the clock is set back.
        cursor: Where the stream continues; "" to begin anew.
        is_lost: Whether the process was forked: nothing arrives in the child.
        counts: How often something was done to know more.
    """

    def __init__(self) -> None:
        self.keys = KeySet()
        self.revoked = Revoked()
        self.known_until = KnownUntil()
        self.cursor = ""
        self.swept_until = float("-inf")
        self.is_lost = False
        self.counts = Counter(streams=0, snapshots=0, key_fetches=0, key_fetches_failed=0)
        self._complete_cursor = ""
        _all.add(self)

    def is_usable(self, now: float) -> bool:
        """Return whether a complete list of what was revoked has arrived, and keys."""
        return self.known_until.time > float("-inf") and self.keys.is_usable(now)

    def receive(self, response: WatchRevocationsResponse, now: float) -> bool:
        """Take in a response of the stream; return whether the stream can still be dated.

        Raises:
            ValueError: It is not one of this service; nothing counts as known because of it.
        """
        for revocation in response.revocations:
            self._apply(revocation)
        self.cursor = response.cursor
        until = response.known_until_time.seconds + response.known_until_time.nanos * _NANO
        if response.complete:
            self.counts["snapshots"] += self.known_until.time == float("-inf")
            self._complete_cursor = response.cursor
        is_datable = self.known_until.receive(until, is_complete=response.complete, now=now)
        # What has expired on one of the two clocks may still be accepted by the other.
        expired = min(until, time.time()) - _MARGIN
        self.swept_until = max(self.swept_until, expired)
        self.revoked.sweep(expired)
        self.keys.sweep(expired)
        return is_datable

    def begin_anew(self) -> None:
        """Read everything again, as something may be missing; what is known goes on to refuse."""
        self.known_until.forget()
        self.cursor = ""

    def has_reached(self, min_cursor: str) -> bool:
        """Return whether the revocation that a cursor names is known; never for other texts."""
        try:
            return read_watch_cursor(self._complete_cursor).knows(
                read_revocation_cursor(min_cursor)
            )
        except ValueError:
            return False

    def lose(self) -> None:
        """Know nothing from now on, as nothing arrives any more."""
        self.is_lost = True
        self.known_until.forget()
        self.keys.lose()

    def _apply(self, revocation: Revocation) -> None:
        expires = float(revocation.expire_time.seconds)
        match revocation.WhichOneof("subject"):
            case "session_id":
                self.revoked.add_session(tokens.uuid_bytes(revocation.session_id), expires)
            case "user_id":
                user = tokens.uuid_bytes(revocation.user_id)
                self.revoked.add_user(user, revocation.revoke_time.seconds, expires)
            case "key_id":
                self.keys.revoke(revocation.key_id, expires)
            case _:
                # Access tokens have nothing to do with API keys, nor with what is still to come.
                return


_all: WeakSet[Knowledge] = WeakSet()


def _lose_all() -> None:
    for knowledge in list(_all):
        knowledge.lose()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_all)
