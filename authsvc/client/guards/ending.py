"""Owns the ending of a handler whose credentials are no longer accepted."""

import asyncio
import contextlib
from typing import Any


async def cancelled(call: "asyncio.Future[Any]") -> None:
    """Cancel a task that is still running, and wait until it has ended."""
    if not call.done():
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await call
