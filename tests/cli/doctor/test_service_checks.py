"""`authsvc doctor` asks the running service as its callers do."""

import re
import socket
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authsvc.app.metrics import SECTIONS
from authsvc.cli.doctor import service_checks
from authsvc.cli.doctor.findings import Level
from authsvc.config import Settings
from tests.support.certificates import Authority, Certificate
from tests.support.databases import until
from tests.support.doctor import examine, levels, only
from tests.support.ports import port_of
from tests.support.probe import StartProbe, identity_of, with_changes
from tests.support.provider import LocalProvider, saying
from tests.support.service import StartService

SERVER_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])


def written(folder: Path, certificate: Certificate) -> dict[str, Path]:
    """Return the options for a client with this certificate."""
    files = {"cert": folder / "client.crt", "key": folder / "client.key"}
    files["cert"].write_bytes(certificate.certificate)
    files["key"].write_bytes(certificate.key)
    return files


def at(settings: Settings, port: int) -> Settings:
    return with_changes(settings, "grpc", address=f"127.0.0.1:{port}")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second look follow the first one, and a busy machine take its time."""
    monkeypatch.setattr(service_checks, "_SETTLE", 0.0)
    monkeypatch.setattr(service_checks, "_PATIENCE", 60.0)


# Health and certificate


async def test_service_that_is_not_here_is_skipped(
    settings: Settings, unheard: socket.socket
) -> None:
    nobody = at(settings, port_of(unheard))
    assert "no service runs here" in await only(Level.SKIPPED, "service.health", nobody)
    assert "no service runs here" in await only(Level.SKIPPED, "service.certificate", nobody)
    # But where callers look for it, it has to be.
    target = f"127.0.0.1:{port_of(unheard)}"
    text = await only(Level.ERROR, "service.health", settings, targets=(target,))
    assert text.startswith(f"{target} does not answer")
    assert await levels("service.certificate", settings, targets=(target,)) == [Level.ERROR]


async def test_health_is_asked_over_mutual_tls(
    settings: Settings, start_probe: StartProbe, authority: Authority, tmp_path: Path
) -> None:
    probe = await start_probe(settings)
    here = at(settings, probe.server.port)
    assert "is SERVING" in await only(Level.OK, "service.health", here)
    client = written(tmp_path, authority.caller(identity_of("app")))
    assert await levels("service.health", here, **client) == [Level.OK]
    named = (f"localhost:{probe.server.port}",)
    assert await levels("service.health", here, targets=named, **client) == [Level.OK]
    probe.server.set_serving(serving=False)
    text = await only(Level.ERROR, "service.health", here)
    assert text.endswith("is NOT_SERVING")


async def test_client_of_another_authority_is_told(
    settings: Settings, start_probe: StartProbe, tmp_path: Path
) -> None:
    probe = await start_probe(settings)
    stranger = written(tmp_path, Authority("Others").caller("spiffe://a/b"))
    here = at(settings, probe.server.port)
    assert await levels("service.health", here, **stranger) == [Level.ERROR]


async def test_certificate_for_servers_only_needs_a_client(
    settings: Settings, start_probe: StartProbe, authority: Authority
) -> None:
    server = authority.server(extensions=[SERVER_ONLY])
    settings.tls.certificate_file.write_bytes(server.certificate)
    settings.tls.key_file.write_bytes(server.key)
    probe = await start_probe(settings)
    text = await only(Level.SKIPPED, "service.health", at(settings, probe.server.port))
    assert "by --cert and --key" in text


async def test_certificate_that_was_not_reloaded_is_named(
    settings: Settings, start_probe: StartProbe, authority: Authority
) -> None:
    probe = await start_probe(settings)
    here = at(settings, probe.server.port)
    assert await levels("service.certificate", here) == [Level.OK]
    renewed = authority.server(not_after=datetime(2048, 1, 1, tzinfo=UTC))
    settings.tls.certificate_file.write_bytes(renewed.certificate)
    settings.tls.key_file.write_bytes(renewed.key)
    text = await only(Level.WARNING, "service.certificate", here)
    assert "presents another certificate" in text


# Metrics

WELL = "authsvc_uptime_seconds 5\n"
BAD = [
    ("authsvc_settings_restart_needed 1", Level.WARNING, "only a restart puts into force"),
    ("authsvc_settings_reload_failed 1", Level.WARNING, "the settings in the file are invalid"),
    ("authsvc_migrations_pending 2", Level.WARNING, "lacks migrations"),
    ("authsvc_outbox_abandoned 3", Level.WARNING, "messages to users were given up"),
    ("authsvc_callers_without_client_ip 1", Level.WARNING, "without client.ip"),
    ("authsvc_login_freezes 1", Level.WARNING, "logins are frozen"),
    ("authsvc_revocation_listener_up 0", Level.WARNING, "caches are bypassed"),
    ("authsvc_doorbell_up 0", Level.WARNING, "so it polls"),
    ("authsvc_ip_blocks_fresh 0", Level.WARNING, "blocked addresses are not read"),
    ("authsvc_database_up 0", Level.WARNING, "can't reach its database"),
    ("authsvc_tls_reload_failed 1", Level.WARNING, "earlier ones are served"),
    ("authsvc_http_tls_reload_failed 1", Level.WARNING, "the certificate files of the HTTP port"),
    ('authsvc_settings_info{fingerprint="0"} 1', Level.WARNING, "other settings than these"),
    ("authsvc_revocation_read_age_seconds 7.5", Level.ERROR, "7.5 s ago"),
    ("authsvc_detections_age_seconds 900", Level.WARNING, "for incidents for 900 s"),
]


def test_metrics_that_are_looked_at_exist() -> None:
    known = {metric.name for _, section in SECTIONS for metric in section}
    assert known >= {re.split("[ {]", line)[0] for line, *_ in BAD}
    assert {line.partition(" ")[0] for line, *_ in BAD} >= {
        *service_checks.WRONG_IF_SET,
        *service_checks.WRONG_IF_NOT_SET,
    }


@pytest.mark.parametrize(("line", "level", "said"), BAD, ids=[line for line, *_ in BAD])
async def test_what_metrics_complain_of_is_told(
    settings: Settings, provider: LocalProvider, line: str, level: Level, said: str
) -> None:
    provider.answers["/metrics"] = saying(f"{WELL}{line}\n", content_type="text/plain")
    assert said in await only(level, "service.metrics", settings, urls=(provider.address,))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("node_load1 3\n", 200, "metrics of something else"),
        ("<html>", 200, "something else than metrics"),
        ("", 503, "answers 503"),
    ],
)
async def test_metrics_of_something_else_are_told(
    settings: Settings, provider: LocalProvider, body: str, status: int, said: str
) -> None:
    provider.answers["/metrics"] = saying(body, status)
    text = await only(Level.ERROR, "service.metrics", settings, urls=(provider.address,))
    assert said in text


async def test_complaint_that_passes_is_none(settings: Settings, provider: LocalProvider) -> None:
    answers = [f"{WELL}authsvc_doorbell_up 0\n", f"{WELL}authsvc_doorbell_up 1\n"]

    async def improve(request: web.Request) -> web.StreamResponse:
        return await saying(answers.pop(0), content_type="text/plain")(request)

    provider.answers["/metrics"] = improve
    assert await levels("service.metrics", settings, urls=(provider.address,)) == [Level.OK]
    assert answers == []


async def test_replica_without_metrics_is_an_error_if_it_was_named(
    settings: Settings, unheard: socket.socket
) -> None:
    here = with_changes(settings, "http", address=f"127.0.0.1:{port_of(unheard)}")
    assert await levels("service.metrics", here) == [Level.SKIPPED]
    named = (f"127.0.0.1:{port_of(unheard)}",)
    text = await only(Level.ERROR, "service.metrics", settings, urls=named)
    assert "can't be reached" in text
    assert await levels("service.metrics", settings, urls=("ftp://x",)) == [Level.ERROR]


async def test_service_that_listens_and_does_not_answer_is_an_error(
    settings: Settings, unheard: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is frozen: the kernel takes its connections."""
    monkeypatch.setattr(service_checks, "_PATIENCE", 0.2)
    unheard.listen()
    here = at(
        with_changes(settings, "http", address=f"127.0.0.1:{port_of(unheard)}"), port_of(unheard)
    )
    assert "did not answer" in await only(Level.ERROR, "service.certificate", here)
    assert "does not answer in time" in await only(Level.ERROR, "service.metrics", here)


