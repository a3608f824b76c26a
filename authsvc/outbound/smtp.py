"""Owns the delivery of messages to a mail server (RFC 5321, RFC 6531)."""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as MAIL_POLICY
from email.policy import SMTPUTF8 as MAIL_POLICY_UTF8
from email.utils import format_datetime, parseaddr
from ipaddress import IPv6Address, ip_address
from typing import Literal

import idna
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponse,
    SMTPResponseException,
)
from aiosmtplib.typing import Default

from authsvc.config import SmtpSettings
from authsvc.conventions import MAIL, SERVER_ADDRESS, SERVER_PORT
from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.messages.outbox import Message
from authsvc.core.messages.templates import RenderedMessage
from authsvc.tracing import SpanKind, span

_QUIT_SECONDS = 1.0
# Rejections for lack of a login, which say nothing about the message (RFC 4954 section 6).
_LOGIN_REQUIRED = frozenset({530, 534, 535, 538})
# RFC 6532 section 3.2: the characters of an unquoted local part, and all beyond ASCII.
_INTERNATIONAL_LOCAL = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\]\\]+")
# RFC 5322 section 3.2.3: what needs no quotes but for its dots.
_DOTTED_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
# The first match counts; a server without STARTTLS or AUTH raises SMTPException.
_FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (SMTPNotSupported, "smtputf8_unsupported", True),
    (TimeoutError, "timeout", False),
    (ssl.SSLError, "tls", False),
    (OSError, "connection", False),
    (SMTPException, "unsupported", False),
    (MessageError, "malformed", True),
    (ValueError, "malformed", True),
)


# What servers accept in EHLO: a name with a dot that can be one on the Internet.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PUBLIC_NAME = re.compile(
    rf"(?!localhost\.)(?:{_LABEL}\.)+(?!(?:localdomain|[0-9]+)\Z){_LABEL}",
    re.ASCII | re.IGNORECASE,
)
# Servers that don't know EHLO answer so, and may know HELO (RFC 5321, 3.2).
_COMMAND_UNKNOWN = frozenset({500, 502})
_MAX_REPLY = 200


# Stands for the address, which is known only once the connection is open.
_BY_ADDRESS = "[address]"


class _HelloRefused(SMTPResponseException):
    """The server refuses the name in EHLO."""


class _Client(SMTP):
    """Introduces itself by the name that it is given, or by its own address if told so."""

    async def ehlo(
        self,
        *,
        hostname: str | None = None,
        timeout: float | Literal[Default.token] | None = Default.token,  # noqa: ASYNC109 - overrides
    ) -> SMTPResponse:
        """Send EHLO; a refusal of the name is not followed by HELO, which would hide it."""
        if self.local_hostname == _BY_ADDRESS:
            self.local_hostname = address_literal(self.get_transport_info("sockname")[0])
        try:
            return await super().ehlo(hostname=hostname, timeout=timeout)
        except SMTPHeloError as error:
            if error.code in _COMMAND_UNKNOWN:
                raise
            raise _HelloRefused(error.code, error.message) from error


class SmtpChannel:
    """Delivers messages to one mail server, each on a connection of its own."""

    name = "smtp"

    def __init__(self, settings: SmtpSettings) -> None:
        """Prepare the channel; raises OSError if the CA file can't be used."""
        self._settings = settings
        self._context = ssl.create_default_context(cafile=settings.ca_file)
        self._sender = parseaddr(settings.sender)
        self.limit = settings.timeout

    async def send(self, rendered: RenderedMessage) -> None:
        """Deliver the message within the configured timeout.

        Raises:
            NotDelivered: The server could not be reached or trusted, or rejected the message. A
                permanent rejection (5xx, RFC 5321 section 4.2.1) of the recipient or the message is
                not retried; that of the login, the sender or the name in EHLO is, as it may be
                accepted once the settings are corrected.
        """
        host, port = self._settings.host, self._settings.port
        with span(MAIL, SpanKind.CLIENT, {SERVER_ADDRESS: host, SERVER_PORT: port}):
            await self._send(rendered)

    async def _send(self, rendered: RenderedMessage) -> None:
        client = self._client()
        try:
            async with asyncio.timeout(self.limit.total_seconds()):
                recipient = envelope_address(rendered.message.address)
                message = mail(rendered, self._sender, recipient)
                await client.connect()
                await client.send_message(message, sender=self._sender[1], recipients=[recipient])
        except Exception as error:
            client.close()
            raise self._not_delivered(error, rendered.message) from error
        except BaseException:
            client.close()
            raise
        await _quit(client)

    async def check(self) -> None:
        """Begin a mail and leave it at its sender; raises NotDelivered as `send` does."""
        client = self._client()
        try:
            async with asyncio.timeout(self.limit.total_seconds()):
                await client.connect()
                # Connecting alone ends at the greeting, at STARTTLS or at the login.
                await client.mail(self._sender[1])
        except Exception as error:
            client.close()
            raise self._not_delivered(error) from error
        await _quit(client)

    async def close(self) -> None:
        """Do nothing, as nothing is open."""

    def _client(self) -> SMTP:
        settings = self._settings
        return _Client(
            hostname=settings.host,
            port=settings.port,
            local_hostname=settings.hello_name or hello_name(socket.gethostname()) or _BY_ADDRESS,
            username=settings.username or None,
            password=settings.password.get_secret_value() if settings.password else None,
            # All of it has a limit. With one for each answer, an answer that comes with the end of
            # that limit would lift it: asyncio.wait_for of Python 3.11 then forgets the end.
            timeout=None,
            use_tls=settings.tls == "implicit",
            # Never opportunistic: an attacker in between could claim that the server lacks it.
            start_tls=settings.tls == "starttls",
            tls_context=self._context,
        )

    def _not_delivered(self, error: Exception, message: Message | None = None) -> NotDelivered:
        password = self._settings.password
        hidden = [self._settings.username, password.get_secret_value() if password else ""]
        if message is not None:
            hidden += [message.address.rpartition("@")[0], message.code]
        return _not_delivered(error, hidden)


