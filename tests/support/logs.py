"""The log of the whole process, captured while a test runs."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog

from authsvc import log
from authsvc.config import LogSettings


@contextmanager
def caught() -> Iterator[io.StringIO]:
    """Capture everything logged, at any level, as lines of JSON, also by what starts within."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.configure(LogSettings(level="debug", format="json"), stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The service's log at level debug, unmasked."""
    monkeypatch.setattr(log, "redact", lambda _logger, _method, event: event)
    with caught() as stream:
        yield stream
