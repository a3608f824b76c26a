"""Owns the checks of what the service calls, and of where verifiers fetch its keys."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import aiohttp

from authsvc.cli import config_check
from authsvc.cli.config_check import (
    check_breached_passwords,
    check_delivery,
    check_providers,
    check_telemetry,
)
from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, skipped, warning
from authsvc.cli.log_capture import captured_logs, why
from authsvc.config import ConfigError, Settings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.dev.workspace import PROVIDER_CLIENT, PROVIDER_HOST, PROVIDER_PORT
from authsvc.errors import ProviderMisconfigured, ProviderUnavailable
from authsvc.models.signing import KeyState
from authsvc.outbound.http import JsonClient, open_session
from authsvc.outbound.proxy import proxy_rules
from authsvc.outbound.syslog import SyslogTarget
from authsvc.outbound.webhook import WebhookChannel

_DISCOVERY = "/.well-known/openid-configuration"
_MAX_BYTES = 1 << 20
_SECONDS = 10.0
# How long published keys may be cached on the way here.
_CACHED = timedelta(minutes=6)


async def delivery(deployment: Deployment) -> Sequence[Finding]:
    """Check that the mail server or webhook would accept messages; none is sent."""
    remedy = (
        "correct the section delivery, or what it names: port and tls belong together (587"
        " starttls, 465 implicit), ca_file is for an authority that the system does not know"
    )
    return _used(await check_delivery(deployment.settings), remedy)


async def breached_passwords(deployment: Deployment) -> Sequence[Finding]:
    """Check that the service of breached passwords answers."""
    remedy = (
        "correct passwords.breached, or let the service reach it; until then"
        f" on_failure = {deployment.settings.passwords.breached.on_failure}"
    )
    found = await check_breached_passwords(deployment.settings)
    return _used(found, remedy) or [skipped("passwords.breached.address is not set")]


async def providers(deployment: Deployment) -> Sequence[Finding]:
    """Check that each identity provider answers as it should, with a code that it never issued."""
    remedy = (
        "set address to the provider's issuer (of GitHub: address and api_address), client_id and"
        " client_secret to those that it shows, ca_file to its authority if that is your own, and"
        " outbound.proxy if it is reached through one; logins there fail until then"
    )
    found = await check_providers(deployment.settings)
    # The provider in the settings that `authsvc dev` makes runs only while somebody tries it out.
    away = [each for each in found if each.problem and _is_of_tour(deployment.settings, each)]
    return [
        *_used([each for each in found if each not in away], remedy),
        *(skipped(f"{each.name} does not run; `make demo` starts it for a while") for each in away),
    ] or [skipped("oauth.providers is empty")]


def _is_of_tour(settings: Settings, used: config_check.Finding) -> bool:
    return any(
        used.name == f"oauth.providers.{name}"
        and provider.address == f"http://{PROVIDER_HOST}:{PROVIDER_PORT}"
        and provider.client_id == PROVIDER_CLIENT
        for name, provider in settings.oauth.providers.items()
    )


async def telemetry(deployment: Deployment) -> Sequence[Finding]:
    """Check that the OpenTelemetry collector takes what the service sends; nothing is sent."""
    remedy = (
        "correct the section telemetry, or the collector: it has to receive OTLP over gRPC, in a"
        " pipeline for each signal; until then, traces and metrics are lost, and nothing else"
    )
    found = _used(await check_telemetry(deployment.settings), remedy)
    return found or [skipped("telemetry.otlp_endpoint is not set")]


def _used(found: Sequence[config_check.Finding], remedy: str) -> Sequence[Finding]:
    return [
        error(f"{each.name}: {each.problem}", remedy)
        if each.problem
        else ok(f"{each.name}: {each.detail}")
        for each in found
    ]


async def audit_forward(deployment: Deployment) -> Sequence[Finding]:
    """Check that the target of audit events can be reached; no event is sent."""
    settings = deployment.settings
    forward = settings.audit.forward
    name = f"audit.forward.{forward.target}"
    try:
        if forward.target == "syslog" and forward.syslog:
            await SyslogTarget(forward.syslog).send([])
        elif forward.target == "webhook" and forward.webhook:
            proxies = proxy_rules(settings.outbound)
            channel = WebhookChannel(forward.webhook, proxies, deployment.machine)
            try:
                await channel.check()
            finally:
                await channel.close()
        else:
            raise Skip("audit.forward.target is none")
    except (NotForwarded, NotDelivered) as failure:
        return [error(f"{name}: {failure}", _FORWARD)]
    except OSError as failure:
        return [error(f"{name}: {failure.strerror or type(failure).__name__}", _FORWARD)]
    return [ok(f"{name}: accepts connections")]


_FORWARD = (
    "correct the section audit.forward, or the target; events wait in the database until then, for"
    " retention.audit_events"
)


async def jwks(deployment: Deployment) -> Sequence[Finding]:
    """Fetch the keys as a verifier does, and compare them with those of the database."""
    if deployment.settings.tokens.algorithm == "HS256":
        raise Skip("keys of HS256 are secret and not published")
    issuer = deployment.settings.tokens.issuer
    with captured_logs() as lines:
        try:
            async with open_session() as http:
                published = await _published(issuer, _client(deployment, http))
        except (ProviderMisconfigured, ProviderUnavailable):
            return [
                warning(
                    f"verifiers can't fetch keys from {issuer}: {why(lines)}",
                    "let that address lead to the HTTP port (http.address), and name its authority"
                    " by --issuer-ca; or set tokens.issuer. Verifiers that call GetJwks don't need"
                    " it: then leave this out by --skip jwks",
                )
            ]
    if published is None:
        return [
            error(
                f"the discovery document at {issuer} names another issuer",
                "let the address lead to this deployment, and give all replicas the same"
                " tokens.issuer",
            )
        ]
    found = ok(f"{len(published)} keys by way of {issuer}{_DISCOVERY}")
    try:
        keys = await deployment.signing_keys()
    except Skip:
        return [found, skipped("not compared with the keys of the database, which is not there")]
    return [found, *await _compare(deployment, keys, published)]


def _client(deployment: Deployment, http: aiohttp.ClientSession) -> JsonClient:
    try:
        return JsonClient(
            provider="issuer",
            session=http,
            timeout=_SECONDS,
            max_bytes=_MAX_BYTES,
            ca_file=deployment.options.issuer_ca,
            proxies=proxy_rules(deployment.settings.outbound),
        )
    except OSError:
        raise ConfigError([f"--issuer-ca: {deployment.options.issuer_ca} can't be used"]) from None


async def _published(issuer: str, client: JsonClient) -> Mapping[str, Any] | None:
    """Return the keys at the address, by their ids; None if another issuer is there."""
    answer = await client.get(issuer.rstrip("/") + _DISCOVERY)
    document = answer.members()
    if document.get("issuer") != issuer:
        return None
    if not isinstance(document.get("jwks_uri"), str):
        raise answer.failure()
    answer = await client.get(document["jwks_uri"])
    keys = answer.members().get("keys")
    if not isinstance(keys, list):
        raise answer.failure()
    return {key["kid"]: key for key in keys if isinstance(key, dict) and "kid" in key}


async def _compare(
    deployment: Deployment, keys: SigningKeys, published: Mapping[str, Any]
) -> Sequence[Finding]:
    stored = {key["kid"]: key for key in json.loads(keys.jwks())["keys"]}
    infos = {info.key_id: info for info in await keys.list()}
    now = (await deployment.clock()).now()
    recent = {key_id for key_id, info in infos.items() if now - info.create_time < _CACHED}
    revoked = {key_id for key_id, info in infos.items() if info.state is KeyState.REVOKED}
    if not stored:
        return [skipped("not compared: the database has no key yet")]
    found = list(_differences(stored, published, recent, revoked))
    return found or [ok("they are the keys of the database")]


def _differences(
    stored: Mapping[str, Any], published: Mapping[str, Any], recent: set[str], revoked: set[str]
) -> Iterator[Finding]:
    another = (
        "let tokens.issuer lead to this deployment's HTTP port, and its replicas use this database"
    )
    if not stored.keys() & published.keys():
        yield error("none of the published keys is one of the database's", another)
        return
    for key_id in stored.keys() - published.keys() - recent:
        yield error(
            f"the key {key_id} is not published, so tokens that it signed are refused",
            "look for a cache before the address that ignores Cache-Control; otherwise " + another,
        )
    for key_id in sorted(published.keys() & revoked):
        yield error(
            f"the revoked key {key_id} is still published",
            "purge the caches before the address; in at most five minutes others let go of it",
        )
    for key_id in sorted(published.keys() - stored.keys() - revoked):
        yield warning(
            f"the key {key_id} is published, but not in the database",
            "if that lasts for more than five minutes, a cache is too old, or " + another,
        )
    for key_id in sorted(stored.keys() & published.keys()):
        if stored[key_id] != published[key_id]:
            yield error(f"the key {key_id} is published with another value", another)
