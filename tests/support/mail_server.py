"""A mail server on this machine, which a test tells what to refuse."""

import asyncio
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, cast

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword

from authsvc.config import SmtpSettings
from tests.support.ports import port_of

HOST = "localhost"
USERNAME = "authsvc"
PASSWORD = "mail-password"


@dataclass
class MailServer:
    """What the server received, and what it answers; 250 accepts.

    `delay` is how many seconds each command of a mail takes it.
    `accepted` is called when it has a mail, `before_answer` before it says so.
    `hang`: it takes connections and says nothing. `drops`: it hangs up instead of saying goodbye.
    """

    port: int = 0
    rcpt: str = "250 OK"
    sender: str = "250 OK"
    data: str = "250 OK"
    accepted: Callable[[], object] | None = None
    before_answer: Callable[[], Awaitable[object]] | None = None
    delay: float = 0.0
    drops: bool = False
    hang: bool = False
    envelopes: list[Envelope] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def mails(self) -> list[EmailMessage]:
        return [
            message_from_bytes(cast("bytes", each.content), policy=default)
            for each in self.envelopes
        ]

    # What follows is called by aiosmtpd, by these names.

    async def handle_MAIL(
        self, _s: Any, _e: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.commands.append("MAIL")
        await asyncio.sleep(self.delay)
        if self.sender.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return self.sender

    async def handle_RCPT(
        self, _s: Any, _e: Any, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.commands.append("RCPT")
        await asyncio.sleep(self.delay)
        if self.rcpt.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.rcpt

    async def handle_DATA(self, _s: Any, _e: Any, envelope: Envelope) -> str:
        self.commands.append("DATA")
        await asyncio.sleep(self.delay)
        if self.data.startswith("250"):
            self.envelopes.append(envelope)
        if self.accepted:
            self.accepted()
        if self.before_answer:
            await self.before_answer()
        return self.data

    async def handle_QUIT(self, server: SMTP, _e: Any, _n: Envelope) -> str:
        if self.drops:
            cast("asyncio.WriteTransport", server.transport).abort()
        return "221 Bye"

    def authenticate(
        self, _server: SMTP, _session: Any, _envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(mechanism)
        good = (data.login, data.password) == (USERNAME.encode(), PASSWORD.encode())
        return AuthResult(success=good, handled=good)


@asynccontextmanager
async def mail_server(
    authority: trustme.CA | None = None,
    *,
    implicit: bool = False,
    login: bool = False,
    utf8: bool = True,
    listener: socket.socket | None = None,
) -> AsyncIterator[MailServer]:
    """Serve mail, with STARTTLS or on TLS if an `authority` signs for it; at `listener`, if any."""
    state = MailServer()
    context = None
    if authority:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(HOST).configure_cert(context)

    def connection() -> asyncio.BaseProtocol:
        if state.hang:
            return asyncio.Protocol()
        with warnings.catch_warnings():
            # It does not see the TLS that it was not asked to start itself.
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
            server: asyncio.BaseProtocol = SMTP(
                state,
                hostname=HOST,
                enable_SMTPUTF8=utf8,
                tls_context=None if implicit else context,
                require_starttls=bool(context) and not implicit,
                authenticator=state.authenticate,
                auth_required=login,
                auth_require_tls=not implicit,
            )
        return server

    listener = listener or socket.create_server(("127.0.0.1", 0))
    state.port = port_of(listener)
    server = await asyncio.get_running_loop().create_server(
        connection, sock=listener, ssl=context if implicit else None
    )
    try:
        yield state
    finally:
        server.close()


def settings_for(
    server: MailServer, authority: trustme.CA, folder: Path, **changes: object
) -> SmtpSettings:
    """Return settings that hand mail to this server, trusting this authority."""
    ca_file = folder / "mail-ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    return SmtpSettings.model_validate(
        {
            "host": HOST,
            "port": server.port,
            "ca_file": ca_file,
            "sender": "Example Shop <login@shop.test>",
        }
        | changes
    )
