"""Owns the metrics of calls, connections and certificates."""

from collections.abc import Sequence

from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import Fleet, Kind, Metric
from authsvc.app.server import Server

CALLS: Sequence[Metric[Server]] = (
    Metric(
        name="authsvc_rpc_calls_total",
        kind=Kind.COUNTER,
        labels=("method", "code", "reason"),
        fleet=Fleet.SUM,
        meaning="Finished calls.",
        worry="The share of `INTERNAL`, `UNKNOWN`, `UNAVAILABLE` and `DEADLINE_EXCEEDED` rises:"
        " that is the service's failure. Most other codes are the callers'; `reason` says which.",
    ),
    Metric(
        name="authsvc_rpc_duration_seconds",
        kind=Kind.HISTOGRAM,
        labels=("method",),
        fleet=Fleet.SUM,
        meaning="Duration of calls.",
        worry="The 99th percentile of `ValidateToken` is above 25 ms.",
    ),
    Metric(
        name="authsvc_rpc_in_flight",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Calls in progress, of callers with a role.",
        worry="It stays near `grpc.max_concurrent_rpcs`.",
        read=lambda server: server.in_flight,
    ),
    Metric(
        name="authsvc_overloaded_total",
        kind=Kind.COUNTER,
        labels=("what",),
        fleet=Fleet.SUM,
        meaning="Calls shed, by what was full: places for calls, hashes, batches for the database,"
        " streams, imports and exports.",
        worry="It rises for more than a moment.",
        read=lambda server: server.overloaded.read(),
    ),
    Metric(
        name="authsvc_connections_open",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Open connections.",
        worry="It nears `grpc.max_connections`.",
        read=lambda server: server.connections.open_count,
    ),
    Metric(
        name="authsvc_connections_ended_total",
        kind=Kind.COUNTER,
        labels=("reason",),
        fleet=Fleet.SUM,
        meaning="Connections that the service ended, by reason.",
        worry="It rises: somebody connects who has no role, or one caller connects too often.",
        read=lambda server: server.connections.ended.read(),
    ),
    Metric(
        name="authsvc_tls_certificate_expire_time_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="When the certificate that is served expires, in Unix time.",
        worry="It is less than a third of the certificate's lifetime ahead: it was not renewed.",
        read=lambda server: server.certificate.served.leaf.not_valid_after_utc.timestamp(),
    ),
    Metric(
        name="authsvc_tls_certificate_issue_time_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="When the certificate that is served was issued, in Unix time.",
        read=lambda server: server.certificate.served.leaf.not_valid_before_utc.timestamp(),
    ),
    Metric(
        name="authsvc_tls_reload_failed",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="1 while the certificate files can't be used and earlier ones are served,"
        " otherwise 0.",
        worry="It is 1: the log's `certificates_not_reloaded` says why.",
        read=lambda server: bool(server.certificate.problem),
    ),
)

HTTP: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_http_tls_certificate_expire_time_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="When the certificate of the HTTP port expires, in Unix time; only with"
        " `http.tls`.",
        worry="As for the certificate of the gRPC port.",
        read=lambda running: tls.expire_time.timestamp() if (tls := running.web.tls) else None,
    ),
    Metric(
        name="authsvc_http_tls_certificate_issue_time_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="When the certificate of the HTTP port was issued, in Unix time; only with"
        " `http.tls`.",
        read=lambda running: tls.issue_time.timestamp() if (tls := running.web.tls) else None,
    ),
    Metric(
        name="authsvc_http_tls_reload_failed",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="1 while the files of that certificate can't be used and earlier ones are served,"
        " otherwise 0; only with `http.tls`.",
        worry="As for the certificate of the gRPC port.",
        read=lambda running: bool(tls.problem) if (tls := running.web.tls) else None,
    ),
)
