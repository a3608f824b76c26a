"""Owns the names of spans, their attributes and metrics, as OpenTelemetry's conventions have them.

docs/telemetry.md shows both tables. What has no name in the conventions begins with `authsvc`.
Values are of few kinds each: never an id, an address or a secret of a user, nor what a caller sent.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
DB_SYSTEM: Final = "db.system.name"
DB_SUMMARY: Final = "db.query.summary"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
MESSAGE_KIND: Final = "authsvc.message.kind"
DROPPED_SPANS: Final = "authsvc.spans.dropped"

HASH: Final = "hash password"
BATCH: Final = "wait for batch"
MAIL: Final = "send mail"
DELIVERY: Final = "deliver message"


class SpanName(NamedTuple):
    """A kind of spans: their name, what OpenTelemetry calls their kind, and their attributes."""

    name: str
    kind: str
    attributes: tuple[str, ...]


SPANS: Final = (
    SpanName(
        "package.Service/Method",
        "server",
        (RPC_SYSTEM, RPC_METHOD, RPC_STATUS, ERROR_TYPE, DROPPED_SPANS),
    ),
    SpanName("operation table", "client", (DB_SYSTEM, DB_SUMMARY, ERROR_TYPE)),
    SpanName(BATCH, "internal", (ERROR_TYPE,)),
    SpanName(HASH, "internal", (ERROR_TYPE,)),
    SpanName(
        "GET, POST",
        "client",
        (HTTP_METHOD, HTTP_STATUS, SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE),
    ),
    SpanName(DELIVERY, "internal", (MESSAGE_KIND, ERROR_TYPE, DROPPED_SPANS)),
    SpanName(MAIL, "client", (SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE)),
)


# What the conventions call values of labels.
VALUES: Final[Mapping[str, str]] = MappingProxyType({"in_use": "used"})


class MetricName(NamedTuple):
    """What OTLP calls a metric: its name and unit, and the names of its labels."""

    name: str
    unit: str
    labels: Mapping[str, str]


def _named(name: str, unit: str, **labels: str) -> MetricName:
    return MetricName(name, unit, MappingProxyType(labels))


# By the names in `/metrics`, without `_total`. What isn't here keeps its name and labels.
METRICS: Final[Mapping[str, MetricName]] = MappingProxyType(
    {
        "authsvc_rpc_duration_seconds": _named("rpc.server.call.duration", "s", method=RPC_METHOD),
        "authsvc_pool_wait_seconds": _named("db.client.connection.wait_time", "s"),
        "authsvc_pool_connections": _named(
            "db.client.connection.count", "{connection}", state="db.client.connection.state"
        ),
        "authsvc_pool_max": _named("db.client.connection.max", "{connection}"),
        "authsvc_pool_waiting": _named("db.client.connection.pending_requests", "{request}"),
        "authsvc_uptime_seconds": _named("process.uptime", "s"),
        "process_cpu_seconds": _named("process.cpu.time", "s"),
        "process_resident_memory_bytes": _named("process.memory.usage", "By"),
        "process_virtual_memory_bytes": _named("process.memory.virtual", "By"),
        "process_open_fds": _named("process.unix.file_descriptor.count", "{file_descriptor}"),
        "python_gc_collections": _named(
            "cpython.gc.collections", "{collection}", generation="cpython.gc.generation"
        ),
        "python_gc_objects_collected": _named(
            "cpython.gc.collected_objects", "{object}", generation="cpython.gc.generation"
        ),
        "python_gc_objects_uncollectable": _named(
            "cpython.gc.uncollectable_objects", "{object}", generation="cpython.gc.generation"
        ),
    }
)
