"""From the outbox, and from an RPC, to a real mail server: what fails on the way is made good."""

import asyncio
import os
import re
import socket
import sys
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
from structlog.testing import capture_logs

from authsvc.app.application import Application
from authsvc.config import ConfigError, DeliverySettings, Settings
from authsvc.core.messages.delivery import Deliverer, Transport
from authsvc.outbound.rendering import TemplateRenderer
from authsvc.outbound.smtp import SmtpChannel
from authsvc.store.postgres.database import Database
from authsvc.v1.auth_service_pb2 import (
    LoginWithCodeRequest,
    RegisterRequest,
    RequestLoginCodeRequest,
    VerifyEmailRequest,
)
from tests.support.accounts import EMAIL, KEYRING, PASSWORD
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.delivering import ADDRESS, CODE, Mail
from tests.support.mail_server import MailServer, mail_server, settings_for
from tests.support.ports import port_of
from tests.support.service import StartService

_LEASE = timedelta(seconds=61)
_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mail_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def mail(database: Database, clock: FakeClock) -> Mail:
    return Mail(database, clock)


def _deliverer(mail: Mail, server: MailServer, authority: trustme.CA, folder: Path) -> Deliverer:
    transport = Transport(SmtpChannel(settings_for(server, authority, folder)), TemplateRenderer())
    return Deliverer(
        database=mail.database,
        keyring=KEYRING,
        transport=transport,
        settings=DeliverySettings(),
        clock=mail.clock,
    )


@pytest.mark.slow
async def test_messages_wait_while_server_is_down(
    mail: Mail, clock: FakeClock, mail_authority: trustme.CA, tmp_path: Path, unheard: socket.socket
) -> None:
    await mail.write_code()
    deliverer = _deliverer(mail, MailServer(port_of(unheard)), mail_authority, tmp_path)
    for _ in range(3):
        await deliverer.deliver_due()
        assert await mail.states() == [("pending", "connection")]
        clock.advance(timedelta(minutes=1))
    async with mail_server(mail_authority, listener=unheard) as server:
        await deliverer.deliver_due()
    assert [each["To"] for each in server.mails] == [ADDRESS]
    assert await mail.states() == [("sent", "")]


@pytest.mark.slow
async def test_rejected_recipient_does_not_block_others(
    mail: Mail, mail_authority: trustme.CA, tmp_path: Path
) -> None:
    await mail.write()
    async with mail_server(mail_authority) as server:
        deliverer = _deliverer(mail, server, mail_authority, tmp_path)
        server.rcpt = "550 5.1.1 No such user"
        await deliverer.deliver_due()
        server.rcpt = "250 OK"
        await mail.write()
        await deliverer.deliver_due()
    refused = "recipient_refused: 550 5.1.1 No such user"
    assert await mail.states() == [("abandoned", refused), ("sent", "")]


@pytest.mark.slow
async def test_message_is_resent_after_kill_before_server_reply(
    mail: Mail, clock: FakeClock, database_dsn: str, mail_authority: trustme.CA, tmp_path: Path
) -> None:
    """kill -9 after the server took the mail and before its answer arrived."""
    await mail.write_code()
    async with mail_server(mail_authority) as server:
        accepted, answer = asyncio.Event(), asyncio.Event()
        server.before_answer = answer.wait
        server.accepted = accepted.set
        deliverer = _deliverer(mail, server, mail_authority, tmp_path)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.deliver",
            database_dsn,
            str(server.port),
            str(tmp_path / "mail-ca.pem"),
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        try:
            await accepted.wait()
        finally:
            process.kill()
            await process.wait()
        answer.set()
        assert await mail.states() == [("pending", "")]
        await deliverer.deliver_due()
        assert len(server.mails) == 1, "its lease has not ended"
        clock.advance(_LEASE)
        await deliverer.deliver_due()
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first.as_bytes().count(CODE.encode()) == second.as_bytes().count(CODE.encode()) == 2
    assert await mail.states() == [("sent", "")]


async def test_codes_arrive_by_mail_and_work(
    start_service: StartService, live_settings: Settings, mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority) as server:
        delivery = DeliverySettings(
            channel="smtp",
            smtp=settings_for(server, mail_authority, tmp_path),
            product="Example Shop",
        )
        with capture_logs() as logs:
            service = await start_service(live_settings.model_copy(update={"delivery": delivery}))
            auth = service.auth()

            async def nothing_waits() -> bool:
                states = await service.fetch("SELECT state FROM outbox")
                return {row["state"] for row in states} == {"sent", "decoy"}

            await auth.Register(RegisterRequest(email=EMAIL, password=PASSWORD))
            code = await _code(server, 1)
            await auth.VerifyEmail(VerifyEmailRequest(email=EMAIL, code=code, password=PASSWORD))
            asked = await auth.RequestLoginCode(RequestLoginCodeRequest(email=EMAIL.lower()))
            other = await _code(server, 2)
            outcome = await auth.LoginWithCode(
                LoginWithCodeRequest(challenge_id=asked.challenge_id, code=other)
            )
            await auth.RequestLoginCode(RequestLoginCodeRequest(email="nobody@example.test"))
            await until(nothing_waits)
    assert outcome.tokens.access_token
    # Not the address that was asked with, but the stored one.
    assert [each["To"] for each in server.mails] == [EMAIL, EMAIL]
    assert all(secret not in str(logs) for secret in (code, other, EMAIL))
    metrics = service.app.web._metrics.render().decode()
    assert 'authsvc_messages_total{channel="smtp",outcome="sent"} 2.0' in metrics


async def test_service_with_broken_template_does_not_start(
    live_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "login_code.txt").write_text("{% if %}")
    delivery = DeliverySettings(templates=tmp_path)
    with pytest.raises(ConfigError, match=r"login_code\.txt, line 1"):
        await Application.start(live_settings.model_copy(update={"delivery": delivery}))


async def _code(server: MailServer, count: int) -> str:
    async def arrived() -> bool:
        return len(server.envelopes) >= count

    await until(arrived)
    mail: EmailMessage = server.mails[count - 1]
    body = mail.get_body(("plain",))
    assert body
    found = re.search(r"^ {4}(\S+)\s*$", body.get_content(), re.MULTILINE)
    assert found
    return found[1]
