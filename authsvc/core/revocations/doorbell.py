"""Owns the doorbell: it tells every process at once that there is something to read.

It only makes things quick. Whoever is rung reads what is stored, and reads it every now and then
anyway, as a ring may be lost: nothing is replayed, and behind a pooler none arrives.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from uuid import uuid4

import structlog

from authsvc.config import DatabaseSettings
from authsvc.core.lib.jitter import JITTER
from authsvc.errors import StoreUnavailable
from authsvc.store import doorbell as store
from authsvc.store.doorbell import Channel, PoolerError, Subscription
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

# Seconds in which the rings of several commits are gathered into one.
_GATHER = 0.005
_CONFIRM_INTERVAL = 5.0
_PATIENCE = 1.0
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 30.0


class Doorbell:
    """Rings after the commits of this process, and passes on the rings of all processes.

    The database calls `ring`; see `ring_after_commit` in `store/doorbell.py`.
    """

    def __init__(self, database: Database, settings: DatabaseSettings) -> None:
        self._database = database
        self._settings = settings
        self._sender = uuid4().hex
        self._answers: dict[str, list[Callable[[], None]]] = {}
        self._gathered: set[str] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._backoff = _FIRST_BACKOFF
        self._last_logged = ""
        database.on_commit(self.ring)
        database.on_leave(self._hang_up)

    @property
    def is_listening(self) -> bool:
        """Whether the rings of other processes are received."""
        return self._subscription is not None

    def answer(self, channel: Channel, callback: Callable[[], None]) -> None:
        """Call `callback` for each ring on this channel, and when some may have been lost."""
        self._answers.setdefault(channel, []).append(callback)

    def ring(self, channels: frozenset[str]) -> None:
        """Ring these channels within a few milliseconds, in this process and all others."""
        self._gathered |= channels
        if self._ringing is None:
            # Not in the context of the call that happens to be the first.
            ring = self._ring_gathered()
            self._ringing = asyncio.create_task(ring, name="doorbell", context=Context())

    async def close(self) -> None:
        """Send what is gathered, if that takes no more than a second."""
        if self._ringing is not None:
            await asyncio.wait([self._ringing], timeout=_PATIENCE)
            # It may still wait for a connection.
            if self._ringing is not None:
                self._ringing.cancel()

    async def run(self) -> None:
        """Listen until cancelled; reconnect with a backoff when the connection is lost."""
        while True:
            try:
                await self._listen()
            except (StoreUnavailable, PoolerError) as error:
                cause = error.__cause__ or error
                self._log_once("doorbell_down", error=type(cause).__name__)
            else:
                self._log_once("doorbell_down", error="ConnectionLost")
            await asyncio.sleep(self._backoff * JITTER.uniform(0.5, 1))
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)

    async def _ring_gathered(self) -> None:
        try:
            while self._gathered:
                await asyncio.sleep(_GATHER)
                channels, self._gathered = self._gathered, set()
                for channel in channels:
                    self._call(channel)
                try:
                    async with self._database.connection() as connection:
                        await store.notify(connection, channels, self._sender)
                except StoreUnavailable:
                    log.debug("doorbell_not_rung")
        finally:
            self._ringing = None

    async def _listen(self) -> None:
        lost = asyncio.Event()
        subscription = await Subscription.open(self._settings, self._receive, lost.set)
        self._subscription = subscription
        try:
            self._backoff = _FIRST_BACKOFF
            self._log_once("doorbell_up")
            for channel in Channel:
                self._call(channel)
            while not lost.is_set():
                try:
                    async with asyncio.timeout(_CONFIRM_INTERVAL):
                        await lost.wait()
                except TimeoutError:
                    await subscription.confirm()
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _receive(self, channel: Channel, sender: str) -> None:
        # This process was told when it rang.
        if sender != self._sender:
            self._call(channel)

    def _call(self, channel: str) -> None:
        for callback in self._answers.get(channel, ()):
            callback()

    def _log_once(self, event: str, **detail: str) -> None:
        if self._last_logged != event:
            self._last_logged = event
            log.info(event, **detail)
