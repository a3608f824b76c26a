"""Owns the spans of requests to HTTP servers, which name neither path nor query."""

from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from authsvc.conventions import HTTP_METHOD, HTTP_STATUS, SERVER_ADDRESS, SERVER_PORT
from authsvc.tracing import Span, SpanKind, span

_PORTS = {"http": 80, "https": 443}


def request_span(method: str, url: str) -> AbstractContextManager[Span | None]:
    """Record a request as part of the current call, if that is traced."""
    parts = urlsplit(url)
    attributes: dict[str, str | int] = {
        HTTP_METHOD: method,
        SERVER_ADDRESS: parts.hostname or "",
        SERVER_PORT: parts.port or _PORTS.get(parts.scheme, 0),
    }
    return span(method, SpanKind.CLIENT, attributes)


def note_status(request: Span | None, status: int) -> None:
    """Note the status of the response."""
    if request is not None:
        request.attributes[HTTP_STATUS] = status
        if status >= 400:
            request.fail(str(status))
