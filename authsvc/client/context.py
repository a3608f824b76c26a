"""Owns what a call inherits from the request that it serves: its id, its trace and its deadline.

Guards set these when a request comes in; every call of a `Client` or `AsyncClient` passes them on.
"""

import re
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("authsvc_request_id", default="")
"""The id of the current request: sent as `x-request-id`, so that authsvc logs it."""

traceparent: ContextVar[str] = ContextVar("authsvc_traceparent", default="")
"""The current span as W3C Trace Context writes it: sent as `traceparent`."""

tracestate: ContextVar[str] = ContextVar("authsvc_tracestate", default="")
"""What tracing systems add to the current span: sent as `tracestate`, with `traceparent`."""

deadline: ContextVar[float | None] = ContextVar("authsvc_deadline", default=None)
"""When the current request ends, by `time.monotonic()`: no call takes longer than that."""

Metadata = tuple[tuple[str, str | bytes], ...]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}", re.ASCII)


def is_request_id(text: str) -> bool:
    """Return whether a text has the form of a request id."""
    return _REQUEST_ID.fullmatch(text) is not None


def metadata_of_request() -> Metadata:
    """Return the metadata that a call passes on, without what has not the form of an id."""
    passed_on: Metadata = ()
    if is_request_id(current := request_id.get()):
        passed_on = (("x-request-id", current),)
    if (span := traceparent.get()) and _TRACEPARENT.fullmatch(span):
        passed_on += (("traceparent", span),)
        if (state := tracestate.get()) and _TRACESTATE.fullmatch(state):
            passed_on += (("tracestate", state),)
    return passed_on
