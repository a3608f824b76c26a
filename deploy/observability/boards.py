"""Owns the dashboards: which panels there are, and what each shows."""

from collections.abc import Mapping

from deploy.observability.board import Board, Kind, Panel, Unit
from deploy.observability.objectives import OBJECTIVES, Objective

_RATE = "[$__rate_interval]"


def _rate(counter: str, by: str) -> str:
    return f"sum by ({by}) (rate({counter}{_RATE}))"


def _quantiles(histogram: str, more: str = "", *quantiles: float) -> Mapping[str, str]:
    rate = f"sum by (le) (rate({histogram}_bucket{{@{more}}}{_RATE}))"
    chosen = quantiles or (0.5, 0.95, 0.99)
    return {f"p{each * 100:g}": f"histogram_quantile({each}, {rate})" for each in chosen}


def _budget_left(objective: Objective) -> str:
    bad, every = (
        f"avg_over_time({objective.series(name)}{{@fleet}}[30d])"
        for name in ("bad_rate5m", "rate5m")
    )
    return f"1 - {bad} / {every} / {objective.budget}"


_OVERVIEW = Board(
    "overview",
    "overview",
    {
        "Objectives": [
            *(
                Panel(
                    f"Budget left: {objective.name.replace('_', ' ')}",
                    Unit.SHARE,
                    f"{objective.promise}. Below 0, more was bad within 30 days than may be.",
                    {"{{job}}": _budget_left(objective)},
                    Kind.NUMBER,
                    4,
                )
                for objective in OBJECTIVES
            ),
            Panel(
                "Budgets spent, times too fast",
                Unit.NUMBER,
                "Above 1, the budget of 30 days won't last; above 14.4 for an hour, somebody is"
                " woken.",
                {
                    f"{objective.name} {{{{job}}}}": (
                        f"{objective.series('bad_ratio1h')}{{@fleet}} / {objective.budget}"
                    )
                    for objective in OBJECTIVES
                },
                columns=12,
            ),
            Panel(
                "Firing alerts",
                Unit.NUMBER,
                "Each has a page in docs/runbooks.",
                {
                    "": "sum by (alertname, severity, job, instance)"
                    ' (ALERTS{@fleet, alertname=~"Authsvc.*", alertstate="firing"})'
                },
                Kind.TABLE,
                24,
            ),
        ],
        "Calls": [
            Panel(
                "Calls by RPC",
                Unit.PER_SECOND,
                "The ten that are called most.",
                {"{{method}}": (f"topk(10, {_rate('authsvc_rpc_calls_total{@}', 'method')})")},
            ),
            Panel(
                "Calls that were not served",
                Unit.PER_SECOND,
                "By code and reason. INTERNAL, UNAVAILABLE and OVERLOADED are ours; others tell"
                " callers what is wrong with their requests.",
                {
                    "{{code}} {{reason}}": _rate(
                        'authsvc_rpc_calls_total{@, code!="OK"}', "code, reason"
                    )
                },
            ),
            Panel(
                "Duration of validations",
                Unit.SECONDS,
                "The objective is a p99 below 25 ms.",
                _quantiles(
                    "authsvc_rpc_duration_seconds",
                    ', method=~".*/(ValidateToken|ValidateSession|ValidateApiKey)"',
                ),
            ),
            Panel(
                "p99 by RPC",
                Unit.SECONDS,
                "The ten slowest. Logins take as long as a hash, streams as long as they last.",
                {
                    "{{method}}": (
                        "topk(10, histogram_quantile(0.99, sum by (method, le)"
                        ' (rate(authsvc_rpc_duration_seconds_bucket{@, method!~".*/Watch.*"}'
                        f"{_RATE}))))"
                    )
                },
            ),
            Panel(
                "Calls in progress",
                Unit.NUMBER,
                "Grows when calls wait for something: the database, a hash, CPU.",
                {"{{instance}}": "authsvc_rpc_in_flight{@}"},
            ),
            Panel(
                "Calls shed",
                Unit.PER_SECOND,
                "By what was full. Callers were told when to come again.",
                {"{{what}}": _rate("authsvc_overloaded_total{@}", "what")},
            ),
        ],
        "Replicas": [
            Panel(
                "Replicas by version",
                Unit.NUMBER,
                "Two versions are normal during a rollout only.",
                {
                    "{{version}} on Python {{python}}": (
                        "count by (version, python) (authsvc_build_info{@})"
                    )
                },
            ),
            Panel(
                "Replicas by settings",
                Unit.NUMBER,
                "By a hash of the effective settings. Two are normal during a rollout only.",
                {"{{fingerprint}}": "count by (fingerprint) (authsvc_settings_info{@})"},
            ),
            Panel(
                "Restart needed, or settings invalid",
                Unit.NUMBER,
                "1 while changed settings wait for a restart, or can't be used.",
                {
                    "restart needed {{instance}}": "authsvc_settings_restart_needed{@}",
                    "invalid {{instance}}": "authsvc_settings_reload_failed{@}",
                },
            ),
            Panel(
                "CPU",
                Unit.NUMBER,
                "Cores in use. One replica uses one core, and others for hashes.",
                {"{{instance}}": f"rate(process_cpu_seconds_total{{@}}{_RATE})"},
            ),
            Panel(
                "Memory",
                Unit.BYTES,
                "Resident memory. At rest it is about 120 MB.",
                {"{{instance}}": "process_resident_memory_bytes{@}"},
            ),
            Panel(
                "Delay of the event loop",
                Unit.SECONDS,
                "How late its turns come. Above 0.1 s the replica lacks CPU.",
                _quantiles("authsvc_event_loop_lag_seconds"),
            ),
            Panel(
                "Open connections",
                Unit.NUMBER,
                "Connections of calling services.",
                {"{{instance}}": "authsvc_connections_open{@}"},
            ),
            Panel(
                "Time since the start",
                Unit.SECONDS,
                "A line that keeps falling to zero is a replica that crashes.",
                {"{{instance}}": "authsvc_uptime_seconds{@}"},
            ),
        ],
    },
)

