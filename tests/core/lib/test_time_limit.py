"""A call that the service cancels for its time limit is told from one that its caller cancels."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from authsvc.core.lib.time_limit import expire, is_expiry


async def _forever() -> None:
    await asyncio.Event().wait()


async def _in_task() -> None:
    await asyncio.create_task(_forever())


async def _shielded() -> None:
    await asyncio.shield(asyncio.ensure_future(_forever()))


async def _gathered() -> None:
    await asyncio.gather(_forever(), _forever())


async def _under_timeout() -> None:
    async with asyncio.timeout(3600):
        await _forever()


@pytest.mark.parametrize("work", [_forever, _in_task, _shielded, _gathered, _under_timeout])
async def test_expiry_is_recognized_wherever_task_waits(
    work: Callable[[], Awaitable[None]],
) -> None:
    seen: list[bool] = []

    async def call() -> None:
        try:
            await work()
        except asyncio.CancelledError as error:
            seen.append(is_expiry(error))
            raise

    for end in (expire, asyncio.Task.cancel):
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        end(task)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen == [True, False]


def test_other_errors_are_no_expiry() -> None:
    assert not is_expiry(TimeoutError())
    assert not is_expiry(asyncio.CancelledError())
