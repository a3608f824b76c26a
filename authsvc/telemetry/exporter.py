"""Owns the sending of spans and metrics to a collector, which never delays or fails a call.

Spans wait in a bounded queue; what does not fit is counted and lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from socket import gethostname
from time import time_ns
from uuid import uuid4

import structlog

from authsvc import __version__
from authsvc.config import TelemetrySettings
from authsvc.core.lib.jitter import JITTER
from authsvc.measures import Counts
from authsvc.metrics import Metrics
from authsvc.telemetry.encoding import encode_metrics, encode_spans, resource_of
from authsvc.telemetry.sender import NotSent, Signal, open_senders
from authsvc.tracing import Span, Tracer

log = structlog.get_logger("authsvc.telemetry")

MAX_WAITING = 2_048
# Encoding a batch keeps the interpreter for a millisecond.
_BATCH = 64
_GATHER_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Telemetry:
    """Sends what `tracer` records, and the metrics of the process.

    `spans` counts them by what became of them, `failures` the failed requests by their signal.
    """

    def __init__(self, settings: TelemetrySettings, metrics: Metrics) -> None:
        """Prepare everything; nothing is sent before `start`.

        Raises:
            ConfigError: A file that the settings name can't be read.
        """
        self.tracer = Tracer(
            ratio=settings.traces_sample_ratio,
            max_per_second=settings.max_traces_per_second,
            sink=self._add,
        )
        self.spans = Counts(("sent",), ("dropped",))
        self.failures = Counts(*((signal.value,) for signal in Signal))
        self._senders = open_senders(settings, self.failures)
        self._interval = settings.metrics_interval.total_seconds()
        self._registry = metrics.registry
        self._start_time = time_ns()
        self._resource = resource_of(
            {
                "service.name": "authsvc",
                "service.version": __version__,
                "service.instance.id": str(uuid4()),
                "host.name": gethostname(),
                **settings.resource_attributes,
            }
        )
        self._waiting: deque[Span] = deque()
        self._full = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        jobs = {Signal.TRACES: self._send_spans, Signal.METRICS: self._send_metrics}
        self._tasks = [asyncio.create_task(_run(jobs[signal])) for signal in self._senders]

    async def close(self, patience: float) -> None:
        """Send what is left within `patience` seconds, and close the connections."""
        self._stopping.set()
        self._full.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._waiting:
            log.warning("telemetry_lost", spans=len(self._waiting))
        for sender in self._senders.values():
            await sender.close()

    @property
    def waiting(self) -> int:
        """The number of spans that wait to be sent."""
        return len(self._waiting)

    def _add(self, span: Span) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.spans.add("dropped")
            return
        self._waiting.append(span)
        if len(self._waiting) >= _BATCH:
            self._full.set()

    async def _send_spans(self) -> None:
        while not self._stopping.is_set():
            await _until(self._full, _GATHER_SECONDS)
            self._full.clear()
            while self._waiting and await self._send_batch():
                pass

    async def _send_batch(self) -> bool:
        """Send the oldest spans; return whether there may be others to send."""
        # They stay in the queue, and so within its bound, until they are sent.
        batch = list(islice(self._waiting, _BATCH))
        body = await asyncio.to_thread(encode_spans, batch, self._resource)
        pause = _FIRST_PAUSE
        while True:
            try:
                rejected = await self._senders[Signal.TRACES].send(body)
                # Collectors may say anything.
                rejected = min(max(rejected, 0), len(batch))
                break
            except NotSent as failure:
                if not failure.may_retry:
                    rejected = len(batch)
                    break
                if self._stopping.is_set():
                    return False
            await _until(self._stopping, pause * JITTER.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
        for _ in batch:
            self._waiting.popleft()
        self.spans.add("sent", count=len(batch) - rejected)
        self.spans.add("dropped", count=rejected)
        return True

    async def _send_metrics(self) -> None:
        while not self._stopping.is_set():
            await _until(self._stopping, self._interval)
            body = await asyncio.to_thread(self._encode_metrics)
            # The next ones say all that these would have.
            with suppress(NotSent):
                await self._senders[Signal.METRICS].send(body)

    def _encode_metrics(self) -> bytes:
        return encode_metrics(self._registry.collect(), self._resource, self._start_time)


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    try:
        await job()
    except Exception:
        # The service goes on without it.
        log.exception("telemetry_ended")


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
