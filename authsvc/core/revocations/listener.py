"""Owns hearing of revocations: what is known of them, and since when nothing was missed."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast, get_args
from uuid import UUID

import structlog

from authsvc.config import DatabaseSettings
from authsvc.errors import StoreUnavailable
from authsvc.store.revocations import PoolerError, Subscription

log = structlog.get_logger(__name__)

Kind = Literal["session", "user", "key", "api_key"]

_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 2.0


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is no longer to be accepted: a session, all of a user's, a signing key, an API key."""

    kind: Kind
    id: str


class RevocationListener:
    """Tells caches what to drop, and whether they may be used.

    `on_event` is called for each revocation, `on_gap` whenever some may have been missed: then
    everything that was cached before is to be dropped. A look-up that began before either call
    must not be cached after it.

    While `is_fresh()`, every revocation that was acknowledged longer than `staleness` ago has been
    handed to `on_event`.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        staleness: timedelta,
        on_event: Callable[[Revocation], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._database = database
        self._staleness = staleness.total_seconds()
        self._on_event = on_event
        self._on_gap = on_gap
        self._complete_until = float("-inf")
        self._backoff = _FIRST_BACKOFF
        self._said: str | None = None
        self._others: dict[str, Callable[[], None]] = {}

    def subscribe(self, channel: str, tell: Callable[[], None]) -> None:
        """Call `tell` for what is notified on another channel, and when some was missed.

        To be said before `run`: it shares the connection that revocations are heard on.
        """
        self._others[channel] = tell

    def is_fresh(self) -> bool:
        """Tell whether no revocation older than `staleness` can have been missed."""
        return time.monotonic() - self._complete_until <= self._staleness

    async def run(self) -> None:
        """Listen until cancelled; reconnect when the server is lost, ever later up to 2 seconds."""
        while True:
            try:
                await self._listen()
            except (StoreUnavailable, PoolerError) as error:
                cause = error.__cause__ or error
                self._say("revocation_listener_down", error=type(cause).__name__)
            await asyncio.sleep(self._backoff * random.uniform(0.5, 1))  # noqa: S311 - no secret
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    async def _listen(self) -> None:
        subscription = await Subscription.open(
            self._database, self._receive, patience=self._staleness, others=self._others
        )
        try:
            self._on_gap()
            for tell in self._others.values():
                tell()
            while True:
                asked = time.monotonic()
                await subscription.confirm()
                self._complete_until = asked
                self._backoff = _FIRST_BACKOFF
                self._say("revocation_listener_up")
                await asyncio.sleep(self._staleness / 4)
        finally:
            self._complete_until = float("-inf")
            subscription.close()

    def _receive(self, payload: str) -> None:
        revocation = _parse(payload)
        if revocation is None:
            log.warning("revocation_malformed")
            return
        try:
            self._on_event(revocation)
        except Exception:  # whatever went wrong, the caches may still hold what was revoked
            log.exception("revocation_handler_failed", kind=revocation.kind)
            self._on_gap()

    def _say(self, event: str, **detail: str) -> None:
        if self._said != event:
            self._said = event
            log.info(event, **detail)


def _parse(payload: str) -> Revocation | None:
    kind, _, identifier = payload.partition(":")
    if kind not in get_args(Kind) or not identifier:
        return None
    if kind != "key":
        try:
            identifier = str(UUID(identifier))
        except ValueError:
            return None
    return Revocation(cast("Kind", kind), identifier)
