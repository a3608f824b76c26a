"""The handing over of mail to a real server over real TLS, and what each of its refusals means."""

import asyncio
import socket
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

from authsvc.core.messages.delivery import NotDelivered
from authsvc.outbound.smtp import SmtpChannel
from tests.support.delivering import ADDRESS, CODE
from tests.support.mail_server import PASSWORD, USERNAME, MailServer, mail_server, settings_for
from tests.support.ports import port_of
from tests.support.rendered import rendered

_LOGIN = {"username": USERNAME, "password": PASSWORD}


@pytest.fixture(scope="module")
def mail_authority() -> trustme.CA:
    return trustme.CA()


async def _failure(channel: SmtpChannel, address: str = ADDRESS) -> tuple[str, bool]:
    with pytest.raises(NotDelivered) as caught:
        await channel.send(rendered(address))
    return caught.value.error, caught.value.permanent


def _part(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert part
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_mail_arrives_unchanged(mail_authority: trustme.CA, tmp_path: Path, tls: str) -> None:
    async with mail_server(mail_authority, implicit=tls == "implicit", login=True) as server:
        sent = rendered()
        channel = SmtpChannel(settings_for(server, mail_authority, tmp_path, tls=tls, **_LOGIN))
        await channel.send(sent)
        await channel.close()
    assert len(server.logins) == 1
    (envelope,), (mail,) = server.envelopes, server.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("login@shop.test", [ADDRESS])
    assert mail["From"] == "Example Shop <login@shop.test>"
    assert (mail["To"], mail["Subject"]) == (ADDRESS, "Your code")
    assert mail["Message-ID"] == f"<{sent.message_id}@shop.test>"
    assert mail["Date"].datetime == sent.create_time
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert _part(mail, "plain") == sent.content.text
    assert _part(mail, "html") == sent.content.html


async def test_untrusted_server_is_sent_nothing(mail_authority: trustme.CA, tmp_path: Path) -> None:
    stranger = trustme.CA()
    for implicit, tls in ((True, "implicit"), (False, "starttls")):
        async with mail_server(stranger, implicit=implicit) as server:
            settings = settings_for(server, mail_authority, tmp_path, tls=tls, **_LOGIN)
            assert await _failure(SmtpChannel(settings)) == ("tls", False)
        assert (server.logins, server.commands) == ([], [])


async def test_server_name_must_match_certificate(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority) as server:
        settings = settings_for(server, mail_authority, tmp_path, host="127.0.0.1", **_LOGIN)
        assert await _failure(SmtpChannel(settings)) == ("tls", False)
    assert (server.logins, server.commands) == ([], [])


async def test_server_without_starttls_is_sent_nothing(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    """Whoever sits in between can hide that the server offers it."""
    async with mail_server() as server:
        for login in (_LOGIN, {}):
            settings = settings_for(server, mail_authority, tmp_path, **login)
            assert await _failure(SmtpChannel(settings)) == ("unsupported", False)
    assert (server.logins, server.commands) == ([], [])


async def test_tls_can_be_off_for_local_server(mail_authority: trustme.CA, tmp_path: Path) -> None:
    async with mail_server() as server:
        await SmtpChannel(settings_for(server, mail_authority, tmp_path, tls="off")).send(
            rendered()
        )
    assert len(server.envelopes) == 1


@pytest.mark.slow
async def test_rejected_login_is_temporary_failure(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority, login=True) as server:
        for changes in (_LOGIN | {"password": "another"}, {}):
            settings = settings_for(server, mail_authority, tmp_path, **changes)
            assert await _failure(SmtpChannel(settings)) == ("login", False)
    assert server.envelopes == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "answer", "failure"),
    [
        ("rcpt", "550 5.1.1 No such user", ("recipient_refused", True)),
        ("rcpt", "450 4.2.1 Come back later", ("recipient_refused", False)),
        ("rcpt", "530 5.7.0 Authentication required", ("login", False)),
        ("sender", "553 5.7.1 Not yours to use", ("refused", False)),
        ("sender", "451 4.3.0 Disk full", ("refused", False)),
        ("data", "554 5.7.1 Looks like spam", ("message_refused", True)),
        ("data", "451 4.3.0 Later", ("message_refused", False)),
    ],
)
async def test_smtp_error_codes_are_classified(
    mail_authority: trustme.CA, tmp_path: Path, step: str, answer: str, failure: tuple[str, bool]
) -> None:
    async with mail_server(mail_authority) as server:
        setattr(server, step, answer)
        assert (
            await _failure(SmtpChannel(settings_for(server, mail_authority, tmp_path))) == failure
        )
    assert server.envelopes == []


