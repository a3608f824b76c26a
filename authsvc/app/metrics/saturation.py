"""Owns the metrics of what can be exhausted: hashing threads, connections, the event loop."""

from collections.abc import Mapping, Sequence

from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import Fleet, Kind, Metric
from authsvc.measures import Labels


def _connections(running: Running) -> Mapping[Labels, float]:
    usage = running.parts.database.usage()
    return {("idle",): usage.idle, ("in_use",): usage.connections - usage.idle}


SATURATION: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_hash_queue_seconds",
        kind=Kind.HISTOGRAM,
        fleet=Fleet.SUM,
        meaning="Time that a hash of a password waited for a thread, in vain or not.",
        worry="The 95th percentile is above half a second: logins are slow. After 3 s they are"
        " shed.",
        read=lambda running: running.parts.hasher.waits,
    ),
    Metric(
        name="authsvc_hashes_queued",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Password hashes waiting.",
        worry="It stays near `passwords.hash_queue`.",
        read=lambda running: running.parts.hasher.queued,
    ),
    Metric(
        name="authsvc_hashes_running",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Password hashes in progress.",
        read=lambda running: running.parts.hasher.running,
    ),
    Metric(
        name="authsvc_pool_wait_seconds",
        kind=Kind.HISTOGRAM,
        fleet=Fleet.SUM,
        meaning="Time that a statement or transaction waited for a connection, in vain or not.",
        worry="The 99th percentile is above 50 ms.",
        read=lambda running: running.parts.database.waits,
    ),
    Metric(
        name="authsvc_pool_connections",
        kind=Kind.GAUGE,
        labels=("state",),
        fleet=Fleet.SUM,
        meaning="Connections to the database, by whether they are idle or in use.",
        worry="`in_use` stays at `authsvc_pool_max`.",
        read=_connections,
    ),
    Metric(
        name="authsvc_pool_max",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Connections that the pool may have: `database.pool_max`.",
        worry="The sum over all replicas nears the server's `max_connections`.",
        read=lambda running: running.parts.database.maximum,
    ),
    Metric(
        name="authsvc_pool_waiting",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Statements and transactions that wait for a connection.",
        worry="It stays above 0.",
        read=lambda running: running.parts.database.usage().waiting,
    ),
    Metric(
        name="authsvc_event_loop_lag_seconds",
        kind=Kind.HISTOGRAM,
        fleet=Fleet.SUM,
        meaning="How late the event loop does what is due, measured twenty times a second.",
        worry="The 99th percentile is above 50 ms: the replica has too little CPU.",
        read=lambda running: running.loop_lag.lags,
    ),
)