async def _quit(client: SMTP) -> None:
    """Close the connection; errors don't matter, as the server already has the message."""
    with suppress(SMTPException, OSError):
        async with asyncio.timeout(_QUIT_SECONDS):
            await client.quit()
    client.close()


def envelope_address(address: str) -> str:
    """Return the address with its domain in ASCII, which every server accepts (RFC 5891).

    A local part with dots in a row or at its ends has to be quoted (RFC 5321, 4.1.2).
    """
    local, _, domain = address.rpartition("@")
    if not local or not address.isprintable():
        raise ValueError("not an address")
    if _DOTTED_LOCAL.fullmatch(local) and "" in local.split("."):
        local = f'"{local}"'
    return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"


def mail(rendered: RenderedMessage, sender: tuple[str, str], recipient: str) -> EmailMessage:
    """Return the e-mail of a message, in plain text and HTML, with the message's id as Message-ID.

    Raises:
        ValueError: An address is invalid, or a header value has several lines.
    """
    needs_utf8 = not recipient.isascii()
    email = EmailMessage(policy=MAIL_POLICY_UTF8 if needs_utf8 else MAIL_POLICY)
    name, address = sender
    email["From"] = Address(name, addr_spec=address)
    email["To"] = _address(recipient)
    email["Subject"] = rendered.content.subject
    email["Date"] = format_datetime(rendered.create_time)
    email["Message-ID"] = f"<{rendered.message_id}@{address.rpartition('@')[2]}>"
    # Prevents automatic replies, such as out-of-office notices (RFC 3834 section 5).
    email["Auto-Submitted"] = "auto-generated"
    email.set_content(rendered.content.text)
    email.add_alternative(rendered.content.html, subtype="html")
    return email


def _address(address: str) -> Address:
    """Return the address for a header; raises ValueError or MessageError unless it is exactly one.

    The library parses only ASCII addresses; for others it takes the parts unchecked.
    """
    if address.isascii():
        return Address(addr_spec=address)
    local, _, domain = address.rpartition("@")
    if not _INTERNATIONAL_LOCAL.fullmatch(local):
        raise ValueError("not an address")
    return Address(username=local, domain=domain)


def hello_name(host_name: str) -> str:
    """Return the name of this machine if mail servers accept it, else "".

    Many refuse a name without a dot (RFC 5321, 4.1.1.1), which those of containers lack.
    """
    return host_name if _PUBLIC_NAME.fullmatch(host_name) else ""


def address_literal(ip: str) -> str:
    """Return an address as EHLO takes it in place of a name (RFC 5321, 4.1.3)."""
    address = ip_address(ip.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return f"[IPv6:{address}]"
    return f"[{getattr(address, 'ipv4_mapped', None) or address}]"


def shown_reply(code: int, text: str, hidden: Iterable[str]) -> str:
    """Return what a server answered, on one line, without e-mail addresses and what is hidden."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    line = re.sub(r"\S*@\S*", "<address>", line)
    for secret in filter(None, hidden):
        line = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "<hidden>", line, flags=re.IGNORECASE)
    return f"{code} {' '.join(line.split())}"[:_MAX_REPLY].rstrip()


def _not_delivered(error: Exception, hidden: Iterable[str]) -> NotDelivered:
    if isinstance(error, SMTPRecipientsRefused):
        error = error.recipients[0]
    if isinstance(error, SMTPResponseException):
        return _rejection(error, shown_reply(error.code, error.message, hidden))
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    for kind, failure, permanent in _FAILURES:
        if isinstance(cause, kind):
            return NotDelivered(error=failure, permanent=permanent)
    raise error


def _rejection(error: SMTPResponseException, reply: str) -> NotDelivered:
    permanent = 500 <= error.code < 600
    if isinstance(error, SMTPAuthenticationError) or error.code in _LOGIN_REQUIRED:
        return NotDelivered(error="login", reply=reply)
    if isinstance(error, _HelloRefused):
        return NotDelivered(error="hello_refused" if permanent else "hello_deferred", reply=reply)
    if isinstance(error, SMTPRecipientRefused):
        word = "recipient_refused" if permanent else "recipient_deferred"
        return NotDelivered(error=word, reply=reply, permanent=permanent)
    if isinstance(error, SMTPDataError):
        word = "message_refused" if permanent else "message_deferred"
        return NotDelivered(error=word, reply=reply, permanent=permanent)
    return NotDelivered(error="refused" if permanent else "deferred", reply=reply)
