"""Background jobs of the service that a test runs by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class Job(Protocol):
    """Something that runs until it is cancelled."""

    async def run(self) -> None:
        """Run until cancelled."""


@asynccontextmanager
async def running(*jobs: Job) -> AsyncIterator[None]:
    """Run the jobs within the block."""
    tasks = [asyncio.create_task(job.run()) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
