"""`authsvc doctor` finds what the service calls, and published keys, that don't work."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
import pytest_asyncio
import trustme
from pydantic import SecretStr

from authsvc.cli.doctor import outside_checks
from authsvc.cli.doctor.findings import Level
from authsvc.config import (
    AuditForwardSettings,
    DeliverySettings,
    OAuthSettings,
    ProviderSettings,
    Settings,
    SyslogSettings,
    WebhookSettings,
)
from authsvc.core.lib.clock import SystemClock
from authsvc.core.lib.sealing import Keyring
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.models.calls import Call
from authsvc.store.postgres.database import Database
from tests.support.breached import RangeServer
from tests.support.databases import settings_for
from tests.support.doctor import examine, levels, only
from tests.support.mail_server import MailServer, mail_server
from tests.support.mail_server import settings_for as mail_settings
from tests.support.otlp import Collector
from tests.support.ports import port_of
from tests.support.probe import with_changes
from tests.support.provider import LocalProvider, saying
from tests.support.syslog_server import SyslogServer


def by_mail(settings: Settings, smtp: Any) -> Settings:
    return with_changes(settings, "delivery", channel="smtp", smtp=smtp)


# Messages and audit events


async def test_mail_server_is_asked_without_a_mail(settings: Settings, tmp_path: Path) -> None:
    authority = trustme.CA()
    async with mail_server(authority, login=True) as server:
        good = mail_settings(
            server, authority, tmp_path, username="authsvc", password="mail-password"
        )
        assert await levels("delivery.channel", by_mail(settings, good)) == [Level.OK]
        assert server.commands == ["MAIL"]
        assert server.envelopes == []
        wrong = good.model_validate(good.model_dump() | {"password": "guess-4711"})
        found = await examine("delivery.channel", by_mail(settings, wrong))
        assert [each.level for each in found] == [Level.ERROR]
        assert "login: 535" in found[0].text
        assert "guess-4711" not in str(found)


@pytest.mark.parametrize(
    ("step", "answer", "shown"),
    [
        ("hello", "421 4.3.2 Try later", "hello_deferred: 421 4.3.2 Try later"),
        ("hello", "550 5.7.1 Your network is blocked", "hello_refused: 550 5.7.1 Your network"),
        ("sender", "550 5.7.1 Log in first", "refused: 550 5.7.1 Log in first"),
        ("sender", "421 4.7.0 Too much", "deferred: 421 4.7.0 Too much"),
    ],
)
@pytest.mark.parametrize("tls", ["off", "starttls"])
async def test_mail_server_that_takes_no_mail_is_quoted(
    settings: Settings, tmp_path: Path, tls: str, step: str, answer: str, shown: str
) -> None:
    """Without a login, which would come to it before."""
    authority = trustme.CA()
    async with mail_server(authority if tls == "starttls" else None) as server:
        setattr(server, step, answer)
        smtp = mail_settings(server, authority, tmp_path, tls=tls)
        assert shown in await only(Level.ERROR, "delivery.channel", by_mail(settings, smtp))


@pytest.mark.parametrize("greeting", ["554 5.7.1 No service here", "421 4.3.2 Closing"])
async def test_mail_server_that_turns_away_at_once_is_quoted(
    settings: Settings, tmp_path: Path, greeting: str
) -> None:
    async def turn_away(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{greeting}\r\n".encode())
        writer.close()

    async with await asyncio.start_server(turn_away, "127.0.0.1", 0) as server:
        there = MailServer(port=server.sockets[0].getsockname()[1])
        smtp = mail_settings(there, trustme.CA(), tmp_path, tls="off")
        text = await only(Level.ERROR, "delivery.channel", by_mail(settings, smtp))
        assert greeting in text


async def test_mail_server_that_cannot_be_trusted_is_an_error(
    settings: Settings, tmp_path: Path
) -> None:
    async with mail_server(trustme.CA()) as server:
        smtp = mail_settings(server, trustme.CA(), tmp_path)
        text = await only(Level.ERROR, "delivery.channel", by_mail(settings, smtp))
        assert "tls" in text


async def test_mail_server_that_is_silent_ends_by_its_timeout(
    settings: Settings, tmp_path: Path
) -> None:
    authority = trustme.CA()
    async with mail_server(authority) as server:
        server.hang = True
        smtp = mail_settings(server, authority, tmp_path, timeout="100ms")
        text = await only(Level.ERROR, "delivery.channel", by_mail(settings, smtp))
        assert "timeout" in text


async def test_channel_that_sends_nothing_is_ok(settings: Settings) -> None:
    assert await levels("delivery.channel", settings) == [Level.OK]


async def test_template_that_does_not_work_is_an_error(settings: Settings, tmp_path: Path) -> None:
    delivery = DeliverySettings.model_validate({"links": {"no_such_kind": "https://a.test"}})
    broken = settings.model_copy(update={"delivery": delivery})
    assert "no such kind" in await only(Level.ERROR, "delivery.channel", broken)


def forwarding(settings: Settings, target: str, to: Any) -> Settings:
    forward = AuditForwardSettings.model_validate({"target": target, target: to})
    return with_changes(settings, "audit", forward=forward)


async def test_syslog_server_is_asked_without_an_event(settings: Settings, tmp_path: Path) -> None:
    assert await levels("delivery.audit", settings) == [Level.SKIPPED]
    async with SyslogServer(tmp_path) as server:
        to = SyslogSettings(host="localhost", port=server.port, ca_file=server.ca_file)
        assert await levels("delivery.audit", forwarding(settings, "syslog", to)) == [Level.OK]
        distrusting = to.model_copy(update={"ca_file": None})
        text = await only(
            Level.ERROR, "delivery.audit", forwarding(settings, "syslog", distrusting)
        )
        assert text == "audit.forward.syslog: tls"
    assert server.messages in ([], [b""])
    text = await only(Level.ERROR, "delivery.audit", forwarding(settings, "syslog", to))
    assert text == "audit.forward.syslog: connection"


async def test_webhook_of_audit_events_is_asked(settings: Settings, unheard: socket.socket) -> None:
    to = WebhookSettings.model_validate(
        {"url": f"http://127.0.0.1:{port_of(unheard)}/x", "secrets": ["whsec_" + "A" * 32]}
    )
    text = await only(Level.ERROR, "delivery.audit", forwarding(settings, "webhook", to))
    assert text == "audit.forward.webhook: connection"


# Providers


async def test_provider_that_is_another_issuer_is_an_error(
    settings: Settings, provider: LocalProvider
) -> None:
    assert await levels("providers.discovery", settings) == [Level.SKIPPED]
    providers = {"shop": provider.settings(), "github": provider.settings("github")}
    asked = settings.model_copy(update={"oauth": OAuthSettings(providers=providers)})
    assert await levels("providers.discovery", asked) == [Level.OK, Level.OK]
    provider.issuer = "https://elsewhere.test"
    text = await only(Level.ERROR, "providers.discovery", asked)
    assert "issuer differs" in text


@pytest.mark.parametrize("kind", ["github", "oidc"])
async def test_provider_that_refuses_the_client_is_an_error(
    settings: Settings, provider: LocalProvider, kind: Literal["github", "oidc"]
) -> None:
    expired = provider.settings(kind, client_secret="the one before")
    asked = settings.model_copy(update={"oauth": OAuthSettings(providers={"shop": expired})})
    found = await examine("providers.discovery", asked)
    assert [each.level for each in found] == [Level.ERROR]
    assert "check client_id and client_secret" in found[0].text
    assert "the one before" not in str(found)


async def test_github_is_asked_at_both_of_its_addresses(
    settings: Settings, provider: LocalProvider, unheard: socket.socket
) -> None:
    nowhere = f"http://127.0.0.1:{port_of(unheard)}"
    for broken in ("address", "api_address"):
        github = provider.settings("github", **{broken: nowhere})
        asked = settings.model_copy(update={"oauth": OAuthSettings(providers={"github": github})})
        text = await only(Level.ERROR, "providers.discovery", asked)
        assert f"host=127.0.0.1:{port_of(unheard)}" in text


async def test_provider_of_tour_need_not_run(
    settings: Settings, unheard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_checks, "PROVIDER_PORT", port_of(unheard))
    local = ProviderSettings(
        kind="oidc",
        address=f"http://127.0.0.1:{port_of(unheard)}",
        client_id="authsvc-dev",
        client_secret=SecretStr("of-the-state-folder"),
    )
    for client, level in ("authsvc-dev", Level.SKIPPED), ("another", Level.ERROR):
        provider = local.model_copy(update={"client_id": client})
        oauth = OAuthSettings(providers={"local": provider})
        asked = settings.model_copy(update={"oauth": oauth})
        assert await levels("providers.discovery", asked) == [level]


async def test_collector_that_takes_nothing_is_an_error(
    settings: Settings, collector: Collector
) -> None:
    assert await levels("telemetry.collector", settings) == [Level.SKIPPED]
    sending = settings.model_copy(update={"telemetry": collector.settings()})
    assert await levels("telemetry.collector", sending) == [Level.OK, Level.OK]
    without = settings.model_copy(update={"telemetry": collector.settings(metrics=False)})
    assert await levels("telemetry.collector", without) == [Level.OK]
    collector.refusal = grpc.StatusCode.UNIMPLEMENTED
    found = await examine("telemetry.collector", sending)
    assert [each.text for each in found if each.level is Level.ERROR] == [
        f"telemetry.otlp_endpoint: the collector takes no {signal}: UNIMPLEMENTED: not now"
        for signal in ("traces", "metrics")
    ]


async def test_collector_that_is_not_there_is_an_error_without_the_secret(
    settings: Settings, collector: Collector, unheard: socket.socket
) -> None:
    nowhere = collector.settings(
        otlp_endpoint=f"http://127.0.0.1:{port_of(unheard)}",
        authorization="Bearer token-4711",
        metrics=False,
        timeout="1s",
    )
    sending = settings.model_copy(update={"telemetry": nowhere})
    found = await examine("telemetry.collector", sending)
    assert [each.level for each in found] == [Level.ERROR]
    assert "token-4711" not in str(found)


async def test_service_of_breached_passwords_that_fails_is_an_error(
    settings: Settings, ranges: RangeServer
) -> None:
    assert await levels("providers.breached", settings) == [Level.SKIPPED]
    asking = with_changes(settings, "passwords", breached=ranges.asked_by())
    assert await levels("providers.breached", asking) == [Level.OK]
    ranges.handler = saying("<html>", 500)
    assert "status=500" in await only(Level.ERROR, "providers.breached", asking)


# Published keys


@pytest.fixture
def issuing(settings: Settings, database_dsn: str, provider: LocalProvider) -> Settings:
    """Settings whose issuer is a server that a test controls."""
    made = with_changes(settings, "tokens", issuer=provider.address)
    return made.model_copy(update={"database": settings_for(database_dsn)})


@pytest_asyncio.fixture
async def keys(issuing: Settings, database: Database, provider: LocalProvider) -> SigningKeys:
    """The signing keys of the database, which the server publishes."""
    made = SigningKeys(
        database=database,
        keyring=Keyring(issuing.secrets.keyring),
        settings=issuing.tokens,
        clock=SystemClock(),
    )
    await made.load()
    async with database.connection() as connection:
        await connection.execute("UPDATE signing_keys SET create_time = now() - interval '1 day'")
    provider.keys = json.loads(made.jwks())["keys"]
    return made


async def test_published_keys_are_those_of_the_database(
    issuing: Settings, keys: SigningKeys
) -> None:
    assert await levels("jwks.published", issuing) == [Level.OK, Level.OK]


async def test_issuer_that_cannot_be_reached_is_named(
    settings: Settings, unheard: socket.socket
) -> None:
    nobody = with_changes(settings, "tokens", issuer=f"http://127.0.0.1:{port_of(unheard)}")
    text = await only(Level.WARNING, "jwks.published", nobody)
    assert "can't fetch keys" in text
    secret = with_changes(settings, "tokens", algorithm="HS256")
    assert await levels("jwks.published", secret) == [Level.SKIPPED]


async def test_keys_of_another_service_are_an_error(
    issuing: Settings, keys: SigningKeys, provider: LocalProvider
) -> None:
    for number, key in enumerate(provider.keys):
        key["kid"] = str(number)
    text = await only(Level.ERROR, "jwks.published", issuing)
    assert text == "none of the published keys is one of the database's"


async def test_key_that_is_not_published_is_an_error(
    issuing: Settings, keys: SigningKeys, provider: LocalProvider, database: Database
) -> None:
    del provider.keys[0]
    assert "is not published" in await only(Level.ERROR, "jwks.published", issuing)
    # One that was just made may not have reached a cache.
    async with database.connection() as connection:
        await connection.execute("UPDATE signing_keys SET create_time = now()")
    assert await levels("jwks.published", issuing) == [Level.OK, Level.OK]


async def test_revoked_key_that_is_still_published_is_an_error(
    issuing: Settings, keys: SigningKeys
) -> None:
    await keys.revoke(Call(request_id="1", caller="test"), keys.active.key_id)
    found = await examine("jwks.published", issuing)
    assert "is still published" in " ".join(
        each.text for each in found if each.level is Level.ERROR
    )


async def test_key_with_another_value_is_an_error(
    issuing: Settings, keys: SigningKeys, provider: LocalProvider
) -> None:
    provider.keys[0]["x"] = provider.keys[1]["x"]
    assert "with another value" in await only(Level.ERROR, "jwks.published", issuing)
    provider.keys.append({"kid": "removed-long-ago"})
    assert "not in the database" in await only(Level.WARNING, "jwks.published", issuing)


async def test_another_issuer_behind_the_address_is_an_error(
    issuing: Settings, keys: SigningKeys, provider: LocalProvider
) -> None:
    provider.issuer = "https://elsewhere.test"
    text = await only(Level.ERROR, "jwks.published", issuing)
    assert text.endswith("names another issuer")


async def test_keys_are_fetched_without_the_database_too(
    settings: Settings, provider: LocalProvider
) -> None:
    alone = with_changes(settings, "tokens", issuer=provider.address)
    assert await levels("jwks.published", alone) == [Level.OK, Level.SKIPPED]
