"""Owns the handing over of messages to a mail server (RFC 5321, RFC 6531)."""

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

_GOODBYE_SECONDS = 1.0
# Who is refused for want of a login says nothing about the message (RFC 4954 section 6).
_WANTS_LOGIN = frozenset({530, 534, 535, 538})
# RFC 6532 section 3.2: what an unquoted local part is of, and everything beyond ASCII.
_INTERNATIONAL_LOCAL = re.compile(r"[^\x00-\x20\x7f\"(),:;<>@\[\]\\]+")
# The first that fits; no STARTTLS or no AUTH is the last but one.
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
    """Hands messages over to one mail server, each on a connection of its own."""

    name = "smtp"

    def __init__(self, settings: SmtpSettings) -> None:
        """Take over the settings; raises OSError if the authorities' file can't be used."""
        self._settings = settings
        self._context = ssl.create_default_context(cafile=settings.ca_file)
        self._sender = parseaddr(settings.sender)
        self.limit = settings.timeout

    async def send(self, rendered: RenderedMessage) -> None:
        """Hand the message over, within the time that is set for it as a whole.

        Raises:
            NotDelivered: The server could not be reached or trusted, or refused it. What was
                refused for good (5xx, RFC 5321 section 4.2.1) is not to be tried again; who
                refuses the login or the sender may accept them once the settings are mended.
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
        await _say_goodbye(client)

    async def close(self) -> None:
        """Do nothing: nothing is open."""

    def _client(self) -> SMTP:
        settings = self._settings
        return SMTP(
            hostname=settings.host,
            port=settings.port,
            # Otherwise a name server is asked for it, and everything else waits.
            local_hostname=socket.gethostname(),
            username=settings.username or None,
            password=settings.password.get_secret_value() if settings.password else None,
            timeout=self.limit.total_seconds(),
            use_tls=settings.tls == "implicit",
            # Never "if the server has it": whoever sits in between would say that it has not.
            start_tls=settings.tls == "starttls",
            tls_context=self._context,
        )


async def _say_goodbye(client: SMTP) -> None:
    """End the connection: whatever happens now, the server has the message."""
    with suppress(SMTPException, OSError):
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await client.quit()
    client.close()


def envelope_address(address: str) -> str:
    """Return the address with its domain in ASCII, which every server understands (RFC 5891)."""
    local, _, domain = address.rpartition("@")
    if not local or not address.isprintable():
        raise ValueError("not an address")
    return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"


def mail(rendered: RenderedMessage, sender: tuple[str, str], recipient: str) -> EmailMessage:
    """Return the mail of a message: plain text and HTML, with the message's id as its own.

    Raises:
        ValueError: An address is none, or what is to be a header has several lines.
    """
    needs_utf8 = not recipient.isascii()
    made = EmailMessage(policy=MAIL_POLICY_UTF8 if needs_utf8 else MAIL_POLICY)
    name, address = sender
    made["From"] = Address(name, addr_spec=address)
    made["To"] = _address(recipient)
    made["Subject"] = rendered.content.subject
    made["Date"] = format_datetime(rendered.create_time)
    made["Message-ID"] = f"<{rendered.message_id}@{address.rpartition('@')[2]}>"
    # So that nobody's absence is announced to it (RFC 3834 section 5).
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(rendered.content.text)
    made.add_alternative(rendered.content.html, subtype="html")
    return made


def _address(address: str) -> Address:
    """Return the address for a header; raises ValueError or MessageError if it is not exactly one.

    The library reads only ASCII; of others it takes the parts as they are.
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
        return _refused(error)
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    for kind, failure, permanent in _FAILURES:
        if isinstance(cause, kind):
            return NotDelivered(failure, permanent=permanent)
    raise error


def _refused(error: SMTPResponseException) -> NotDelivered:
    if isinstance(error, SMTPAuthenticationError) or error.code in _WANTS_LOGIN:
        return NotDelivered("login")
    permanent = 500 <= error.code < 600
    if isinstance(error, SMTPRecipientRefused):
        return NotDelivered("recipient_refused", permanent=permanent)
    if isinstance(error, SMTPDataError):
        return NotDelivered("message_refused", permanent=permanent)
    return NotDelivered("refused")
