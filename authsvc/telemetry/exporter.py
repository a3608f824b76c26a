"""Owns the sending of spans and metrics to a collector, which never delays or fails a call.

Spans wait in a bounded queue; what does not fit is counted and lost.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import islice
from socket import gethostname
from time import time_ns
from uuid import uuid4

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from authsvc import __version__
from authsvc.config import ConfigError, TelemetrySettings
from authsvc.core.lib.jitter import JITTER
from authsvc.metrics import Metrics
from authsvc.telemetry.encoding import encode_metrics, encode_spans, resource_of
from authsvc.telemetry.sender import NotSent, Sender, Signal
from authsvc.tracing import Span, Tracer

log = structlog.get_logger("authsvc.telemetry")

MAX_WAITING = 2_048
# Encoding a batch keeps the interpreter for a millisecond.
_BATCH = 64
_GATHER_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Telemetry:
    """Sends what `tracer` records, and the metrics of the process."""

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
        try:
            self._senders = {
                signal: Sender(settings, signal)
                for signal in Signal
                if signal is Signal.TRACES or settings.metrics
            }
        except OSError as error:
            message = f"telemetry: {error.filename} can't be read: {error.strerror}"
            raise ConfigError([message]) from None
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
        self._sent = self._dropped = 0
        self._registry.register(_Counts(self))

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

    def counts(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metrics of the sending itself."""
        spans = CounterMetricFamily(
            "authsvc_telemetry_spans", "Spans by what became of them.", labels=("outcome",)
        )
        spans.add_metric(("sent",), self._sent)
        spans.add_metric(("dropped",), self._dropped)
        failures = CounterMetricFamily(
            "authsvc_telemetry_failures", "Requests that failed.", labels=("signal",)
        )
        for signal, sender in self._senders.items():
            failures.add_metric((signal.value,), sender.failures)
        limited = CounterMetricFamily(
            "authsvc_telemetry_traces_limited",
            "Calls not traced because of telemetry.max_traces_per_second.",
            value=self.tracer.limited,
        )
        waiting = GaugeMetricFamily(
            "authsvc_telemetry_spans_waiting", "Spans to be sent.", value=len(self._waiting)
        )
        return spans, failures, limited, waiting

    def _add(self, span: Span) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
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
        self._sent += len(batch) - rejected
        self._dropped += rejected
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


class _Counts(Collector):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        return self._telemetry.counts()


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
