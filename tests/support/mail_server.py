"""A mail server on this machine, which refuses what a test tells it to."""

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
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from authsvc.config import SmtpSettings
from tests.support.ports import port_of

HOST = "localhost"
USERNAME = "authsvc"
PASSWORD = "mail-password"


@dataclass
class MailServer:
    """What the server received, and what it answers; 250 accepts.

    `delay` is how many seconds each command of a mail takes. `accepted` is called when it has
    received a mail, `before_answer` before it answers. `hello` answers every name in EHLO and HELO;
    "strict" refuses one without a dot, as many servers do. `hang`: it accepts connections and sends
    nothing. `drops`: it closes the connection instead of answering QUIT.
    """

    port: int = 0
    hello: str = "250 OK"
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
    hellos: list[str] = field(default_factory=list)

    @property
    def mails(self) -> list[EmailMessage]:
        return [
            message_from_bytes(cast("bytes", each.content), policy=default)
            for each in self.envelopes
        ]

    # aiosmtpd calls the following methods by these names.

    async def handle_EHLO(
        self, _s: Any, session: Session, _e: Any, hostname: str, answer: list[str]
    ) -> list[str]:
        refusal = self._refusal(hostname)
        if refusal:
            return [refusal]
        session.host_name = hostname
        return answer

    async def handle_HELO(self, _s: Any, session: Session, _e: Any, hostname: str) -> str:
        session.host_name = hostname
        return self._refusal(hostname) or "250 OK"

    def _refusal(self, hostname: str) -> str:
        self.hellos.append(hostname)
        if self.hello == "strict":
            text = f"504 5.5.2 <{hostname}>: Helo command rejected: need fully-qualified hostname"
            return "" if "." in hostname or ":" in hostname else text
        return "" if self.hello.startswith("250") else self.hello

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
    """Serve mail, with STARTTLS or TLS if an `authority` signs for it; on `listener`, if given."""
    state = MailServer()
    context = None
    if authority:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(HOST).configure_cert(context)

    def connection() -> asyncio.BaseProtocol:
        if state.hang:
            return asyncio.Protocol()
        with warnings.catch_warnings():
            # It does not know of TLS that it did not start itself.
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
    """Return settings for mail through this server, trusting this authority."""
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
