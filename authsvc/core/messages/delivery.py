"""Owns the delivery of what is in the outbox: who tries when, how often, and when it is given up.

At least once: a message is marked as sent after it was handed over, so a crash in between hands it
over again, with the same id. Any number of replicas share the work.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from authsvc.config import DeliverySettings
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.messages.outbox import Message, MessageKind, unseal
from authsvc.core.messages.templates import RenderedMessage, Renderer, template_context
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.store import outbox
from authsvc.store.outbox import StoredMessage
from authsvc.store.postgres.database import Database

log = structlog.get_logger(__name__)

CHANNEL = "authsvc_outbox"
_SYSTEM = Call(request_id="", caller="system")
# More than storing the outcome takes: nobody else tries what is being tried.
_LEASE_MARGIN = timedelta(seconds=30)
_POLL_SECONDS = 5.0
_LONGEST_EXPONENT = 32


class NotDelivered(Exception):
    """A message was not handed over: `error` says why in a word, never what a server answered.

    `permanent`: trying again is of no use. `retry_after`: seconds that the other side asks for.
    """

    def __init__(
        self, error: str, *, permanent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(error)
        self.error = error
        self.permanent = permanent
        self.retry_after = retry_after


class Channel(Protocol):
    """Hands messages over to what brings them to the user."""

    name: str
    limit: timedelta

    async def send(self, rendered: RenderedMessage) -> None:
        """Hand the message over within `limit`, or raise NotDelivered."""

    async def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, slots=True)
class Transport:
    """The way that messages go: None is no way, and messages wait until there is one or expire."""

    channel: Channel
    renderer: Renderer


def _uncounted(_outcome: str) -> None:
    """Count nothing."""


class Deliverer:
    """Delivers messages, `settings.parallel` at once.

    `pending` and `abandoned` are how many there were lately; `count` is told of each attempt that
    it led to "sent", "retried" or "abandoned".
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        post: Transport | None,
        settings: DeliverySettings,
        clock: Clock,
        count: Callable[[str], object] = _uncounted,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._post = post
        self._settings = settings
        self._clock = clock
        self._tell = count
        limit = post.channel.limit if post else timedelta()
        self._lease = limit + _LEASE_MARGIN
        self._wake = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._next_count = 0.0
        self.pending = self.abandoned = 0

    def wake(self) -> None:
        """Look for messages now: some may have been written."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver what is due, as it falls due, until stopped or cancelled."""
        while not self._stopping:
            self._wake.clear()
            try:
                full = await self._start_due()
                await self._count_sometimes()
            except StoreUnavailable:
                log.warning("outbox_read_failed")
                full = False
            if not full:
                await self._rest()

    async def deliver_due(self) -> None:
        """Deliver all that is due now, and return when each was tried."""
        while await self._start_due() or self._sending:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, patience: timedelta) -> None:
        """Begin nothing more, and wait for what was begun, but no longer than `patience`.

        What is not finished by then is tried again, by whoever runs, when its lease has ended.
        """
        self._stopping = True
        self.wake()
        if self._sending:
            await asyncio.wait(self._sending, timeout=patience.total_seconds())
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._post:
            await self._post.channel.close()

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_due(self) -> bool:
        """Begin as many as may be under way; return whether there may be more to begin."""
        free = self._settings.parallel - len(self._sending)
        if free <= 0 or self._stopping:
            return False
        now = self._clock.now()
        async with self._database.connection() as connection:
            claimed = await outbox.claim(
                connection, now, now + self._lease, free, only_expired=self._post is None
            )
        for message in claimed:
            task = asyncio.create_task(self._deliver(message))
            self._sending.add(task)
            task.add_done_callback(self._ended)
        return len(claimed) == free

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self.wake()

    async def _count_sometimes(self) -> None:
        if time.monotonic() < self._next_count:
            return
        self._next_count = time.monotonic() + _POLL_SECONDS
        async with self._database.connection() as connection:
            self.pending, self.abandoned = await outbox.count(connection)

    async def _deliver(self, stored: StoredMessage) -> None:
        try:
            await self._try(stored)
        except StoreUnavailable:
            # The lease ends, and then somebody tries again.
            log.warning("message_outcome_not_stored", message_id=str(stored.message_id))
        except Exception:
            log.exception("delivery_attempt_failed", message_id=str(stored.message_id))

    async def _try(self, stored: StoredMessage) -> None:
        if self._post is None or self._clock.now() >= stored.expire_time:
            await self._abandon(stored, stored.last_error or "expired")
            return
        try:
            await self._post.channel.send(self._letter(stored, self._post.renderer))
        except NotDelivered as failure:
            await self._failed(stored, failure)
        except SealError:
            # Perhaps a key is missing here only, and another replica or the next start has it.
            await self._failed(stored, NotDelivered("unreadable"))
        except Exception as error:  # noqa: BLE001 - the message waits, the others go on
            # Not what it says: it may quote the message.
            log.error("message_rendering_failed", kind=stored.kind, error=type(error).__name__)  # noqa: TRY400
            await self._failed(stored, NotDelivered("internal"))
        else:
            async with self._database.connection() as connection:
                await outbox.mark_sent(connection, stored.message_id, self._clock.now())
            self._say("sent", stored)

    def _letter(self, stored: StoredMessage, renderer: Renderer) -> RenderedMessage:
        message = self._open(stored)
        settings = self._settings
        view = template_context(message, stored.create_time, settings.product, settings.links)
        return RenderedMessage(
            stored.message_id, message, stored.create_time, renderer.render(view)
        )

    def _open(self, stored: StoredMessage) -> Message:
        kind = MessageKind(stored.kind)
        return unseal(self._keyring, stored.message_id, kind, stored.user_id, stored.sealed_content)

    async def _failed(self, stored: StoredMessage, failure: NotDelivered) -> None:
        if failure.permanent:
            await self._abandon(stored, failure.error)
            return
        next_time = self._clock.now() + self._pause(stored.attempts, failure.retry_after)
        async with self._database.connection() as connection:
            # When it has expired it is looked at once more, to be given up.
            await outbox.postpone(
                connection, stored, min(next_time, stored.expire_time), failure.error
            )
        self._say("retried", stored, error=failure.error)

    def _pause(self, attempts: int, retry_after: float | None) -> timedelta:
        """Return how long to wait: twice as long each time, and never in step with others."""
        first, longest = self._settings.first_retry, self._settings.longest_retry
        most = longest.total_seconds()
        doubled = min(first.total_seconds() * 2.0 ** min(attempts - 1, _LONGEST_EXPONENT), most)
        pause = doubled * random.uniform(0.5, 1)  # noqa: S311 - no secret
        return timedelta(seconds=max(pause, min(retry_after or 0.0, most)))

    async def _abandon(self, stored: StoredMessage, error: str) -> None:
        now = self._clock.now()
        detail = {"message_id": str(stored.message_id), "kind": stored.kind, "error": error}
        event = AuditEvent(
            AuditType.MESSAGE_ABANDON, _SYSTEM, user_id=stored.user_id, detail=detail
        )
        async with self._database.transaction() as connection:
            if not await outbox.abandon(connection, stored, now, error):
                return
            await record_event(connection, now, event)
        self._say("abandoned", stored, error=error)

    def _say(self, outcome: str, stored: StoredMessage, **more: str) -> None:
        self._tell(outcome)
        log.info(
            "message",
            outcome=outcome,
            message_id=str(stored.message_id),
            kind=stored.kind,
            attempts=stored.attempts,
            **more,
        )
