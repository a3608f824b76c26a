"""Owns the metrics of logins, limits, blocks and incidents."""

from collections.abc import Mapping, Sequence

from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import Fleet, Kind, Metric
from authsvc.measures import Labels


def _decisions(running: Running) -> Mapping[Labels, float]:
    """Return the decisions by all policies: the operator's, and the service's own."""
    parts = running.parts
    counts: dict[Labels, float] = {}
    for decisions in (
        parts.use.rate_limiter.decisions,
        parts.brute_force.decisions,
        parts.code_limits.decisions,
    ):
        for labels, count in decisions.read().items():
            counts[labels] = counts.get(labels, 0) + count
    return counts


LOGINS: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_logins_total",
        kind=Kind.COUNTER,
        labels=("method", "outcome"),
        fleet=Fleet.SUM,
        meaning="Logins that ended, by method and outcome. The second step of a login is one of its"
        " own, with the method `second_factor`.",
        worry="`failed` or `throttled` rises without `succeeded`: somebody guesses. `unavailable`"
        " rises: the service, its database or a provider fails. `succeeded` falls to nothing.",
        read=lambda running: running.parts.use.logins.counts.read(),
    ),
    Metric(
        name="authsvc_logins_frozen_total",
        kind=Kind.COUNTER,
        labels=("method",),
        fleet=Fleet.SUM,
        meaning="Logins, and what begins one, refused because they were frozen.",
        worry="It rises though nobody froze logins on purpose.",
        read=lambda running: running.parts.use.login_freezes.refusals.read(),
    ),
    Metric(
        name="authsvc_login_freezes",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Freezes of logins in force.",
        worry="It is above 0 after an incident is over.",
        read=lambda running: running.parts.use.login_freezes.in_force,
    ),
    Metric(
        name="authsvc_callers_without_client_ip",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Callers that have sent attempts to log in without client.ip since the start.",
        worry="It is above 0: guesses through these callers are limited by account alone. The log's"
        " `client_ip_missing` names them.",
        read=lambda running: len(running.parts.attempts.callers_without_ip),
    ),
    Metric(
        name="authsvc_passkey_counter_alerts",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Assertions since the start whose passkey's counter did not increase.",
        worry="It rises: a passkey may have been copied.",
        read=lambda running: running.parts.passkeys.counter_alerts,
    ),
    Metric(
        name="authsvc_detections_total",
        kind=Kind.COUNTER,
        labels=("detection",),
        fleet=Fleet.SUM,
        meaning="Detections that this replica raised.",
        worry="It rises; [each has a runbook](runbooks/README.md).",
        read=lambda running: running.parts.use.detections.raised.read(),
    ),
    Metric(
        name="authsvc_detections_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="Time since some replica last looked for incidents.",
        worry="It is above three times `detections.interval`.",
        read=lambda running: running.parts.use.detections.age(),
    ),
    Metric(
        name="authsvc_breached_password_requests",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Requests to the service of breached passwords since the start; only with"
        " `passwords.breached`.",
        read=lambda running: (
            breached.requests if (breached := running.parts.breached_passwords) else None
        ),
    ),
    Metric(
        name="authsvc_breached_password_failures",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Requests of these that had no valid answer in time.",
        worry="It rises as fast as the requests.",
        read=lambda running: (
            breached.failures if (breached := running.parts.breached_passwords) else None
        ),
    ),
    Metric(
        name="authsvc_breached_passwords_refused",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="New passwords refused since the start because they were breached.",
        read=lambda running: (
            breached.refusals if (breached := running.parts.breached_passwords) else None
        ),
    ),
)

LIMITS: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_rate_limit_decisions_total",
        kind=Kind.COUNTER,
        labels=("policy", "outcome"),
        fleet=Fleet.SUM,
        meaning="Charges by policy and outcome: `allowed` (taken), `refused`, and `shadow` (taken"
        " although a shadow policy would have refused it). The service's own policies begin with"
        " `authsvc.`; what they take for a login is refunded if it succeeds. Beyond a thousand"
        " policies, the others are counted as `other`. Dry runs are not counted.",
        worry="The share of `refused` rises: abuse, or a limit too low.",
        read=_decisions,
    ),
    Metric(
        name="authsvc_rate_limit_shadow_rejections_total",
        kind=Kind.COUNTER,
        labels=("policy",),
        fleet=Fleet.SUM,
        meaning="Charges that a shadow policy would have rejected.",
        worry="It rises more than expected: the policy is not ready to be enforced.",
        read=lambda running: running.parts.use.rate_limiter.decisions.shadows(),
    ),
    Metric(
        name="authsvc_screened_requests_limited",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Screened requests since the start that exceeded their policy.",
        read=lambda running: running.parts.use.screening.limited,
    ),
    Metric(
        name="authsvc_requests_blocked",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Requests since the start that were refused because their address is blocked.",
        read=lambda running: running.parts.use.screening.blocked,
    ),
    Metric(
        name="authsvc_ip_blocks",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Blocks of addresses in this replica's memory, some of which may have ended.",
        worry="It grows by much at once.",
        read=lambda running: len(running.parts.block_list),
    ),
    Metric(
        name="authsvc_ip_blocks_fresh",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="1 while blocks are read in time and asked for in memory, otherwise 0.",
        worry="It is 0 for more than a few seconds: each request asks the database.",
        read=lambda running: running.parts.block_list.is_fresh(),
    ),
    Metric(
        name="authsvc_ip_violations",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Refusals by address that this replica has counted since the start.",
        read=lambda running: running.parts.violations.noted,
    ),
    Metric(
        name="authsvc_ip_blocks_made",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Blocks that this replica has made since the start, because of violations.",
        worry="It rises fast: an attack, or a limit too low for a shared address.",
        read=lambda running: running.parts.violations.blocked,
    ),
)