async def _is_well(settings: Settings, **options: Any) -> bool:
    """Return whether there are no complaints, but that a port was chosen after the start."""
    found = await examine("service.metrics", settings, **options)
    return all("other settings" in each.text or each.level is Level.OK for each in found)


@pytest.fixture
def eager(live_settings: Settings) -> Settings:
    """Settings for a service that looks for incidents every second."""
    return with_changes(live_settings, "detections", interval=timedelta(seconds=1))


@pytest.mark.fast
async def test_running_service_is_well(start_service: StartService, eager: Settings) -> None:
    service = await start_service(eager)
    settings = at(eager, service.app.grpc_port)
    here = with_changes(settings, "http", address=f"127.0.0.1:{service.app.http_port}")
    assert await levels("service.health", here) == [Level.OK]
    assert await levels("service.certificate", here) == [Level.OK]
    await until(partial(_is_well, here))
    # It publishes its keys as another issuer's than the one by whose address it is asked.
    issuer = f"http://127.0.0.1:{service.app.http_port}"
    asked = with_changes(here, "tokens", issuer=issuer)
    assert await levels("jwks.published", asked) == [Level.ERROR]


async def test_metrics_behind_tls_are_read_with_the_services_own_certificate(
    start_service: StartService, eager: Settings, authority: Authority, tmp_path: Path
) -> None:
    secured = with_changes(eager, "http", tls=eager.tls)
    service = await start_service(secured)
    here = with_changes(secured, "http", address=f"127.0.0.1:{service.app.http_port}")
    await until(partial(_is_well, here))
    # Elsewhere, it takes a certificate and authorities.
    url = f"https://localhost:{service.app.http_port}"
    client = written(tmp_path, authority.caller(identity_of("observer")))
    ca = eager.tls.client_ca_file
    assert await _is_well(secured, urls=(url,), ca=ca, **client)
    text = await only(Level.ERROR, "service.metrics", secured, urls=(url,), ca=ca)
    assert text.endswith("answers 403")
    assert await levels("service.metrics", secured, urls=(url,)) == [Level.ERROR]
