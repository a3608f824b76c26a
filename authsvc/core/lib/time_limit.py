"""Owns the mark by which a call that the service itself ended is recognized.

A call that its caller cancels looks the same otherwise, but must not be treated the same: what the
service cancels is not the user's failure.
"""

import asyncio
from typing import Any

_MARK = "the service ended the call"


def expire(task: asyncio.Task[Any]) -> None:
    """Cancel the task of a call whose time is up, or whose place another caller needs."""
    task.cancel(_MARK)


def is_expiry(error: BaseException) -> bool:
    """Return whether an error is the cancellation by `expire`."""
    return isinstance(error, asyncio.CancelledError) and error.args == (_MARK,)