_LOGINS = Board(
    "logins",
    "logins and abuse",
    {
        "Logins": [
            Panel(
                "Logins by outcome",
                Unit.PER_SECOND,
                "`throttled` and `frozen` were refused before anything was compared.",
                {"{{outcome}}": _rate("authsvc_logins_total{@}", "outcome")},
            ),
            Panel(
                "Logins by method",
                Unit.PER_SECOND,
                "Successful ones.",
                {"{{method}}": _rate('authsvc_logins_total{@, outcome="succeeded"}', "method")},
            ),
            Panel(
                "Share of logins that fail",
                Unit.SHARE,
                "By method. A sudden rise is an attack, or a client with an old password.",
                {
                    "{{method}}": (
                        _rate('authsvc_logins_total{@, outcome="failed"}', "method")
                        + " / "
                        + _rate("authsvc_logins_total{@}", "method")
                    )
                },
            ),
            Panel(
                "Waiting for a hash",
                Unit.SECONDS,
                "How long passwords wait for a thread. Above 0.5 s, more replicas or cores are"
                " needed.",
                _quantiles("authsvc_hash_queue_seconds"),
            ),
            Panel(
                "Hashes",
                Unit.NUMBER,
                "In progress, and waiting.",
                {
                    "running {{instance}}": "authsvc_hashes_running{@}",
                    "waiting {{instance}}": "authsvc_hashes_queued{@}",
                },
            ),
            Panel(
                "Messages",
                Unit.PER_SECOND,
                "Attempts to deliver, by outcome.",
                {"{{outcome}}": _rate("authsvc_messages_total{@}", "outcome")},
            ),
            Panel(
                "Messages that wait or were given up",
                Unit.NUMBER,
                "`authsvc messages list` shows them.",
                {
                    "waiting": "max by (job) (authsvc_outbox_pending{@})",
                    "given up": "max by (job) (authsvc_outbox_abandoned{@})",
                },
            ),
        ],
        "Abuse": [
            Panel(
                "Detections within an hour",
                Unit.NUMBER,
                "Each has a page in docs/runbooks.",
                {
                    "{{detection}}": (
                        "sum by (detection) (increase(authsvc_detections_total{@}[1h]))"
                    )
                },
            ),
            Panel(
                "Time since the last look for attacks",
                Unit.SECONDS,
                "Of whichever replica looked last. It is a few seconds.",
                {"{{job}}": "min by (job) (authsvc_detections_age_seconds{@})"},
            ),
            Panel(
                "Freezes of logins in force",
                Unit.NUMBER,
                "`authsvc incident unfreeze` ends them.",
                {"{{job}}": "max by (job) (authsvc_login_freezes{@})"},
            ),
            Panel(
                "Logins refused by a freeze",
                Unit.PER_SECOND,
                "By method.",
                {"{{method}}": _rate("authsvc_logins_frozen_total{@}", "method")},
            ),
            Panel(
                "Refusals that count against an address",
                Unit.PER_SECOND,
                "Too many of one address block it.",
                {"{{job}}": _rate("authsvc_ip_violations{@}", "job")},
            ),
            Panel(
                "Callers without client.ip",
                Unit.NUMBER,
                "Their users can't be limited or frozen by address.",
                {"{{job}}": "max by (job) (authsvc_callers_without_client_ip{@})"},
            ),
            Panel(
                "Passkeys whose counter did not increase",
                Unit.NUMBER,
                "Since the start. A passkey may have been copied.",
                {"{{instance}}": "authsvc_passkey_counter_alerts{@}"},
            ),
        ],
    },
)

