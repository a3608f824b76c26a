"""The handing over of mail to a real server over real TLS, and what each of its refusals means."""

import asyncio
import socket
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

from authsvc.core.messages.delivery import NotDelivered
from authsvc.outbound.smtp import (
    SmtpChannel,
    address_literal,
    envelope_address,
    hello_name,
    shown_reply,
)
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
        ("rcpt", "450 4.2.1 Come back later", ("recipient_deferred", False)),
        ("rcpt", "530 5.7.0 Authentication required", ("login", False)),
        ("hello", "550 5.7.1 Bad name", ("hello_refused", False)),
        ("hello", "421 4.3.2 Too busy", ("hello_deferred", False)),
        ("sender", "553 5.7.1 Not yours to use", ("refused", False)),
        ("sender", "451 4.3.0 Disk full", ("deferred", False)),
        ("data", "554 5.7.1 Looks like spam", ("message_refused", True)),
        ("data", "451 4.3.0 Later", ("message_deferred", False)),
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


@pytest.mark.parametrize("tls", ["starttls", "off"])
async def test_server_that_refuses_names_without_a_dot_accepts_an_address(
    mail_authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    """Machines in containers have names such as `authsvc-7d9f`."""
    monkeypatch.setattr(socket, "gethostname", lambda: "authsvc-7d9f")
    async with mail_server(mail_authority if tls == "starttls" else None) as server:
        server.hello = "strict"
        settings = settings_for(server, mail_authority, tmp_path, tls=tls)
        await SmtpChannel(settings).send(rendered())
        assert set(server.hellos) <= {"[127.0.0.1]", "[IPv6:::1]"}
        assert len(server.envelopes) == 1
        named = settings_for(server, mail_authority, tmp_path, tls=tls, hello_name="auth.shop.test")
        await SmtpChannel(named).send(rendered())
        assert server.hellos[-1] == "auth.shop.test"


@pytest.mark.parametrize("tls", ["starttls", "off"])
async def test_refused_name_is_shown_with_the_servers_reply(
    mail_authority: trustme.CA, tmp_path: Path, tls: str
) -> None:
    async with mail_server(mail_authority if tls == "starttls" else None) as server:
        server.hello = "strict"
        settings = settings_for(server, mail_authority, tmp_path, tls=tls, hello_name="authsvc")
        with pytest.raises(NotDelivered) as caught:
            await SmtpChannel(settings).send(rendered())
    assert caught.value.explanation == (
        "hello_refused: 504 5.5.2 <authsvc>: Helo command rejected: need fully-qualified hostname"
    )
    assert not caught.value.permanent


async def test_server_that_knows_no_ehlo_is_greeted_by_helo(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server() as server:
        server.hello = "502 5.5.1 Unknown command"
        settings = settings_for(server, mail_authority, tmp_path, tls="off", hello_name="a.test")
        assert await _failure(SmtpChannel(settings)) == ("refused", False)
    assert server.hellos == ["a.test", "a.test"]


@pytest.mark.parametrize(
    ("host_name", "name"),
    [
        ("mail.example.com", "mail.example.com"),
        ("Auth.Shop.test", "Auth.Shop.test"),
        *((name, "") for name in ("authsvc", "localhost", "localhost.localdomain", "", "10.0.0.1")),
        *((name, "") for name in ("my_host.example.com", "-a.example.com", "a..b", "bücher.test")),
    ],
)
def test_name_of_the_machine_is_used_if_servers_accept_it(host_name: str, name: str) -> None:
    assert hello_name(host_name) == name


@pytest.mark.parametrize(
    ("ip", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
    ],
)
def test_address_literal_has_the_form_of_its_family(ip: str, literal: str) -> None:
    assert address_literal(ip) == literal


async def test_reply_is_shown_without_addresses_and_secrets(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    local = ADDRESS.partition("@")[0]
    async with mail_server(mail_authority, login=True) as server:
        server.rcpt = (
            f"550 5.1.1 <{ADDRESS}>: {local.upper()} (code {CODE}) unknown; {PASSWORD} x@y"
        )
        settings = settings_for(server, mail_authority, tmp_path, **_LOGIN)
        with pytest.raises(NotDelivered) as caught:
            await SmtpChannel(settings).send(rendered())
    assert caught.value.explanation == (
        "recipient_refused: 550 5.1.1 <address> <hidden> (code <hidden>) unknown; <hidden>"
        " <address>"
    )


def test_reply_is_one_short_line() -> None:
    assert shown_reply(550, "No\r\nsuch\x1b[31m \u202euser", ()) == "550 No such [31m user"
    assert len(shown_reply(550, "x" * 10_000, ())) == 200


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


async def test_answer_that_comes_with_the_end_of_the_time_does_not_prolong_it(
    mail_authority: trustme.CA, tmp_path: Path
) -> None:
    async with mail_server() as server:

        async def late(*recipient: Any) -> str:
            # The loop has the answer and the end of the time before it at once.
            asyncio.get_running_loop().call_soon(time.sleep, 0.3)
            return await MailServer.handle_RCPT(server, *recipient)

        vars(server)["handle_RCPT"] = late
        server.before_answer = lambda: asyncio.sleep(0.1)
        settings = settings_for(server, mail_authority, tmp_path, tls="off", timeout="200ms")
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
        ("ada@intranet", "ada@intranet"),
        ("ada@corp.local", "ada@corp.local"),
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


@pytest.mark.parametrize("local", ["ada..l", "ada."])
async def test_local_part_with_extra_dots_is_quoted_in_the_envelope(
    mail_authority: trustme.CA, tmp_path: Path, local: str
) -> None:
    """The server parses addresses strictly, and removes the quotes itself."""
    address = f"{local}@example.test"
    assert envelope_address(address) == f'"{local}"@example.test'
    async with mail_server(mail_authority) as server:
        await SmtpChannel(settings_for(server, mail_authority, tmp_path)).send(rendered(address))
    (envelope,) = server.envelopes
    assert envelope.rcpt_tos == [address]


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
