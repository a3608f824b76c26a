"""Owns the delivery of the outbox: when a message is attempted, how often, and when abandoned.

Delivery is at least once: a message is marked as sent after it has been sent, so a crash in between
sends it again, with the same id. Any number of replicas share the work.
"""

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from authsvc.config import DeliverySettings
from authsvc.conventions import DELIVERY, MESSAGE_KIND
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.jitter import JITTER
from authsvc.core.lib.sealing import Keyring, SealError
from authsvc.core.messages.outbox import Message, MessageKind, unseal
from authsvc.core.messages.templates import RenderedMessage, Renderer, template_context
from authsvc.errors import StoreUnavailable
from authsvc.measures import Counts
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.store import outbox
from authsvc.store.outbox import StoredMessage
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.failures import describe
from authsvc.tracing import Tracer

log = structlog.get_logger(__name__)

_SYSTEM = Call(request_id="", caller="system")
# Longer than storing the outcome takes, so that no two replicas attempt a message at once.
_LEASE_MARGIN = timedelta(seconds=30)
_POLL_SECONDS = 5.0
_LONGEST_EXPONENT = 32


class NotDelivered(Exception):
    """A message was not sent: `error` says why in a word, `reply` is what the other side answered.

    The reply is for operators, and quotes neither the recipient nor a secret. `permanent` means
    that a retry is pointless; `retry_after` is the delay in seconds that the other side asked for.
    """

    def __init__(
        self,
        *,
        error: str,
        reply: str = "",
        permanent: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(error)
        self.error = error
        self.explanation = f"{error}: {reply}" if reply else error
        self.permanent = permanent
        self.retry_after = retry_after


class Channel(Protocol):
    """Sends messages on their way to the user, by mail or web hook."""

    name: str
    limit: timedelta

    async def send(self, rendered: RenderedMessage) -> None:
        """Send the message within `limit`, or raise NotDelivered."""

    async def check(self) -> None:
        """Try within `limit` whether messages could be sent, or raise NotDelivered."""

    async def close(self) -> None:
        """Close open connections."""


@dataclass(frozen=True, slots=True)
class Transport:
    """How messages are rendered and sent; without one, they wait until there is one or expire."""

    channel: Channel
    renderer: Renderer


class Deliverer:
    """Delivers messages, up to `settings.parallel` at once.

    `pending` and `abandoned` are recent counts of messages in these states. `outcomes` counts the
    attempts by their outcome.
    """

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        transport: Transport | None,
        settings: DeliverySettings,
        clock: Clock,
        tracer: Tracer | None = None,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._tracer = tracer
        limit = transport.channel.limit if transport else timedelta()
        self._lease = limit + _LEASE_MARGIN
        self._wake = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._next_count = 0.0
        self._looked = time.monotonic()
        self.pending = self.abandoned = 0
        self.outcomes = Counts(("sent",), ("retried",), ("abandoned",))

    def wake(self) -> None:
        """Look for messages now, as some may have been enqueued."""
        self._wake.set()

    def age(self) -> float:
        """Return how many seconds ago `run` last looked for messages with success."""
        return time.monotonic() - self._looked

    async def run(self) -> None:
        """Deliver messages as they fall due, until stopped or cancelled."""
        while not self._stopping:
            self._wake.clear()
            try:
                full = await self._start_due()
                await self._update_counts()
                self._looked = time.monotonic()
            except StoreUnavailable as error:
                log.warning("outbox_read_failed", cause=describe(error))
                full = False
            if not full:
                await self._wait_for_work()

    async def deliver_due(self) -> None:
        """Attempt every message that is due now, and return when all have been attempted."""
        while await self._start_due() or self._sending:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self, patience: timedelta) -> None:
        """Start no more attempts, and wait up to `patience` for those in progress.

        What is not finished by then is attempted again by any replica once its lease has expired.
        """
        self._stopping = True
        self.wake()
        if self._sending:
            await asyncio.wait(self._sending, timeout=patience.total_seconds())
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._transport:
            await self._transport.channel.close()

    async def _wait_for_work(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_due(self) -> bool:
        """Start as many attempts as are allowed; return whether more messages may be due."""
        free = self._settings.parallel - len(self._sending)
        if free <= 0 or self._stopping:
            return False
        now = self._clock.now()
        async with self._database.connection() as connection:
            claimed = await outbox.claim(
                connection, now, now + self._lease, free, only_expired=self._transport is None
            )
        for message in claimed:
            task = asyncio.create_task(self._deliver(message))
            self._sending.add(task)
            task.add_done_callback(self._ended)
        return len(claimed) == free

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self.wake()

    async def _update_counts(self) -> None:
        if time.monotonic() < self._next_count:
            return
        self._next_count = time.monotonic() + _POLL_SECONDS
        async with self._database.connection() as connection:
            self.pending, self.abandoned = await outbox.count(connection)

    async def _deliver(self, stored: StoredMessage) -> None:
        try:
            await self._try(stored)
        except StoreUnavailable:
            # When the lease has expired, any replica tries again.
            log.warning("message_outcome_not_stored", message_id=str(stored.message_id))
        except Exception:
            log.exception("delivery_attempt_failed", message_id=str(stored.message_id))

    async def _try(self, stored: StoredMessage) -> None:
        if self._transport is None or self._clock.now() >= stored.expire_time:
            await self._abandon(stored, stored.last_error or "expired")
            return
        try:
            with self._traced(stored):
                rendered = self._rendered(stored, self._transport.renderer)
                await self._transport.channel.send(rendered)
        except NotDelivered as failure:
            await self._failed(stored, failure)
        except SealError:
            # The key may be missing only here; another replica or the next start may have it.
            await self._failed(stored, NotDelivered(error="unreadable"))
        except Exception as error:  # noqa: BLE001 - this message waits, the others proceed
            # Only the type is logged, as the text may quote the message.
            log.error("message_rendering_failed", kind=stored.kind, error=type(error).__name__)  # noqa: TRY400
            await self._failed(stored, NotDelivered(error="internal"))
        else:
            async with self._database.connection() as connection:
                await outbox.mark_sent(connection, stored.message_id, self._clock.now())
            self._record_outcome("sent", stored)

    def _traced(self, stored: StoredMessage) -> AbstractContextManager[None]:
        if self._tracer is None:
            return nullcontext()
        return self._tracer.job(DELIVERY, {MESSAGE_KIND: stored.kind})

    def _rendered(self, stored: StoredMessage, renderer: Renderer) -> RenderedMessage:
        message = self._open(stored)
        settings = self._settings
        context = template_context(message, stored.create_time, settings.product, settings.links)
        return RenderedMessage(
            stored.message_id, message, stored.create_time, renderer.render(context)
        )

    def _open(self, stored: StoredMessage) -> Message:
        kind = MessageKind(stored.kind)
        return unseal(self._keyring, stored.message_id, kind, stored.user_id, stored.sealed_content)

    async def _failed(self, stored: StoredMessage, failure: NotDelivered) -> None:
        if failure.permanent:
            await self._abandon(stored, failure.explanation)
            return
        next_time = self._clock.now() + self._pause(stored.attempts, failure.retry_after)
        async with self._database.connection() as connection:
            # Once expired, it is claimed one last time, to be abandoned.
            await outbox.postpone(
                connection, stored, min(next_time, stored.expire_time), failure.explanation
            )
        self._record_outcome("retried", stored, error=failure.explanation)

    def _pause(self, attempts: int, retry_after: float | None) -> timedelta:
        """Return how long to wait: exponential backoff with jitter."""
        first = self._settings.first_retry.total_seconds()
        longest = self._settings.longest_retry.total_seconds()
        doubled = min(first * 2.0 ** min(attempts - 1, _LONGEST_EXPONENT), longest)
        pause = doubled * JITTER.uniform(0.5, 1)
        return timedelta(seconds=max(pause, min(retry_after or 0.0, longest)))

    async def _abandon(self, stored: StoredMessage, explanation: str) -> None:
        now = self._clock.now()
        # Audit events are kept for good, so only the word goes into them, not what a server said.
        error = explanation.partition(":")[0]
        detail = {"message_id": str(stored.message_id), "kind": stored.kind, "error": error}
        event = AuditEvent(
            AuditType.MESSAGE_ABANDON, _SYSTEM, user_id=stored.user_id, detail=detail
        )
        async with self._database.transaction() as connection:
            if not await outbox.abandon(connection, stored, now, explanation):
                return
            await record_event(connection, now, event)
        self._record_outcome("abandoned", stored, error=explanation)

    def _record_outcome(self, outcome: str, stored: StoredMessage, **more: str) -> None:
        self.outcomes.add(outcome)
        log.info(
            "message",
            outcome=outcome,
            message_id=str(stored.message_id),
            kind=stored.kind,
            attempts=stored.attempts,
            **more,
        )
