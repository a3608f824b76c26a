"""`authsvc config check` looks at the files that the settings name; with --deep it uses all."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from authsvc.cli.config_check import Finding, check_deeply, check_files, check_telemetry
from authsvc.config import DeliverySettings, ProviderSettings, Settings, WebhookSettings, load
from authsvc.dev.workspace import Workspace
from tests.cli.conftest import Command
from tests.support.breached import RangeServer
from tests.support.databases import opened
from tests.support.mail_server import mail_server, settings_for
from tests.support.otlp import Collector
from tests.support.provider import LocalProvider, saying
from tests.support.stored import add_user


@pytest.fixture
def settings(workspace: Workspace, database_dsn: str) -> Settings:
    """Settings of which everything works; they name no provider."""
    workspace.set_database(database_dsn)
    loaded = load(workspace.config, secrets_dir=workspace.secrets)
    here = {"address": "127.0.0.1:0"}
    return loaded.model_copy(
        update={
            "grpc": loaded.grpc.model_copy(update=here),
            "http": loaded.http.model_copy(update=here),
            "oauth": loaded.oauth.model_copy(update={"providers": {}}),
        }
    )


def _with(settings: Settings, section: str, **changes: object) -> Settings:
    part: Any = getattr(settings, section)
    return settings.model_copy(update={section: part.model_copy(update=changes)})


async def _problems(settings: Settings) -> dict[str, str]:
    return {each.name: each.problem for each in await check_deeply(settings) if each.problem}


async def test_what_works_is_told_line_by_line(settings: Settings) -> None:
    findings = await check_deeply(settings)
    assert [each.name for each in findings] == [
        "grpc.address",
        "http.address",
        "tls",
        "database.url",
        "secrets",
        "delivery.folder",
    ]
    assert [each.problem for each in findings] == [None] * len(findings)


async def test_collector_is_asked(settings: Settings, collector: Collector) -> None:
    asked = settings.model_copy(update={"telemetry": collector.settings()})
    findings = await check_deeply(asked)
    key = "telemetry.otlp_endpoint"
    assert findings[-2:] == [
        Finding(key, None, f"the collector takes {signal}") for signal in ("traces", "metrics")
    ]
    assert not collector.spans
    collector.refusal = grpc.StatusCode.UNAUTHENTICATED
    assert await check_telemetry(asked) == [
        Finding(key, f"the collector takes no {signal}: UNAUTHENTICATED: not now")
        for signal in ("traces", "metrics")
    ]
    missing = _with(asked, "telemetry", otlp_endpoint="https://localhost", ca_file=Path("/nowhere"))
    [finding] = await check_telemetry(missing)
    assert finding.problem == "telemetry: /nowhere can't be read: No such file or directory"


@pytest.mark.slow
def test_missing_files_are_named_without_deep(command: Command, workspace: Workspace) -> None:
    (workspace.certificates / "server.key").unlink()
    with workspace.config.open("a") as stream:
        stream.write('[oauth.providers.other]\nkind = "github"\nclient_id = "a"\nca_file = "none"')
    (workspace.secrets / "oauth__providers__other__client_secret").write_text("x")
    result = command("config", "check")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "error: tls.key_file: .authsvc/certs/server.key: No such file or directory",
        "error: oauth.providers.other.ca_file: none: No such file or directory",
    ]


def test_missing_authorities_of_mail_are_told_once(settings: Settings, tmp_path: Path) -> None:
    smtp = {"host": "mail.test", "sender": "a@b.test", "ca_file": tmp_path / "none"}
    delivery = DeliverySettings.model_validate({"channel": "smtp", "smtp": smtp})
    problems = check_files(settings.model_copy(update={"delivery": delivery}))
    assert problems == [f"delivery.smtp.ca_file: {tmp_path}/none: No such file or directory"]


@pytest.mark.slow
def test_deep_check_prints_lines_and_exits_with_code_1(
    command: Command, workspace: Workspace, database_dsn: str, blank_dsn: str
) -> None:
    good = command("config", "check", "--deep")
    assert "ok: database.url: reachable, with this version's schema" in good.output
    assert "error: oauth.providers.local: its answers can't be used: provider failed" in (
        good.output
    )
    assert good.exit_code == 1
    workspace.set_database(blank_dsn)
    bad = command("config", "check", "--deep")
    assert bad.exit_code == 1
    assert "error: database.url: " in bad.output
    assert "authsvc migrate" in bad.output
    assert "ok: tls: certificate, key and authorities fit one another" in bad.output


async def test_certificates_that_do_not_fit_are_told(
    settings: Settings, workspace: Workspace
) -> None:
    other = workspace.certificates / "clients" / "app.key"
    problems = await _problems(_with(settings, "tls", key_file=other))
    assert list(problems) == ["tls"]
    assert "app.key" in problems["tls"]
    tls = settings.tls.model_copy(update={"certificate_file": other})
    assert list(await _problems(_with(settings, "http", tls=tls))) == ["http.tls"]


async def test_addresses_of_other_machines_are_told(settings: Settings) -> None:
    problems = await _problems(_with(settings, "grpc", address="203.0.113.1:8443"))
    assert problems == {"grpc.address": "it is not an address of this machine"}


async def test_unreachable_database_names_its_host(settings: Settings) -> None:
    database = settings.database.model_validate(
        {"url": "postgresql://a:hidden@127.0.0.1:1/b", "listener_url": "host=127.0.0.1 port=2"}
    )
    problems = await _problems(settings.model_copy(update={"database": database}))
    assert list(problems) == ["database.url", "database.listener_url"]
    assert "refused (127.0.0.1:1)" in problems["database.url"]
    assert "refused (127.0.0.1:2)" in problems["database.listener_url"]
    assert "hidden" not in str(problems)


async def test_mail_server_is_connected_to(settings: Settings, tmp_path: Path) -> None:
    authority = trustme.CA()
    async with mail_server(authority, login=True) as server:
        smtp = settings_for(server, authority, tmp_path, username="mail", password="wrong")
        wrong = _with(settings, "delivery", channel="smtp", smtp=smtp)
        assert await _problems(wrong) == {
            "delivery.smtp": "messages could not be sent: login: 535 5.7.8 Authentication"
            " credentials invalid",
        }
        stranger = settings_for(server, trustme.CA(), tmp_path)
        distrusted = _with(settings, "delivery", channel="smtp", smtp=stranger)
        problems = await _problems(distrusted)
        assert problems["delivery.smtp"].startswith("messages could not be sent: tls")
    async with mail_server(authority) as server:
        smtp = settings_for(server, authority, tmp_path)
        assert await _problems(_with(settings, "delivery", channel="smtp", smtp=smtp)) == {}


async def test_webhook_is_asked_without_a_message(settings: Settings) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    webhook = WebhookSettings.model_validate(
        {"url": f"http://127.0.0.1:{port}/hook", "secrets": ["whsec_" + "A" * 32]}
    )
    delivery = _with(settings, "delivery", channel="webhook", webhook=webhook)
    assert await _problems(delivery) == {}
    assert asked == [b"HEAD /hook HTTP/1.1\r\n"]
    server.close()
    await server.wait_closed()
    problems = await _problems(delivery)
    assert problems["delivery.webhook"].startswith("messages could not be sent: connection")


async def test_folder_of_messages_has_to_be_writable(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert await _problems(_with(settings, "delivery", folder=tmp_path / "file" / "below")) == {
        "delivery.folder": "messages could not be sent: folder"
    }


async def test_providers_are_asked_as_by_a_login(
    settings: Settings, provider: LocalProvider
) -> None:
    good = provider.settings()
    other = ProviderSettings.model_validate(good.model_dump() | {"address": f"{good.address}/else"})
    providers = {"good": good, "other": other, "github": provider.settings("github")}
    problems = await _problems(_with(settings, "oauth", providers=providers))
    assert list(problems) == ["oauth.providers.other"]
    assert problems["oauth.providers.other"].startswith("its answers can't be used: ")


async def test_service_of_breached_passwords_is_asked(
    settings: Settings, ranges: RangeServer, tmp_path: Path
) -> None:
    def asking(**more: object) -> Settings:
        return _with(settings, "passwords", breached=ranges.asked_by(**more))

    assert await _problems(asking()) == {}
    assert [each.detail for each in await check_deeply(asking())][-1] == (
        "knows 0 passwords of the range 00000"
    )
    ranges.handler = saying("<html>", 500)
    problem = (await _problems(asking()))["passwords.breached"]
    assert problem.startswith("its answer can't be used: provider failed (")
    (tmp_path / "ca.crt").write_text("no certificate")
    problem = (await _problems(asking(ca_file=tmp_path / "ca.crt")))["passwords.breached"]
    assert problem.startswith("passwords.breached.ca_file: ")


async def test_missing_pepper_is_noticed(settings: Settings) -> None:
    async with (
        opened(settings.database.url.get_secret_value()) as database,
        database.connection() as connection,
    ):
        user_id = await add_user(connection, phc="x")
        await connection.execute("UPDATE users SET pepper_id = 'lost' WHERE user_id = $1", user_id)
    problem = (await _problems(settings))["secrets"]
    assert problem.startswith('secrets.peppers has no pepper "lost", with which passwords are')
