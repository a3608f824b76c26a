"""Owns the table of all checks, by subject."""

from collections.abc import Sequence

from authsvc.cli.doctor import (
    database_checks,
    limit_checks,
    machine_checks,
    outside_checks,
    revocation_checks,
    secret_checks,
    service_checks,
    settings_checks,
    tls_checks,
)
from authsvc.cli.doctor.running import Check

# `settings.valid` comes before them: without valid settings, there is nothing to check.
VALID = "settings.valid"
CHECKS: Sequence[Check] = (
    Check("settings.files", "files that the settings name", settings_checks.files),
    Check("settings.addresses", "addresses to listen on", settings_checks.addresses),
    Check("settings.choices", "weak choices in production", settings_checks.choices),
    Check("settings.limits", "limits that protect and fit together", limit_checks.limits),
    Check("settings.exposure", "who can read /metrics", settings_checks.exposure),
    Check("tls.certificates", "certificates, keys, authorities", tls_checks.certificates),
    Check("tls.expiry", "how long certificates are valid", tls_checks.expiry),
    Check("tls.chain", "whether callers trust the certificate", tls_checks.chain),
    Check("tls.names", "names that callers use", tls_checks.names),
    Check("tls.authorities", "authorities of callers", tls_checks.authorities),
    Check("machine.clock", "clock, against the database's", database_checks.clock),
    Check("machine.memory", "limit of memory, against the settings", machine_checks.memory),
    Check("machine.processors", "processors, against hashing", machine_checks.processors),
    Check("machine.files", "limit of open files", machine_checks.descriptors),
    Check("database.reachable", "connecting to the database", database_checks.reachable),
    Check("database.version", "version and encoding", database_checks.version),
    Check("database.rights", "rights of the role", database_checks.rights),
    Check("database.schema", "migrations and indexes", database_checks.schema),
    Check("database.latency", "round trips", database_checks.latency, measures=True),
    Check("database.pooler", "pooler and its mode", database_checks.pooler),
    Check("database.listener", "notifications", database_checks.listener),
    Check("database.connections", "connections, against replicas", database_checks.connections),
    Check("database.durability", "settings of the server", database_checks.durability),
    Check("database.definitions", "policies and roles of run time", limit_checks.definitions),
    Check("secrets.strength", "keys and peppers of the settings", secret_checks.strength),
    Check("secrets.usable", "keys that stored secrets need", secret_checks.usable),
    Check("secrets.signing", "the key that signs tokens", secret_checks.signing),
    Check(
        "revocations.freshness",
        "how soon a revocation is known",
        revocation_checks.freshness,
        measures=True,
    ),
    Check("delivery.channel", "mail server or webhook", outside_checks.delivery),
    Check("delivery.audit", "target of audit events", outside_checks.audit_forward),
    Check("providers.discovery", "identity providers", outside_checks.providers),
    Check("providers.breached", "breached passwords", outside_checks.breached_passwords),
    Check("telemetry.collector", "OpenTelemetry collector", outside_checks.telemetry),
    Check("jwks.published", "keys where verifiers fetch them", outside_checks.jwks),
    Check("service.health", "the running service, over mTLS", service_checks.health),
    Check("service.certificate", "the certificate that it presents", service_checks.certificate),
    Check("service.metrics", "what its metrics say", service_checks.metrics),
)
