"""Owns the capture of what parts of the service log, where only the log says why they failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict, WrappedLogger

_LINES: ContextVar[list[EventDict] | None] = ContextVar("log_lines", default=None)


@contextmanager
def captured_logs() -> Iterator[list[EventDict]]:
    """Yield a list of what this task logs, and what tasks log that it starts.

    Unlike with structlog's own capture, several tasks may do so at a time.
    """
    processors = structlog.get_config()["processors"]
    if _collect not in processors:
        processors.insert(0, _collect)
    lines: list[EventDict] = []
    token = _LINES.set(lines)
    try:
        yield lines
    finally:
        _LINES.reset(token)


def why(lines: list[EventDict]) -> str:
    """Return what was logged, on one line; "" if there is nothing."""
    return "; ".join(_sentence(dict(line)) for line in lines)


def _sentence(line: EventDict) -> str:
    event = str(line.pop("event")).replace("_", " ")
    return f"{event} ({' '.join(f'{key}={value}' for key, value in line.items())})"


def _collect(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    lines = _LINES.get()
    if lines is None:
        return event
    lines.append(event)
    raise structlog.DropEvent
