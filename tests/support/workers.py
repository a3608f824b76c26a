"""Owns how tests use the machine: their processes, signals, and what is garbage-collected."""

import gc
import os
import signal
from collections.abc import Generator

import pytest


def pytest_configure() -> None:
    """Let started processes be interrupted, even if a shell has put the tests into the background.

    SIGINT is ignored there, and what is ignored is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Use one process more than there are cores: often, one waits for an event."""
    cores = yield
    return cores if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else cores + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave modules and collected tests out of garbage collections, as they live to the end.

    Going through all of them takes a quarter of a second each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
