"""Owns the mark by which a call that exceeded the service's own time limit is recognized.

A call that its caller cancels looks the same otherwise, but must not be treated the same: what the
service cancels is not the user's failure.
"""

import asyncio
from typing import Any

_MARK = "the call exceeded the service's time limit"


def expire(task: asyncio.Task[Any]) -> None:
    """Cancel a task whose time is up."""
    task.cancel(_MARK)


def is_expiry(error: BaseException) -> bool:
    """Return whether an error is the cancellation by `expire`."""
    return isinstance(error, asyncio.CancelledError) and error.args == (_MARK,)
