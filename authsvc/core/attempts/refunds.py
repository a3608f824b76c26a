"""Owns the refunds that could not be made at once: they are repeated until the database answers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeAlias

import structlog

from authsvc.core.lib.time_limit import is_expiry
from authsvc.errors import ServiceError

_MAX_WAITING = 10_000
_INTERVAL = 1.0
# By then, most of what was charged has drained anyway.
_PATIENCE = 600.0

Refund: TypeAlias = Callable[[], Awaitable[object]]

log = structlog.get_logger(__name__)


class Refunds:
    """Makes refunds now or, if the database does not answer, as soon as it does.

    Those that wait are in memory: if the process ends, the charges stay and drain with time.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Refund, float]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def make(self, refund: Refund) -> None:
        """Make a refund; if that fails or the call's time is up, repeat it in the background."""
        try:
            await refund()
        except ServiceError:
            self.make_later(refund)
        except asyncio.CancelledError as error:
            if is_expiry(error):
                self.make_later(refund)
            raise

    def make_later(self, refund: Refund) -> None:
        """Make a refund in the background."""
        if len(self._waiting) >= _MAX_WAITING:
            log.warning("refund_dropped", waiting=len(self._waiting))
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((refund, loop.time() + _PATIENCE))
        if self._task is None:
            self._task = loop.create_task(self._drain(), context=Context())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                refund, until = self._waiting.popleft()
                try:
                    await refund()
                except ServiceError as error:
                    if asyncio.get_running_loop().time() > until:
                        log.warning("refund_failed", reason=error.reason)
                        continue
                    # Behind the others: its row may be locked, which is no reason to delay theirs.
                    self._waiting.append((refund, until))
                    await asyncio.sleep(_INTERVAL)
                except Exception:
                    log.exception("refund_failed")
        finally:
            self._task = None
