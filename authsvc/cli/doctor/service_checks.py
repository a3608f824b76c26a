"""Owns the checks of the running service: as callers reach it, and by what its metrics say."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

from cryptography.hazmat.primitives.serialization import Encoding

from authsvc.app.addresses import unix_path
from authsvc.app.handshake import presented_certificate
from authsvc.app.reload import Reload
from authsvc.cli.connection import read_credentials
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, warning
from authsvc.cli.doctor.tls_checks import shake_hands
from authsvc.cli.health import health_status
from authsvc.cli.scraping import (
    NobodyListensError,
    Replica,
    Scrape,
    client_tls,
    metrics_url,
    own_tls,
    own_url,
    replicas,
    scrape,
)
from authsvc.config import Settings
from authsvc.dev.ports import dialled
from authsvc.errors import ServerError
from authsvc.outbound.http import open_session
from authsvc.rpc.tls import ServerCertificate

_PATIENCE = 5.0
# Seconds: longer than a replica answers with the same metrics.
_SETTLE = 1.5


async def health(deployment: Deployment) -> Sequence[Finding]:
    """Ask for the service's health over mutual TLS, at each address that callers use."""
    options, settings = deployment.options, deployment.settings
    ca, cert, key = options.ca, options.cert, options.key
    if cert is None:
        _require_own_certificate(settings)
        cert, key = settings.tls.certificate_file, settings.tls.key_file
    credentials = read_credentials(ca or settings.tls.client_ca_file, cert, key or cert)
    found = []
    for target in await _targets(deployment):
        try:
            status = await health_status(target, "", credentials, _PATIENCE)
        except ServerError as failure:
            found.append(error(str(failure), _UNREACHABLE))
            continue
        if status == "SERVING":
            found.append(ok(f"{target} is SERVING"))
        else:
            found.append(
                error(
                    f"{target} is {status}",
                    "look at its log, and at /readyz, which says why; while it drains or its"
                    " database is away, it refuses calls",
                )
            )
    return found


_UNREACHABLE = (
    "see tls.names and tls.chain for what a caller would say; otherwise look at the network rules,"
    " the Service, and whether the service runs"
)


def _require_own_certificate(settings: Settings) -> None:
    """Raise Skip unless the service's own certificate would do as a client's."""
    advice = "name a client's certificate by --cert and --key"
    try:
        material = ServerCertificate(settings.tls).served
    except ServerError:
        raise Skip("the certificate can't be served: see tls.certificates") from None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    for context in (server, client):
        context.load_cert_chain(settings.tls.certificate_file, settings.tls.key_file)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=material.authorities_pem.decode())
    if shake_hands(client, server) is not None:
        raise Skip(f"the service's own certificate is no client's: {advice}")


async def _targets(deployment: Deployment) -> Sequence[str]:
    """Return the addresses of callers, or else the service's own; raises Skip if it is not here."""
    if deployment.options.targets:
        return deployment.options.targets
    own = dialled(deployment.settings.grpc.address)
    try:
        await presented_certificate(own, _PATIENCE)
    except (ssl.SSLError, TimeoutError):
        # Something listens there, even if it is frozen.
        return [own]
    except OSError as failure:
        cause = failure.strerror or type(failure).__name__
        raise Skip(
            f"no service runs here ({own}: {cause}): name addresses of callers by --target"
        ) from None
    return [own]


async def certificate(deployment: Deployment) -> Sequence[Finding]:
    """Check that the running service presents the certificate that is in the file."""
    try:
        leaf = ServerCertificate(deployment.settings.tls).served.leaf
    except ServerError:
        raise Skip("the certificate can't be served: see tls.certificates") from None
    expected = leaf.public_bytes(Encoding.DER)
    found = []
    for target in await _targets(deployment):
        if "://" in target and unix_path(target) is None:
            continue
        try:
            presented = await presented_certificate(target, _PATIENCE)
        except OSError as failure:
            said = str(failure)
            text = said if said.startswith(target) else f"{target}: {said}"
            found.append(error(text, _UNREACHABLE))
            continue
        if presented == expected:
            found.append(ok(f"{target} presents the certificate of tls.certificate_file"))
        else:
            found.append(
                warning(
                    f"{target} presents another certificate than tls.certificate_file",
                    "if the file has just changed, wait some seconds; otherwise the log says"
                    " certificates_not_reloaded and why, or something in between ends TLS",
                )
            )
    return found


async def metrics(deployment: Deployment) -> Sequence[Finding]:
    """Read the metrics of the replicas, and say what they complain of."""
    found: list[Finding] = []
    async with open_session() as http:
        for replica, tls in await _replicas(deployment):
            read = partial(scrape, http, replica, tls, _PATIENCE)
            try:
                complaints = await _lasting_complaints(replica.name, read, deployment.settings)
            except ServerError as failure:
                if isinstance(failure, NobodyListensError) and not deployment.options.urls:
                    raise Skip(f"no service runs here: {failure}; see --url") from None
                found.append(error(str(failure), "start that replica, or look at its log"))
                continue
            found += complaints or [ok(f"{replica.name} has nothing to complain of")]
    return found


