"""Owns the alerts on causes: what breaks an objective soon, or needs somebody before it does."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from authsvc.models.incidents import DetectionName
from deploy.observability.rule import INSTALLATION, REPLICA, Alert, Group, Severity, Times

# How scrape jobs are recognized while no replica answers: `authsvc`, with any prefix.
JOB = 'job=~"(.*[-/])?authsvc"'
_PAGE, _TICKET = Severity.PAGE, Severity.TICKET
_REPLICA = "{{ $labels.instance }}"


def _happened(counter: str, times: Times) -> str:
    """Return whether a counter has increased; one that has just appeared began at 0.

    One that was not there a while ago need not be new: a scrape may have failed.
    """
    time, day = times("15m"), times("1d")
    known = f"max_over_time({counter}[{day}] offset {time})"
    return f"increase({counter}[{time}]) > 0\nor ({counter} > 0 unless {known})"


def _last(gauge: str, time: str) -> str:
    """Return a gauge as it was scraped last, so that a failed scrape begins no alert anew.

    `time` has to be shorter than the alert's `after`: what a replica says as it ends is no alert.
    """
    # The first half is only for the tests, whose times are shorter than what is between scrapes.
    return f"({gauge} or last_over_time({gauge}[{time}]))"


def _quantile(quantile: float, histogram: str, time: str) -> str:
    rate = f"rate({histogram}_bucket[{time}])"
    return f"histogram_quantile({quantile}, sum by ({REPLICA}, le) ({rate}))"


def _kinds(label: str, info: str, time: str) -> str:
    """Return how many values a label has in an installation."""
    each = f"count by ({INSTALLATION}, {label}) (max_over_time({info}[{time}]))"
    return f"count by ({INSTALLATION}) ({each})"


def _messages(outcome: str, time: str) -> str:
    rate = f'rate(authsvc_messages_total{{outcome="{outcome}"}}[{time}])'
    return f"sum by ({INSTALLATION}) ({rate})"


def _replicas(times: Times) -> Sequence[Alert]:
    return [
        Alert(
            name="AuthsvcDown",
            severity=_PAGE,
            expr=f"sum by ({INSTALLATION}) (up{{{JOB}}}) == 0\nor absent(up{{{JOB}}})",
            after=times("5m"),
            summary="No replica can be scraped",
            description=(
                "Prometheus reaches no replica of {{ $labels.job }}, or has no target whose job is"
                " authsvc: nobody can log in, or monitoring is broken."
            ),
        ),
        Alert(
            name="AuthsvcReplicaDown",
            severity=_TICKET,
            expr=f"up{{{JOB}}} == 0",
            after=times("10m"),
            summary="A replica can't be scraped",
            description=f"Prometheus does not reach {_REPLICA}, which is still one of its targets.",
        ),
        Alert(
            name="AuthsvcRestarting",
            severity=_TICKET,
            expr=(
                f"changes(process_start_time_seconds{{{JOB}}}[{times('6h')}])\n"
                f"- changes(authsvc_planned_stops_total{{{JOB}}}[{times('6h')}]) > 2"
            ),
            summary="A replica restarts again and again",
            description=(
                f"{_REPLICA} has started {{{{ $value }}}} times within six hours without having"
                " been told to stop."
            ),
        ),
        Alert(
            name="AuthsvcReplicasDiffer",
            severity=_TICKET,
            expr=(
                f"{_kinds('version', 'authsvc_build_info', times('15m'))} > 1\n"
                f"or {_kinds('fingerprint', 'authsvc_settings_info', times('15m'))} > 1"
            ),
            after=times("1h"),
            summary="Replicas run different versions or settings",
            description=(
                "{{ $value }} versions or sets of settings have been in use for an hour: a rollout"
                " is stuck, or one machine was left out."
            ),
        ),
        Alert(
            name="AuthsvcEventLoopSlow",
            severity=_TICKET,
            expr=f"{_quantile(0.99, 'authsvc_event_loop_lag_seconds', times('15m'))} > 0.1",
            after=times("10m"),
            summary="A replica gets too little CPU",
            description=(
                f"In {_REPLICA}, one turn in a hundred waits {{{{ $value | humanizeDuration }}}}:"
                " each call takes longer by as much."
            ),
        ),
    ]


def _load(times: Times) -> Sequence[Alert]:
    return [
        Alert(
            name="AuthsvcOverloaded",
            severity=_TICKET,
            expr=(
                f"sum by ({REPLICA}, what) (rate(authsvc_overloaded_total[{times('15m')}])) > 0.1"
            ),
            after=times("5m"),
            summary="Calls are shed",
            description=(
                f"{_REPLICA} refuses {{{{ $value | humanize }}}} calls a second: it"
                " has no room for more {{ $labels.what }}."
            ),
        ),
        Alert(
            name="AuthsvcHashQueueLong",
            severity=_TICKET,
            expr=f"{_quantile(0.95, 'authsvc_hash_queue_seconds', times('15m'))} > 0.5",
            after=times("5m"),
            summary="Logins wait for a hash",
            description=(
                f"In {_REPLICA}, one password in twenty waits"
                " {{ $value | humanizeDuration }} for a thread that hashes it."
            ),
        ),
        Alert(
            name="AuthsvcPoolExhausted",
            severity=_PAGE,
            expr=(
                f"min_over_time(authsvc_pool_waiting[{times('5m')}]) > 0\n"
                f"or {_quantile(0.95, 'authsvc_pool_wait_seconds', times('5m'))} > 0.1"
            ),
            after=times("5m"),
            summary="Statements wait for a connection to the database",
            description=(
                f"All connections of {_REPLICA} are in use, and statements wait for one: more are"
                " needed, or the database is slow."
            ),
        ),
    ]


def _database(times: Times) -> Sequence[Alert]:
    return [
        Alert(
            name="AuthsvcDatabaseDown",
            severity=_PAGE,
            expr=f"{_last('authsvc_database_up', times('90s'))} == 0",
            after=times("2m"),
            summary="The database does not answer",
            description=f"{_REPLICA} can't reach its database, and is not ready.",
        ),
        Alert(
            name="AuthsvcRevocationListenerBehind",
            severity=_PAGE,
            expr=f"{_last('authsvc_revocation_listener_up', times('90s'))} == 0",
            after=times("2m"),
            summary="A replica reads revocations late",
            description=(
                f"{_REPLICA} has not read the revocation log in time, so it asks the database at"
                " each validation, and verifiers that follow it know nothing new."
            ),
        ),
        Alert(
            name="AuthsvcDoorbellDown",
            severity=_TICKET,
            expr=(
                f"{_last('authsvc_doorbell_up', times('3m'))} == 0\n"
                f"and max_over_time(authsvc_doorbell_up[{times('1d')}]) == 1"
            ),
            after=times("15m"),
            summary="A replica gets no notifications from the database",
            description=(
                f"{_REPLICA} has lost the connection by which other replicas wake it. It polls, so"
                " revocations arrive within a second, but no longer within milliseconds."
            ),
        ),
        Alert(
            name="AuthsvcDefinitionsStale",
            severity=_TICKET,
            expr=(
                f"{_last('authsvc_definitions_read_age_seconds', times('3m'))}"
                f" > {times.seconds('15m'):g}\n"
                f"or {_last('authsvc_ip_blocks_fresh', times('3m'))} == 0"
            ),
            after=times("5m"),
            summary="A replica does not see changed policies, roles or blocks",
            description=f"{_REPLICA} has not read them in time; those that it knows still hold.",
        ),
        Alert(
            name="AuthsvcMigrationsPending",
            severity=_TICKET,
            expr=f"{_last('authsvc_migrations_pending', times('3m'))} > 0",
            after=times("15m"),
            summary="The database lacks migrations",
            description=f"{_REPLICA} has {{{{ $value }}}} migrations that its database lacks.",
        ),
        Alert(
            name="AuthsvcClockSkewed",
            severity=_TICKET,
            expr=f"abs({_last('authsvc_clock_skew_seconds', times('3m'))}) > 1",
            after=times("5m"),
            summary="A machine's clock differs from the database's",
            description=(
                f"The clock of {_REPLICA} is {{{{ $value | humanizeDuration }}}} off. Tokens are"
                " issued by the database's; certificates are checked by the machine's."
            ),
        ),
    ]


# The gRPC port's certificate, and that of the HTTP port, which verifiers of tokens need.
_CERTIFICATES = ("authsvc_tls", "authsvc_http_tls")


def _expires(part: float, days: int, times: Times) -> str:
    """Return which certificates have no more than this left: a part of their life, and days."""
    each = []
    for name in _CERTIFICATES:
        expire, issue = (
            _last(f"{name}_certificate_{what}_time_seconds", times("90s"))
            for what in ("expire", "issue")
        )
        each.append(f"{expire} - time() < clamp_max({part} * ({expire} - {issue}), {days} * 86400)")
    return "\nor ".join(each)


def _secrets(times: Times) -> Sequence[Alert]:
    return [
        *(
            Alert(
                name="AuthsvcCertificateExpiring",
                severity=severity,
                expr=_expires(part, days, times),
                after=times("2m"),
                summary="The server's certificate expires soon",
                description=(
                    f"A certificate of {_REPLICA} is valid for another"
                    " {{ $value | humanizeDuration }}; whatever renews it has not."
                ),
            )
            for severity, part, days in ((_TICKET, 0.2, 14), (_PAGE, 0.07, 2))
        ),
        Alert(
            name="AuthsvcCertificateReloadFailed",
            severity=_TICKET,
            expr="\nor ".join(
                f"{_last(f'{name}_reload_failed', times('3m'))} == 1" for name in _CERTIFICATES
            ),
            after=times("5m"),
            summary="A renewed certificate can't be used",
            description=f"{_REPLICA} serves the certificate that it had before.",
        ),
        Alert(
            name="AuthsvcSigningKeyOld",
            severity=_TICKET,
            expr=(
                f"{_last('authsvc_signing_key_age_seconds', times('3m'))} > 1.2 *"
                f" ({_last('authsvc_signing_key_rotate_after_seconds', times('3m'))} > 0)"
            ),
            after=times("15m"),
            summary="The signing key is not rotated",
            description=(
                "The key that signs tokens is {{ $value | humanizeDuration }} old; no replica has"
                " been able to rotate it."
            ),
        ),
        Alert(
            name="AuthsvcRestartNeeded",
            severity=_TICKET,
            expr=f"max_over_time(authsvc_settings_restart_needed[{times('15m')}]) == 1",
            after=times("30m"),
            summary="Changed settings wait for a restart",
            description=f"{_REPLICA} runs with earlier settings than its file has.",
        ),
        Alert(
            name="AuthsvcSettingsReloadFailed",
            severity=_TICKET,
            expr=f"{_last('authsvc_settings_reload_failed', times('3m'))} == 1",
            after=times("5m"),
            summary="Changed settings are invalid",
            description=f"{_REPLICA} keeps its earlier settings, and would not start again.",
        ),
    ]


def _users(times: Times) -> Sequence[Alert]:
    return [
        Alert(
            name="AuthsvcMessagesAbandoned",
            severity=_TICKET,
            expr=_happened('authsvc_messages_total{outcome="abandoned"}', times),
            summary="Messages to users were given up",
            description=(
                f"{_REPLICA} has given up messages on the channel {{{{ $labels.channel }}}}: users"
                " wait for codes that won't come."
            ),
        ),
        Alert(
            name="AuthsvcMessagesDelayed",
            severity=_PAGE,
            expr=(
                f"max by ({INSTALLATION}) (min_over_time(authsvc_outbox_pending[{times('15m')}]))"
                # Without a channel, messages wait for whoever fetches their codes.
                f" > 4\nand sum by ({INSTALLATION})"
                ' (authsvc_messages_total{channel!="none", outcome="sent"}) >= 0\n'
                f"unless {_messages('sent', times('15m'))} > 0"
            ),
            after=times("5m"),
            summary="No message reaches a user",
            description=(
                "{{ $value }} messages wait, and none has been delivered for 15 minutes: nobody"
                " gets a code."
            ),
        ),
        Alert(
            name="AuthsvcDeliveryStopped",
            severity=_PAGE,
            expr=(
                f"min by ({INSTALLATION})"
                f" ({_last('authsvc_outbox_read_age_seconds', times('3m'))})"
                # Replicas pause for five seconds, which the times of tests are shorter than.
                f" > {max(times.seconds('15m'), 10):g}"
            ),
            after=times("5m"),
            summary="Nobody looks for messages to send",
            description=(
                "No replica has looked for messages for {{ $value | humanizeDuration }}: nobody"
                " gets a code."
            ),
        ),
        Alert(
            name="AuthsvcProviderUnavailable",
            severity=_TICKET,
            expr=(
                f"sum by ({INSTALLATION}) (rate(authsvc_rpc_calls_total"
                f'{{reason=~"PROVIDER_.*"}}[{times("15m")}])) > 0.01'
            ),
            after=times("5m"),
            summary="Logins through a provider fail",
            description=(
                "{{ $value | humanize }} calls a second fail as an identity provider does not"
                " answer, or refuses the service."
            ),
        ),
        Alert(
            name="AuthsvcAuditForwardingBehind",
            severity=_TICKET,
            expr=(
                f"min by ({INSTALLATION})"
                f" ({_last('authsvc_audit_forward_lag_seconds', times('3m'))})"
                f" > {times.seconds('15m'):g}"
            ),
            after=times("5m"),
            summary="Audit events are not forwarded",
            description=(
                "The archive lacks the audit events of the last {{ $value | humanizeDuration }}."
            ),
        ),
        Alert(
            name="AuthsvcNoClientAddress",
            severity=_TICKET,
            expr=(
                f"max by ({INSTALLATION})"
                f" ({_last('authsvc_callers_without_client_ip', times('3m'))}) > 0"
            ),
            after=times("15m"),
            summary="A service logs users in without saying from where",
            description=(
                "{{ $value }} callers send no client.ip, so limits and freezes by address don't"
                " hold for their users."
            ),
        ),
    ]


_Told: TypeAlias = tuple[Severity, str, str]
_DETECTED: dict[DetectionName, _Told] = {
    DetectionName.PASSWORD_SPRAYING: (
        _PAGE,
        "One network tries passwords at many accounts",
        "Logins from one network have failed at many accounts.",
    ),
    DetectionName.CREDENTIAL_STUFFING: (
        _PAGE,
        "Stolen passwords are being tried",
        "More logins fail than succeed, and they are many.",
    ),
    DetectionName.MASS_PASSWORD_RESET: (
        _TICKET,
        "Passwords of many accounts are being reset",
        "Far more passwords than usual are being reset.",
    ),
    DetectionName.REFRESH_REUSE: (
        _PAGE,
        "Refresh tokens of many users are used by two parties",
        "Sessions of many users have ended because a refresh token was used twice.",
    ),
    DetectionName.NEW_DEVICES: (
        _TICKET,
        "One network logs in to many accounts, each on a new device",
        "Many users logged in from one network, on devices that they had not used before.",
    ),
    DetectionName.ADMIN_VOLUME: (
        _TICKET,
        "One caller changes unusually much",
        "One caller has made unusually many administrative changes.",
    ),
    DetectionName.KEY_COMPROMISE: (
        _PAGE,
        "A signing key was revoked",
        "A signing key was revoked, which is done when somebody else may have it.",
    ),
}


def _incidents(times: Times) -> Sequence[Alert]:
    return [
        *(
            Alert(
                name="Authsvc" + name.value.title().replace("_", ""),
                severity=severity,
                expr=_happened(f'authsvc_detections_total{{detection="{name.value}"}}', times),
                summary=summary,
                description=f"{description} `authsvc incident status` says more.",
            )
            for name, (severity, summary, description) in _DETECTED.items()
        ),
        Alert(
            name="AuthsvcDetectionsStopped",
            severity=_TICKET,
            expr=(
                f"min by ({INSTALLATION}) ({_last('authsvc_detections_age_seconds', times('3m'))})"
                f" > {times.seconds('15m'):g}"
            ),
            after=times("5m"),
            summary="Nobody looks for attacks",
            description="No replica has looked for incidents for {{ $value | humanizeDuration }}.",
        ),
        Alert(
            name="AuthsvcLoginsFrozen",
            severity=_TICKET,
            expr=(
                f"max by ({INSTALLATION})"
                f" (max_over_time(authsvc_login_freezes[{times('15m')}])) > 0"
            ),
            after=times("6h"),
            summary="Logins are still frozen",
            description="{{ $value }} freezes of logins have been in force for six hours.",
        ),
    ]


_GROUPS: dict[str, Callable[[Times], Sequence[Alert]]] = {
    "replicas": _replicas,
    "load": _load,
    "database": _database,
    "secrets": _secrets,
    "users": _users,
    "incidents": _incidents,
}


def alerts(times: Times) -> Sequence[Group]:
    """Return the alerts on all causes."""
    return [Group(f"authsvc-{name}", rules(times)) for name, rules in _GROUPS.items()]
