"""Owns the log: one line of JSON per event, in UTC, with the request id, and without secrets.

Events from loggers of the standard library (asyncio, aiohttp, grpc) are written the same way, but
sampled, as clients that break off can cause some of them without end.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import date
from enum import Enum
from pathlib import PurePath
from time import monotonic
from typing import Any, TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from authsvc.config import LogSettings
from authsvc.tracing import SPAN

REQUEST_ID: ContextVar[str] = ContextVar("request_id")

_MASK = "[redacted]"
_SAMPLE_SECONDS = 10.0
_SAMPLE_SIZE = 5
_SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token|authorization|cookie|code|pepper|private|credential|csrf|otp"
    r"|dsn|api_?key|assertion|hash",
    re.IGNORECASE,
)
_HARMLESS_KEY = re.compile(r"(_id|_ids|_time|_count|_seconds)\Z", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"  # user and password of a URL
    r"|(?<=[Bb]earer )\S+"
    r"|\$argon2\S+"
)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send the log of the whole process to `stream` (default: standard error)."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    pretty = settings.format == "pretty" or (settings.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_ids,
    ]
    render: list[Processor] = [
        # Plain tracebacks, as structlog's own would show local variables.
        structlog.processors.format_exc_info,
        redact,
        _pretty(colors=stream.isatty()) if pretty else _render_json,
    ]
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, *shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name="authsvc": _Lines(stream, name),
        cache_logger_on_first_use=False,
    )
    _route_standard_library(stream, max(level, logging.INFO), shared, render)


class _Lines:
    """Writes whole lines; `name` is the argument of `structlog.get_logger(name)`."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line; failing to write the log must not fail the call that it concerns."""
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = warn = error = exception = critical = fatal = msg


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values that look like secrets by key or form: a last resort, not the rule."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key) and not _HARMLESS_KEY.search(key):
        return _MASK
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_MASK, value)
    if isinstance(value, Mapping):
        return {str(inner): _redacted(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    return value


def _add_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (request_id := REQUEST_ID.get(None)) is not None:
        event.setdefault("request_id", request_id)
    if (span := SPAN.get()) is not None:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.id)
    return event


def _pretty(*, colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        timestamp_key="time", colors=colors, exception_formatter=structlog.dev.plain_traceback
    )


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("time", "level", "event", "logger") if key in event}
    return json.dumps({**first, **event}, default=_plain, separators=(",", ":"))


def _plain(value: object) -> object:
    """Return a value of a known type as text, or only its type: others may contain secrets."""
    if isinstance(value, Enum | UUID | PurePath | date):
        return str(value)
    return f"<{type(value).__name__}>"


class _Sample(logging.Filter):
    """Passes five records of each logger in ten seconds; the next one says how many it left out."""

    def __init__(self) -> None:
        super().__init__()
        # By the logger's name: when the ten seconds began, and the number of records since then.
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = monotonic()
        began, count = self._seen.get(record.name, (now, 0))
        if now - began >= _SAMPLE_SECONDS:
            if count > _SAMPLE_SIZE:
                record.msg = f"{record.msg} ({count - _SAMPLE_SIZE} more lines were left out)"
            began, count = now, 0
        self._seen[record.name] = (began, count + 1)
        return count < _SAMPLE_SIZE


def _route_standard_library(
    stream: TextIO, level: int, shared: list[Processor], render: list[Processor]
) -> None:
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Sample())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