async def _lasting_complaints(
    name: str, read: Callable[[], Awaitable[Scrape]], settings: Settings
) -> Sequence[Finding]:
    """Return the complaints that are still there at a second look.

    A replica that has just started, or lost its database for a moment, has some that pass.
    """
    complaints = list(_complaints(name, await read(), settings))
    if complaints:
        await asyncio.sleep(_SETTLE)
        complaints = list(_complaints(name, await read(), settings))
    return complaints


async def _replicas(
    deployment: Deployment,
) -> Sequence[tuple[Replica, ssl.SSLContext | None]]:
    options, settings = deployment.options, deployment.settings
    if not options.urls:
        return [(each, own_tls(settings)) for each in await replicas(own_url(settings))]
    tls = client_tls(options.ca, options.cert, options.key)
    urls = [metrics_url(url) for url in options.urls]
    return [(each, tls) for url in urls for each in await replicas(url)]


# Gauges that are 1 (or more) when something is wrong.
WRONG_IF_SET: Mapping[str, tuple[str, str]] = {
    "authsvc_settings_restart_needed": (
        "settings have changed that only a restart puts into force",
        "restart it; its log says which settings (settings_reloaded)",
    ),
    "authsvc_settings_reload_failed": (
        "the settings in the file are invalid, and earlier ones in force",
        "run `authsvc config check`, and correct them before the next restart",
    ),
    "authsvc_tls_reload_failed": (
        "the certificate files can't be used, and earlier ones are served",
        "see tls.certificates; its log says why (certificates_not_reloaded)",
    ),
    "authsvc_http_tls_reload_failed": (
        "the certificate files of the HTTP port can't be used, and earlier ones are served",
        "correct http.tls; its log says why (certificates_not_reloaded)",
    ),
    "authsvc_migrations_pending": (
        "the database lacks migrations of this version",
        "run `authsvc migrate`",
    ),
    "authsvc_outbox_abandoned": (
        "messages to users were given up",
        "see `authsvc messages list`, mend the cause, and retry them",
    ),
    "authsvc_callers_without_client_ip": (
        "callers log users in without client.ip, so attempts can't be limited by network",
        "let them pass the user's address; the log names them (client_ip_missing)",
    ),
    "authsvc_login_freezes": (
        "logins are frozen",
        "see `authsvc incident status`; lift it by `authsvc incident unfreeze`",
    ),
}
# Gauges that are 0 when something is wrong.
WRONG_IF_NOT_SET: Mapping[str, tuple[str, str]] = {
    "authsvc_revocation_listener_up": (
        "revocations are not read in time, so its caches are bypassed and the database is asked",
        "look at its connection to the database, and at database.latency",
    ),
    "authsvc_doorbell_up": (
        "notifications of other replicas don't arrive, so it polls",
        "see database.listener and database.pooler",
    ),
    "authsvc_ip_blocks_fresh": (
        "blocked addresses are not read in time, so the database is asked",
        "look at its connection to the database",
    ),
    "authsvc_database_up": (
        "it can't reach its database",
        "see database.reachable, from where it runs",
    ),
}
# Seconds without a look for incidents.
_NO_DETECTIONS = 600.0


def _complaints(name: str, scraped: Scrape, settings: Settings) -> Iterator[Finding]:
    if not scraped.of("authsvc_uptime_seconds"):
        yield error(f"{name} answers with metrics of something else", "correct --url")
        return
    for metric, (problem, remedy) in WRONG_IF_SET.items():
        if scraped.value(metric):
            yield warning(f"{name}: {problem} ({metric})", remedy)
    for metric, (problem, remedy) in WRONG_IF_NOT_SET.items():
        if scraped.value(metric) == 0:
            yield warning(f"{name}: {problem} ({metric})", remedy)
    in_force = [labels["fingerprint"] for labels, _ in scraped.of("authsvc_settings_info")]
    if in_force and in_force != [Reload(settings).fingerprint]:
        yield warning(
            f"{name}: it runs with other settings than these",
            "run doctor with the same file, secrets and environment; if it did, restart the"
            " replica, or wait until the rollout is over",
        )
    age = scraped.value("authsvc_revocation_read_age_seconds")
    bound = settings.sessions.cache_staleness.total_seconds()
    if age is not None and age > bound:
        yield error(
            f"{name}: it read the revocations {age:.1f} s ago, more than"
            f" sessions.cache_staleness ({bound:g} s)",
            "look at its connection to the database and at the CPU that it gets",
        )
    looked = scraped.value("authsvc_detections_age_seconds")
    if looked is not None and looked > _NO_DETECTIONS:
        yield warning(
            f"{name}: no replica has looked for incidents for {looked:.0f} s",
            "look at the log of the replicas for failures of the database",
        )
