"""Owns the forwarding of audit events to a syslog server: RFC 5424 messages over TLS (RFC 5425)."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import TypeVar

from authsvc.config import SyslogSettings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.models.audit import AuditRow
from authsvc.outbound.audit_event import event_object

_Result = TypeVar("_Result")

_NOTICE = 5
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_IN_NAMES = re.compile(r"[^!-~]")


class SyslogTarget:
    """Sends each batch over a connection of its own, which the server has to end properly.

    Syslog has no acknowledgement, and what was written to a connection may get lost with it. But a
    server that answers the end of the TLS session by its own (close_notify) has read all of it.
    """

    def __init__(self, settings: SyslogSettings) -> None:
        """Prepare the target; raises OSError if a file can't be used."""
        self.name = f"syslog:{settings.host}:{settings.port}"
        self.limit = settings.timeout
        self._settings = settings
        self._host_name = _NOT_IN_NAMES.sub("", socket.gethostname())[:255] or "-"
        self._context = ssl.create_default_context(cafile=settings.ca_file)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate_file and settings.key_file:
            self._context.load_cert_chain(settings.certificate_file, settings.key_file)

    async def send(self, rows: Sequence[AuditRow]) -> None:
        """Send the events, and return once the server has read all of them."""
        content = b"".join(frame(message(row, self._settings, self._host_name)) for row in rows)
        # The ssl module ends a session step by step, which asyncio does not.
        await asyncio.to_thread(self._exchange, content)

    async def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _exchange(self, content: bytes) -> None:
        settings = self._settings
        seconds = settings.timeout.total_seconds() / 4
        try:
            with socket.create_connection((settings.host, settings.port), seconds) as plain:
                session = _Session(self._context, plain, settings.host)
                session.send(content)
                session.end(confirm=settings.confirm)
        except TimeoutError as error:
            raise NotForwarded("timeout") from error
        except ssl.SSLError as error:
            raise NotForwarded("tls") from error
        except OSError as error:
            raise NotForwarded("connection") from error


class _Session:
    """A TLS session whose end is told apart from an alert.

    `SSLSocket.unwrap` takes any alert for close_notify, also one that refuses our certificate,
    which with TLS 1.3 comes only after the handshake. So the server's end is read as data would be.
    """

    def __init__(self, context: ssl.SSLContext, plain: socket.socket, host: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._run(self._tls.do_handshake)

    def send(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._run(partial(self._tls.write, rest)) :]

    def end(self, *, confirm: bool) -> None:
        """End the session, and return once the server has, too."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        try:
            while self._run(partial(self._tls.read, 1_024)):
                pass
        except ssl.SSLZeroReturnError:
            return
        except ssl.SSLEOFError:
            # What Python 3.11.2 reads as nothing.
            pass
        # The connection ended in order, but the TLS session did not.
        if confirm:
            raise ssl.SSLEOFError

    def _run(self, step: Callable[[], _Result]) -> _Result:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                if received := self._plain.recv(65_536):
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._plain.sendall(self._outgoing.read())


def frame(content: bytes) -> bytes:
    """Return a message with its length before it (RFC 5425, section 4.3)."""
    return b"%d %b" % (len(content), content)


def message(row: AuditRow, settings: SyslogSettings, host_name: str) -> bytes:
    """Return an event as a syslog message (RFC 5424).

    Its structured data has everything but lists; the text is the whole event as JSON.
    """
    event = event_object(row)
    time = row.occur_time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    name = _NOT_IN_NAMES.sub("", row.type)[:32] or "-"
    header = f"<{settings.facility * 8 + _NOTICE}>1 {time} {host_name} {settings.app_name} - {name}"
    data = structured_data(f"authsvc@{settings.enterprise_number}", event)
    return f"{header} {data} {json.dumps(event, separators=(',', ':'))}".encode()


def structured_data(element: str, event: Mapping[str, object]) -> str:
    """Return an element with a parameter for each value; those of the detail are `detail_…`."""
    detail = event["detail"]
    values = {name: value for name, value in event.items() if name != "detail"}
    if isinstance(detail, Mapping):
        values |= {f"detail_{name}"[:32]: value for name, value in detail.items()}
    parameters = (
        f'{name}="{_escaped(str(value).lower() if isinstance(value, bool) else str(value))}"'
        for name, value in values.items()
        if value not in ("", None) and not isinstance(value, list | dict)
    )
    return f"[{' '.join((element, *parameters))}]"


def _escaped(value: str) -> str:
    """Return a value as parameters contain it; a line break could end a line of a file there."""
    printed = _NOT_PRINTED.sub("?", value)
    return re.sub(r'(["\\\]])', r"\\\1", printed)
