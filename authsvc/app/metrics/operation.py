"""Owns the metrics of the process, its settings, its database, its messages and its audit log."""

import platform
from collections.abc import Mapping, Sequence
from time import perf_counter

from authsvc import __version__
from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import Fleet, Kind, Metric
from authsvc.core.lib.clock import DatabaseClock
from authsvc.measures import Labels


def _messages(running: Running) -> Mapping[Labels, float]:
    channel = running.settings.delivery.channel
    return {
        (channel, *labels): count for labels, count in running.deliverer.outcomes.read().items()
    }


OPERATION: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_build_info",
        kind=Kind.GAUGE,
        labels=("version", "python"),
        fleet=Fleet.EACH,
        meaning="1; the labels say which version of the service and of Python runs.",
        worry="Replicas differ for longer than a rollout takes.",
        read=lambda _: {(__version__, platform.python_version()): 1},
    ),
    Metric(
        name="authsvc_uptime_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="Time since the process started.",
        worry="It begins anew again and again.",
        read=lambda running: perf_counter() - running.started,
    ),
    Metric(
        name="authsvc_planned_stops_total",
        kind=Kind.COUNTER,
        fleet=Fleet.SUM,
        meaning="Stops by a signal before this start, where systemd's `StateDirectory` keeps the"
        " count; elsewhere 0.",
        worry="The process starts again and again, and this does not increase: it crashes.",
        read=lambda running: running.planned_stops.count,
    ),
    Metric(
        name="authsvc_settings_info",
        kind=Kind.GAUGE,
        labels=("fingerprint",),
        fleet=Fleet.EACH,
        meaning="1; the label is a hash of the settings in force, without their secrets.",
        worry="Replicas differ for longer than a rollout takes.",
        read=lambda running: {(running.reload.fingerprint,): 1},
    ),
    Metric(
        name="authsvc_settings_restart_needed",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="1 while changed settings take effect only after a restart, otherwise 0.",
        worry="It stays 1: the replica has other settings than its file says.",
        read=lambda running: running.reload.is_restart_needed,
    ),
    Metric(
        name="authsvc_settings_reload_failed",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="1 while changed settings are invalid and earlier ones are in force, otherwise 0.",
        worry="It is 1: the replica will not start again with these settings.",
        read=lambda running: running.reload.failed,
    ),
    Metric(
        name="authsvc_database_up",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="1 if the database answered and was writable when asked within the last seconds,"
        " otherwise 0.",
        worry="It is 0.",
        read=lambda running: running.database_watch.is_up,
    ),
    Metric(
        name="authsvc_migrations_pending",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Migrations that this version has and the database lacks, counted once a minute.",
        worry="It is above 0: the database was replaced by an older one.",
        read=lambda running: running.database_watch.migrations_pending,
    ),
    Metric(
        name="authsvc_clock_skew_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.EACH,
        meaning="How far this machine's clock is ahead of the database's, which the service goes"
        " by.",
        worry="It is beyond ±1 s: tokens look as if from the future to services on this machine.",
        read=lambda running: (
            running.parts.clock.skew() if isinstance(running.parts.clock, DatabaseClock) else None
        ),
    ),
    Metric(
        name="authsvc_definitions_read_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Time since the last successful look for changed policies and roles began.",
        worry="It exceeds `sessions.cache_staleness`: the replica works with older ones.",
        read=lambda running: running.parts.definitions.age(),
    ),
)

MESSAGES: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_messages_total",
        kind=Kind.COUNTER,
        labels=("channel", "outcome"),
        fleet=Fleet.SUM,
        meaning="Delivery attempts by channel and outcome.",
        worry="`abandoned` rises, or `retried` without `sent`: users get no codes.",
        read=_messages,
    ),
    Metric(
        name="authsvc_outbox_pending",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Messages waiting for delivery.",
        worry="It grows for minutes.",
        read=lambda running: running.deliverer.pending,
    ),
    Metric(
        name="authsvc_outbox_read_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="Time since this replica last looked for messages to send.",
        worry="It is above a minute on all replicas: no message is sent, and the other numbers"
        " of messages stay as they were.",
        read=lambda running: running.deliverer.age(),
    ),
    Metric(
        name="authsvc_outbox_abandoned",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Abandoned messages that are still stored.",
        worry="It grows.",
        read=lambda running: running.deliverer.abandoned,
    ),
    Metric(
        name="authsvc_audit_events_forwarded_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        fleet=Fleet.SUM,
        meaning="Audit events sent to audit.forward, by outcome; each failure is sent again. Only"
        " with `audit.forward`.",
        worry="`failed` rises without `forwarded`.",
        read=lambda running: running.forwarding.outcomes.read() if running.forwarding else None,
    ),
    Metric(
        name="authsvc_audit_forward_lag_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Time since the moment until which all audit events have been forwarded; only with"
        " `audit.forward`.",
        worry="It exceeds what your investigators accept; events are deleted after"
        " `retention.audit_events`.",
        read=lambda running: running.forwarding.lag() if running.forwarding else None,
    ),
)
