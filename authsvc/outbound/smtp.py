"""Owns the delivery of messages to a mail server (RFC 5321, RFC 6531)."""

import asyncio
import re
import socket
import ssl
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as MAIL_POLICY
from email.policy import SMTPUTF8 as MAIL_POLICY_UTF8
from email.utils import format_datetime, parseaddr

import idna
from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from authsvc.config import SmtpSettings
from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.messages.templates import RenderedMessage

_QUIT_SECONDS = 1.0
# Rejections for lack of a login, which say nothing about the message (RFC 4954 section 6).
_LOGIN_REQUIRED = frozenset({530, 534, 535, 538})
# RFC 6532 section 3.2: the characters of an unquoted local part, and all beyond ASCII.
_INTERNATIONAL_LOCAL = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\]\\]+")
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
                permanent rejection (5xx, RFC 5321 section 4.2.1) is not retried; a rejected login
                or sender is retried, as it may be accepted once the settings are corrected.
        """
        client = self._client()
        try:
            async with asyncio.timeout(self.limit.total_seconds()):
                recipient = envelope_address(rendered.message.address)
                message = mail(rendered, self._sender, recipient)
                await client.connect()
                await client.send_message(message, sender=self._sender[1], recipients=[recipient])
        except Exception as error:
            client.close()
            raise _not_delivered(error) from error
        except BaseException:
            client.close()
            raise
        await _quit(client)

    async def check(self) -> None:
        """Connect and log in; raises NotDelivered as `send` does."""
        client = self._client()
        try:
            async with asyncio.timeout(self.limit.total_seconds()):
                await client.connect()
        except Exception as error:
            client.close()
            raise _not_delivered(error) from error
        await _quit(client)

    async def close(self) -> None:
        """Do nothing, as nothing is open."""

    def _client(self) -> SMTP:
        settings = self._settings
        return SMTP(
            hostname=settings.host,
            port=settings.port,
            # Otherwise it is looked up in DNS, which blocks the event loop.
            local_hostname=socket.gethostname(),
            username=settings.username or None,
            password=settings.password.get_secret_value() if settings.password else None,
            timeout=self.limit.total_seconds(),
            use_tls=settings.tls == "implicit",
            # Never opportunistic: an attacker in between could claim that the server lacks it.
            start_tls=settings.tls == "starttls",
            tls_context=self._context,
        )


async def _quit(client: SMTP) -> None:
    """Close the connection; errors don't matter, as the server already has the message."""
    with suppress(SMTPException, OSError):
        async with asyncio.timeout(_QUIT_SECONDS):
            await client.quit()
    client.close()


def envelope_address(address: str) -> str:
    """Return the address with its domain in ASCII, which every server accepts (RFC 5891)."""
    local, _, domain = address.rpartition("@")
    if not local or not address.isprintable():
        raise ValueError("not an address")
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


def _not_delivered(error: Exception) -> NotDelivered:
    if isinstance(error, SMTPRecipientsRefused):
        error = error.recipients[0]
    if isinstance(error, SMTPResponseException):
        return _rejection(error)
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    for kind, failure, permanent in _FAILURES:
        if isinstance(cause, kind):
            return NotDelivered(failure, permanent=permanent)
    raise error


def _rejection(error: SMTPResponseException) -> NotDelivered:
    if isinstance(error, SMTPAuthenticationError) or error.code in _LOGIN_REQUIRED:
        return NotDelivered("login")
    permanent = 500 <= error.code < 600
    if isinstance(error, SMTPRecipientRefused):
        return NotDelivered("recipient_refused", permanent=permanent)
    if isinstance(error, SMTPDataError):
        return NotDelivered("message_refused", permanent=permanent)
    return NotDelivered("refused")
