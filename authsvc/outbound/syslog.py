"""Owns the forwarding of audit events to a syslog server: RFC 5424 messages over TLS (RFC 5425)."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC

from authsvc.config import SyslogSettings
from authsvc.core.audit.forwarding import NotForwarded
from authsvc.models.audit import AuditRow
from authsvc.outbound.audit_event import event_object

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
            with (
                socket.create_connection((settings.host, settings.port), seconds) as plain,
                self._context.wrap_socket(plain, server_hostname=settings.host) as secure,
            ):
                secure.sendall(content)
                self._end(secure)
        except TimeoutError as error:
            raise NotForwarded("timeout") from error
        except ssl.SSLError as error:
            raise NotForwarded("tls") from error
        except OSError as error:
            raise NotForwarded("connection") from error

    def _end(self, secure: ssl.SSLSocket) -> None:
        try:
            secure.unwrap()
        except (ConnectionError, TimeoutError):
            raise
        except OSError:
            # The connection ended in order, but the TLS session did not.
            if self._settings.confirm:
                raise


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
