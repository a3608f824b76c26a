"""Owns the output when a test times out: where its coroutines wait.

pytest-timeout prints the stacks of threads. A test that waits in the event loop shows only the loop
there, so the stacks of its tasks come first.
"""

import asyncio
import signal
import sys
from collections.abc import Generator
from types import FrameType

import pytest
from pytest_timeout import Settings


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(
    item: pytest.Item, settings: Settings
) -> Generator[None, object, object]:
    """Print the tasks before the alarm's own action."""
    started = yield
    fail = signal.getsignal(signal.SIGALRM)
    if settings.method == "signal" and callable(fail):

        def show_tasks_and_fail(number: int, frame: FrameType | None) -> None:
            print_tasks()
            fail(number, frame)

        signal.signal(signal.SIGALRM, show_tasks_and_fail)
    return started


def print_tasks() -> None:
    """Print the stack of each task of the loop running in this thread, if any."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    for task in asyncio.all_tasks(loop):
        task.print_stack(file=sys.stderr)
