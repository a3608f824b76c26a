"""The log of the whole process, caught while a test runs."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from authsvc import log
from authsvc.config import LogSettings


@contextmanager
def caught() -> Iterator[io.StringIO]:
    """Catch what is logged, at any level, as lines of JSON; what starts within logs there."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.configure(LogSettings(level="debug", format="json"), stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