_DATABASE = Board(
    "database",
    "database and revocation",
    {
        "Database": [
            Panel(
                "Database up",
                Unit.NUMBER,
                "1 while the database answers.",
                {"{{instance}}": "authsvc_database_up{@}"},
            ),
            Panel(
                "Connections of the pool",
                Unit.NUMBER,
                "At the maximum, statements wait.",
                {
                    "{{state}}": "sum by (state) (authsvc_pool_connections{@})",
                    "maximum": "sum(authsvc_pool_max{@})",
                },
            ),
            Panel(
                "Statements that wait for a connection",
                Unit.NUMBER,
                "It is 0 nearly always.",
                {"{{instance}}": "authsvc_pool_waiting{@}"},
            ),
            Panel(
                "Waiting for a connection",
                Unit.SECONDS,
                "How long statements waited.",
                _quantiles("authsvc_pool_wait_seconds"),
            ),
            Panel(
                "Migrations pending",
                Unit.NUMBER,
                "Those that a replica's code has and its database lacks.",
                {"{{instance}}": "authsvc_migrations_pending{@}"},
            ),
            Panel(
                "Clock ahead of the database's",
                Unit.SECONDS,
                "Within 1 s is fine; the database's counts.",
                {"{{instance}}": "authsvc_clock_skew_seconds{@}"},
            ),
        ],
        "Revocation": [
            Panel(
                "From a revocation to each replica",
                Unit.SECONDS,
                "The objective is below 1 s for 99.9 %.",
                _quantiles("authsvc_revocation_delay_seconds", "", 0.5, 0.99, 0.999),
            ),
            Panel(
                "Age of what a replica knows",
                Unit.SECONDS,
                "Time since the revocation log was last read. Above `sessions.cache_staleness`,"
                " caches are not used.",
                {"{{instance}}": "authsvc_revocation_read_age_seconds{@}"},
            ),
            Panel(
                "In time, and woken",
                Unit.NUMBER,
                "1 while revocations are read in time, and while notifications arrive.",
                {
                    "in time {{instance}}": "authsvc_revocation_listener_up{@}",
                    "notified {{instance}}": "authsvc_doorbell_up{@}",
                },
            ),
            Panel(
                "Streams of WatchRevocations",
                Unit.NUMBER,
                "Verifiers that follow revocations.",
                {"{{instance}}": "authsvc_revocation_watchers{@}"},
            ),
            Panel(
                "Age of policies, roles and blocks",
                Unit.SECONDS,
                "Time since the last look for changed ones.",
                {"{{instance}}": "authsvc_definitions_read_age_seconds{@}"},
            ),
        ],
        "Keys and certificates": [
            Panel(
                "Signing key",
                Unit.SECONDS,
                "Its age, and when it is to be rotated.",
                {
                    "age": "max by (job) (authsvc_signing_key_age_seconds{@})",
                    "to be rotated": "max by (job) (authsvc_signing_key_rotate_after_seconds{@})",
                },
            ),
            Panel(
                "Until the certificate expires",
                Unit.SECONDS,
                "Of the certificate that each replica serves.",
                {"{{instance}}": "authsvc_tls_certificate_expire_time_seconds{@} - time()"},
            ),
            Panel(
                "Keyring and pepper",
                Unit.SECONDS,
                "Time since the newest of each was first used.",
                {
                    "keyring": "max by (job) (authsvc_keyring_age_seconds{@})",
                    "pepper": "max by (job) (authsvc_pepper_age_seconds{@})",
                },
            ),
        ],
    },
)

