"""Owns the numbers of one view: those of each replica, and those of all together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from authsvc.cli.scraping import Scrape
from authsvc.cli.top.increases import Interval, quantiles, rates

_CALLS = "authsvc_rpc_calls_total"
# Codes that are the service's failure; the others are what callers asked for.
FAILURES = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"})


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a replica: its last two scrapes, or why there is none."""

    name: str
    before: Scrape | None = None
    after: Scrape | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRow:
    """A replica now; None where it does not say."""

    name: str
    problem: str = ""
    version: str = ""
    uptime_seconds: float | None = None
    calls_per_second: float | None = None
    in_flight: float | None = None
    loop_lag_p99_seconds: float | None = None
    revocation_age_seconds: float | None = None
    database_down: bool = False
    restart_needed: bool = False
    settings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """A method: calls a second, and how long they take."""

    method: str
    calls_per_second: float
    refused_per_second: float
    failed_per_second: float
    p50_seconds: float | None
    p99_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRow:
    """A way to log in: ended logins a second, by outcome."""

    method: str
    outcomes_per_second: Mapping[str, float]

    def of(self, outcome: str) -> float:
        """Return how many a second had this outcome."""
        return self.outcomes_per_second.get(outcome, 0.0)

    def others(self, *outcomes: str) -> float:
        """Return how many a second had none of these outcomes."""
        return sum(
            rate for outcome, rate in self.outcomes_per_second.items() if outcome not in outcomes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A rate-limit policy: charges a second by outcome."""

    policy: str
    allowed_per_second: float
    refused_per_second: float
    shadow_per_second: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All numbers of one view.

    `gauges` are single numbers: None where no replica says, or nothing happened.
    """

    seconds: float
    replicas: Sequence[ReplicaRow]
    methods: Sequence[MethodRow] = ()
    logins: Sequence[LoginRow] = ()
    policies: Sequence[PolicyRow] = ()
    detections: Mapping[str, float] = field(default_factory=dict)
    gauges: Mapping[str, float | None] = field(default_factory=dict)


def snapshot(observations: Sequence[Observation]) -> Snapshot:
    """Return the numbers of all replicas together, and of each."""
    intervals = [
        Interval(each.before, each.after) for each in observations if each.before and each.after
    ]
    scrapes = [each.after for each in observations if each.after]
    return Snapshot(
        seconds=max((interval.seconds for interval in intervals), default=0.0),
        replicas=[_replica(each) for each in observations],
        methods=_methods(intervals),
        logins=_logins(intervals),
        policies=_policies(intervals),
        detections=_detections(intervals),
        gauges=_gauges(scrapes, intervals),
    )


def _replica(observation: Observation) -> ReplicaRow:
    after = observation.after
    if after is None:
        return ReplicaRow(name=observation.name, problem=observation.problem)
    intervals = [Interval(observation.before, after)] if observation.before else []
    calls = rates(intervals, _CALLS, lambda _: None)
    return ReplicaRow(
        name=observation.name,
        version=_label(after, "authsvc_build_info", "version"),
        uptime_seconds=after.value("authsvc_uptime_seconds"),
        calls_per_second=calls.get(None, 0.0) if intervals else None,
        in_flight=after.value("authsvc_rpc_in_flight"),
        loop_lag_p99_seconds=_quantile(intervals, "authsvc_event_loop_lag_seconds", 0.99),
        revocation_age_seconds=after.value("authsvc_revocation_read_age_seconds"),
        database_down=after.value("authsvc_database_up") == 0,
        restart_needed=bool(after.value("authsvc_settings_restart_needed")),
        settings=_label(after, "authsvc_settings_info", "fingerprint"),
    )


def _methods(intervals: Sequence[Interval]) -> Sequence[MethodRow]:
    calls = rates(intervals, _CALLS, lambda labels: (labels["method"], _outcome(labels["code"])))
    times = quantiles(
        intervals, "authsvc_rpc_duration_seconds", lambda labels: labels["method"], 0.5, 0.99
    )
    rows = []
    for method in {method for method, _ in calls}:
        median, slowest = times.get(method, (None, None))
        by_outcome = {each: calls.get((method, each), 0.0) for each in ("", "refused", "failed")}
        if total := sum(by_outcome.values()):
            rows.append(
                MethodRow(
                    method=method,
                    calls_per_second=total,
                    refused_per_second=by_outcome["refused"],
                    failed_per_second=by_outcome["failed"],
                    p50_seconds=median,
                    p99_seconds=slowest,
                )
            )
    return sorted(rows, key=lambda row: (-row.calls_per_second, row.method))


def _outcome(code: str) -> str:
    if code == "OK":
        return ""
    return "failed" if code in FAILURES else "refused"


def _logins(intervals: Sequence[Interval]) -> Sequence[LoginRow]:
    found = rates(
        intervals, "authsvc_logins_total", lambda labels: (labels["method"], labels["outcome"])
    )
    logins: dict[str, dict[str, float]] = {}
    for (method, outcome), rate in found.items():
        if rate > 0:
            logins.setdefault(method, {})[outcome] = rate
    return [LoginRow(method=name, outcomes_per_second=logins[name]) for name in sorted(logins)]


def _policies(intervals: Sequence[Interval]) -> Sequence[PolicyRow]:
    found = rates(
        intervals,
        "authsvc_rate_limit_decisions_total",
        lambda labels: (labels["policy"], labels["outcome"]),
    )
    rows = [
        PolicyRow(
            policy=policy,
            allowed_per_second=found.get((policy, "allowed"), 0.0),
            refused_per_second=found.get((policy, "refused"), 0.0),
            shadow_per_second=found.get((policy, "shadow"), 0.0),
        )
        for policy in {policy for policy, _ in found}
    ]
    busy = [row for row in rows if _charges(row) > 0]
    return sorted(busy, key=lambda row: (-_charges(row), row.policy))


def _charges(row: PolicyRow) -> float:
    return row.allowed_per_second + row.refused_per_second + row.shadow_per_second


# By the name in the view: a gauge, and how those of all replicas become one (see docs/metrics.md).
_GAUGES: Mapping[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "hashes_queued": ("authsvc_hashes_queued", sum),
    "hashes_running": ("authsvc_hashes_running", sum),
    "pool_waiting": ("authsvc_pool_waiting", sum),
    "pool_max": ("authsvc_pool_max", sum),
    "connections_open": ("authsvc_connections_open", sum),
    "revocation_age_seconds": ("authsvc_revocation_read_age_seconds", max),
    "revocation_listeners_up": ("authsvc_revocation_listener_up", sum),
    "revocation_watchers": ("authsvc_revocation_watchers", sum),
    "ip_blocks": ("authsvc_ip_blocks", max),
    "login_freezes": ("authsvc_login_freezes", max),
    "outbox_pending": ("authsvc_outbox_pending", max),
    "outbox_abandoned": ("authsvc_outbox_abandoned", max),
    "migrations_pending": ("authsvc_migrations_pending", max),
    "signing_key_age_seconds": ("authsvc_signing_key_age_seconds", max),
    "signing_key_rotate_after_seconds": ("authsvc_signing_key_rotate_after_seconds", max),
    "certificate_expire_time_seconds": ("authsvc_tls_certificate_expire_time_seconds", min),
    "keyring_age_seconds": ("authsvc_keyring_age_seconds", max),
    "pepper_age_seconds": ("authsvc_pepper_age_seconds", max),
}
# Numbers that only grow while a replica runs.
_RATES: Mapping[str, str] = {
    "shed_per_second": "authsvc_overloaded_total",
    "blocked_per_second": "authsvc_requests_blocked",
    "frozen_logins_per_second": "authsvc_logins_frozen_total",
    "messages_per_second": "authsvc_messages_total",
}
_QUANTILES: Mapping[str, tuple[str, float]] = {
    "hash_queue_p95_seconds": ("authsvc_hash_queue_seconds", 0.95),
    "pool_wait_p99_seconds": ("authsvc_pool_wait_seconds", 0.99),
    "loop_lag_p99_seconds": ("authsvc_event_loop_lag_seconds", 0.99),
    "revocation_delay_p99_seconds": ("authsvc_revocation_delay_seconds", 0.99),
}


def _gauges(scrapes: Sequence[Scrape], intervals: Sequence[Interval]) -> Mapping[str, float | None]:
    found: dict[str, float | None] = {}
    for name, (metric, combine) in _GAUGES.items():
        values = [value for each in scrapes if (value := each.value(metric)) is not None]
        found[name] = combine(values) if values else None
    in_use = [
        value
        for each in scrapes
        for labels, value in each.of("authsvc_pool_connections")
        if labels["state"] == "in_use"
    ]
    found["pool_in_use"] = sum(in_use) if in_use else None
    for name, metric in _RATES.items():
        found[name] = rates(intervals, metric, lambda _: None).get(None)
    for name, (metric, share) in _QUANTILES.items():
        found[name] = _quantile(intervals, metric, share)
    return found


def _quantile(intervals: Sequence[Interval], name: str, share: float) -> float | None:
    found = quantiles(intervals, name, lambda _: None, share)
    return found[None][0] if found else None


def _detections(intervals: Sequence[Interval]) -> Mapping[str, float]:
    found = rates(intervals, "authsvc_detections_total", lambda labels: labels["detection"])
    return {name: rate for name, rate in found.items() if rate > 0}


def _label(scrape: Scrape, name: str, label: str) -> str:
    found = scrape.of(name)
    return found[0][0].get(label, "") if found else ""
