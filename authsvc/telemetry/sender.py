"""Owns the connection to a collector: one for each signal, and the log of its outages."""

from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from authsvc.config import ConfigError, TelemetrySettings
from authsvc.config.telemetry import OTLP_PORT
from authsvc.measures import Counts

log = structlog.get_logger("authsvc.telemetry")

_SERVICES = "opentelemetry.proto.collector"
# After these, the same may be sent again (OTLP, section "Failures").
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# The proxy of `outbound` is for HTTP requests. Whoever waits for an outage to end waits no longer.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 10_000))
_MAX_DETAILS = 200


class Signal(Enum):
    """What is sent; its value is the word in the log and in metrics."""

    TRACES = "traces"
    METRICS = "metrics"


_CALLS: dict[Signal, tuple[str, Any, str]] = {
    Signal.TRACES: (
        f"/{_SERVICES}.trace.v1.TraceService/Export",
        ExportTraceServiceResponse.FromString,
        "rejected_spans",
    ),
    Signal.METRICS: (
        f"/{_SERVICES}.metrics.v1.MetricsService/Export",
        ExportMetricsServiceResponse.FromString,
        "rejected_data_points",
    ),
}


class NotSent(Exception):
    """The collector did not take it; the text says why, `may_retry` if it may another time."""

    def __init__(self, problem: str, *, may_retry: bool) -> None:
        super().__init__(problem)
        self.may_retry = may_retry


class Sender:
    """Sends one signal; counts in `failures` what was not taken."""

    def __init__(self, settings: TelemetrySettings, signal: Signal, failures: Counts) -> None:
        """Open a connection, which is established by the first call; raises OSError for a file."""
        self._settings = settings
        self._signal = signal
        self._timeout = settings.timeout.total_seconds()
        secret = settings.authorization
        self._metadata = (("authorization", secret.get_secret_value()),) if secret else ()
        self._is_failing = False
        self._failures = failures
        self._open()

    async def send(self, body: bytes) -> int:
        """Send a request; return how many of its items the collector rejected. Raises NotSent."""
        _, _, rejected_items = _CALLS[self._signal]
        try:
            answer = await self._call(body, timeout=self._timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            may_retry = error.code() in _RETRYABLE
            problem = f"{error.code().name}: {error.details()}"[:_MAX_DETAILS]
            self._failed(problem)
            if may_retry:
                await self._reopen()
            raise NotSent(problem, may_retry=may_retry) from None
        if answer is None:
            # What grpc.aio returns for one that can't be parsed.
            problem = "the answer can't be parsed"
            self._failed(problem)
            raise NotSent(problem, may_retry=False)
        rejected: int = getattr(answer.partial_success, rejected_items)
        if rejected:
            self._failed(f"rejected: {answer.partial_success.error_message}"[:_MAX_DETAILS])
        elif self._is_failing:
            self._is_failing = False
            log.info("telemetry_sent_again", signal=self._signal.value)
        return rejected

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _failed(self, problem: str) -> None:
        self._failures.add(self._signal.value)
        if not self._is_failing:
            self._is_failing = True
            log.warning("telemetry_not_sent", signal=self._signal.value, problem=problem)

    def _open(self) -> None:
        settings = self._settings
        url = urlsplit(settings.otlp_endpoint or "")
        target = url.netloc if url.port else f"{url.netloc}:{OTLP_PORT}"
        if url.scheme == "http":
            self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(
                _read(settings.ca_file), _read(settings.key_file), _read(settings.certificate_file)
            )
            self._channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
        method, parse, _ = _CALLS[self._signal]
        self._call: Any = self._channel.unary_unary(method, response_deserializer=parse)

    async def _reopen(self) -> None:
        """Connect with what the certificates' files contain now; they may have been renewed."""
        if not (self._settings.ca_file or self._settings.certificate_file):
            return
        old = self._channel
        try:
            self._open()
        except OSError:
            return
        await old.close()


def open_senders(settings: TelemetrySettings, failures: Counts) -> dict[Signal, Sender]:
    """Return a sender for each signal that the settings have sent.

    Raises:
        ConfigError: A file that the settings name can't be read.
    """
    try:
        return {
            signal: Sender(settings, signal, failures)
            for signal in Signal
            if signal is Signal.TRACES or settings.metrics
        }
    except OSError as error:
        message = f"telemetry: {error.filename} can't be read: {error.strerror}"
        raise ConfigError([message]) from None


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None
