"""Owns the metrics of revocations and keys."""

from collections.abc import Sequence

from authsvc.app.metrics.running import Running
from authsvc.app.metrics.table import Fleet, Kind, Metric

REVOCATIONS: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_revocation_delay_seconds",
        kind=Kind.HISTOGRAM,
        fleet=Fleet.SUM,
        meaning="Time from a revocation until this replica's caches knew it.",
        worry="More than one in a thousand takes over a second, the promised bound.",
        read=lambda running: running.parts.revocation_delays,
    ),
    Metric(
        name="authsvc_revocation_listener_up",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="1 while revocations are read in time and caches are used, otherwise 0.",
        worry="It is 0: validations ask the database, and fail without it.",
        read=lambda running: running.parts.revocation_reader.is_fresh(),
    ),
    Metric(
        name="authsvc_revocation_read_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Time since the last successful read of the revocation log began.",
        worry="It exceeds `sessions.cache_staleness`.",
        read=lambda running: running.parts.revocation_reader.age(),
    ),
    Metric(
        name="authsvc_revocation_watchers",
        kind=Kind.GAUGE,
        fleet=Fleet.SUM,
        meaning="Streams of WatchRevocations that are open.",
        worry="It falls below the number of services that verify tokens themselves.",
        read=lambda running: running.parts.use.revocation_watch.watchers,
    ),
    Metric(
        name="authsvc_doorbell_up",
        kind=Kind.GAUGE,
        fleet=Fleet.MIN,
        meaning="1 while notifications of other replicas are received, otherwise 0: then only"
        " polling.",
        worry="It is 0 and the database is not behind a pooler: revocations take longer.",
        read=lambda running: running.parts.doorbell.is_listening,
    ),
)

KEYS: Sequence[Metric[Running]] = (
    Metric(
        name="authsvc_signing_key_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Time since the active signing key began to sign.",
        worry="It exceeds 1.2 times `authsvc_signing_key_rotate_after_seconds`: rotation fails.",
        read=lambda running: running.parts.use.signing_keys.active_age(),
    ),
    Metric(
        name="authsvc_signing_key_rotate_after_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="The age at which a signing key is replaced: `tokens.key_rotation_interval`.",
        read=lambda running: running.settings.tokens.key_rotation_interval.total_seconds(),
    ),
    Metric(
        name="authsvc_keyring_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="Time since a replica first used the newest key of `secrets.keyring`, or since the"
        " upgrade to a version with this metric.",
        worry="It exceeds what your policy allows, such as a year;"
        " [how to change it](secrets-at-rest.md).",
        read=lambda running: running.parts.use.key_ages.keyring(),
    ),
    Metric(
        name="authsvc_pepper_age_seconds",
        kind=Kind.GAUGE,
        fleet=Fleet.MAX,
        meaning="The same of the newest of `secrets.peppers`.",
        worry="It exceeds what your policy allows.",
        read=lambda running: running.parts.use.key_ages.pepper(),
    ),
)