_LIMITS = Board(
    "limits",
    "limits",
    {
        "Decisions": [
            Panel(
                "Decisions by outcome",
                Unit.PER_SECOND,
                "`shadow` would have been refused by a policy that only counts.",
                {"{{outcome}}": _rate("authsvc_rate_limit_decisions_total{@}", "outcome")},
            ),
            Panel(
                "Decisions by policy",
                Unit.PER_SECOND,
                "The ten that are asked most.",
                {
                    "{{policy}}": (
                        f"topk(10, {_rate('authsvc_rate_limit_decisions_total{@}', 'policy')})"
                    )
                },
            ),
            Panel(
                "Refusals by policy",
                Unit.PER_SECOND,
                "The ten that refuse most.",
                {
                    "{{policy}}": (
                        "topk(10, "
                        + _rate(
                            'authsvc_rate_limit_decisions_total{@, outcome="refused"}', "policy"
                        )
                        + ")"
                    )
                },
            ),
            Panel(
                "Share refused by policy",
                Unit.SHARE,
                "A policy that refuses nearly everything is too narrow, or under attack.",
                {
                    "{{policy}}": (
                        _rate('authsvc_rate_limit_decisions_total{@, outcome="refused"}', "policy")
                        + " / "
                        + _rate("authsvc_rate_limit_decisions_total{@}", "policy")
                    )
                },
            ),
            Panel(
                "Shadow refusals by policy",
                Unit.PER_SECOND,
                "What would change if these policies were enforced.",
                {
                    "{{policy}}": _rate(
                        'authsvc_rate_limit_decisions_total{@, outcome="shadow"}', "policy"
                    )
                },
            ),
            Panel(
                "Duration of checks",
                Unit.SECONDS,
                "Of CheckRateLimit and BatchCheckRateLimits.",
                _quantiles("authsvc_rpc_duration_seconds", ', method=~".*CheckRateLimits?"'),
            ),
        ],
        "Addresses": [
            Panel(
                "Blocks in memory",
                Unit.NUMBER,
                "`authsvc blocks list` shows them.",
                {"{{instance}}": "authsvc_ip_blocks{@}"},
            ),
            Panel(
                "Blocks made because of violations",
                Unit.NUMBER,
                "Within an hour.",
                {"{{job}}": "sum by (job) (increase(authsvc_ip_blocks_made{@}[1h]))"},
            ),
            Panel(
                "Requests refused by address",
                Unit.PER_SECOND,
                "`blocked`: the address is blocked. `limited`: a screened request exceeded its"
                " policy.",
                {
                    "blocked": _rate("authsvc_requests_blocked{@}", "job"),
                    "limited": _rate("authsvc_screened_requests_limited{@}", "job"),
                },
            ),
        ],
    },
)

BOARDS = (_OVERVIEW, _LOGINS, _DATABASE, _LIMITS)