async def test_unreachable_server_is_temporary_failure(
    mail_authority: trustme.CA, tmp_path: Path, unheard: socket.socket
) -> None:
    settings = settings_for(MailServer(port_of(unheard)), mail_authority, tmp_path)
    assert await _failure(SmtpChannel(settings)) == ("connection", False)


async def test_silent_server_times_out(mail_authority: trustme.CA, tmp_path: Path) -> None:
    async with mail_server(mail_authority) as server:
        server.hang = True
        settings = settings_for(server, mail_authority, tmp_path, timeout="50ms")
        assert await _failure(SmtpChannel(settings)) == ("timeout", False)


@pytest.mark.slow
async def test_timeout_covers_whole_delivery(mail_authority: trustme.CA, tmp_path: Path) -> None:
    """The time is for the whole: a message that is under way longer has lost its lease."""
    async with mail_server(mail_authority) as server:
        server.delay = 0.2
        settings = settings_for(server, mail_authority, tmp_path, timeout="500ms")
        assert await _failure(SmtpChannel(settings)) == ("timeout", False)


async def test_accepted_mail_is_delivered_despite_later_errors(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority) as server:
        server.drops = True
        await SmtpChannel(settings_for(server, mail_authority, tmp_path)).send(rendered())
    assert len(server.envelopes) == 1


async def test_cancelled_delivery_leaves_no_connection(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority) as server:
        server.hang = True
        task = asyncio.create_task(
            SmtpChannel(settings_for(server, mail_authority, tmp_path)).send(rendered())
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "recipient"),
    [
        ("ada@bücher.test", "ada@xn--bcher-kva.test"),
        ("Ada+Tag@Example.TEST", "Ada+Tag@Example.TEST"),
        ("jörg@bücher.test", "jörg@xn--bcher-kva.test"),
        ('"a b"@example.test', '"a b"@example.test'),
    ],
)
async def test_addresses_in_any_script_are_supported(
    mail_authority: trustme.CA, tmp_path: Path, address: str, recipient: str
) -> None:
    async with mail_server(mail_authority) as server:
        await SmtpChannel(settings_for(server, mail_authority, tmp_path)).send(rendered(address))
    (envelope,) = server.envelopes
    assert envelope.rcpt_tos == [recipient]
    assert f"\r\nTo: {recipient}\r\n".encode() in (envelope.original_content or b"")
    assert ("SMTPUTF8" in envelope.mail_options) == (not recipient.isascii())


@pytest.mark.slow
async def test_smtputf8_address_fails_permanently_without_server_support(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server(mail_authority, utf8=False) as server:
        channel = SmtpChannel(settings_for(server, mail_authority, tmp_path))
        assert await _failure(channel, "jörg@example.test") == ("smtputf8_unsupported", True)
        await channel.send(rendered("ada@bücher.test"))
    assert len(server.envelopes) == 1


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.test\r\nBcc: eve@example.test",
        "ada@example.test>\r\nRCPT TO:<eve@example.test",
        "ada@example.test, eve@example.test",
        "jörg@example.test, eve@example.test",
        "jörg <eve@example.test>",
        "ada",
        "@example.test",
        "",
    ],
)
async def test_malformed_address_fails_permanently(
    mail_authority: trustme.CA, tmp_path: Path, address: str
) -> None:
    async with mail_server(mail_authority) as server:
        channel = SmtpChannel(settings_for(server, mail_authority, tmp_path))
        assert await _failure(channel, address) == ("malformed", True)
    assert server.envelopes == []


async def test_subject_is_one_line(mail_authority: trustme.CA, tmp_path: Path) -> None:
    async with mail_server(mail_authority) as server:
        channel = SmtpChannel(settings_for(server, mail_authority, tmp_path))
        with pytest.raises(NotDelivered) as caught:
            await channel.send(rendered(subject="Hello\r\nBcc: eve@example.test"))
    assert (caught.value.error, server.envelopes) == ("malformed", [])


async def test_reprs_hide_password_and_message(mail_authority: trustme.CA, tmp_path: Path) -> None:
    async with mail_server(mail_authority, login=True) as server:
        settings = settings_for(
            server, mail_authority, tmp_path, username=USERNAME, password="wrong-mail-password"
        )
        with pytest.raises(NotDelivered) as caught:
            await SmtpChannel(settings).send(rendered())
    shown = f"{settings!r} {caught.value!r} {rendered()!r}"
    assert not any(secret in shown for secret in ("wrong-mail-password", CODE, ADDRESS))
