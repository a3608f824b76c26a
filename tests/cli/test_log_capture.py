"""What parts of the service log is captured by task, though the log belongs to the process."""

import asyncio

import structlog
from structlog.testing import capture_logs

from authsvc.cli.log_capture import captured_logs, why

log = structlog.get_logger("test")


async def test_tasks_capture_their_own_lines_at_the_same_time() -> None:
    met = asyncio.Barrier(2)

    async def work(name: str) -> str:
        with captured_logs() as lines:
            await met.wait()
            log.warning("provider_failed", provider=name)
            # A task that it starts belongs to it.
            await asyncio.create_task(_log_later(name))
            await met.wait()
        return why(lines)

    found = await asyncio.gather(work("a"), work("b"))
    assert list(found) == [
        f"provider failed (provider={name}); cause found (provider={name})" for name in ("a", "b")
    ]


async def _log_later(name: str) -> None:
    await asyncio.sleep(0)
    log.warning("cause_found", provider=name)


def test_log_goes_its_way_before_and_after() -> None:
    with capture_logs() as whole:
        log.info("before")
        with captured_logs() as lines:
            log.info("within")
        log.info("after")
    assert [line["event"] for line in whole] == ["before", "after"]
    assert [line["event"] for line in lines] == ["within"]
    assert why([]) == ""
