"""Owns how a command works on the service's database: with its use cases, but without its ports."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from authsvc.app.build import open_parts
from authsvc.cli.output import run, settings_of
from authsvc.core.use_cases import UseCases

Result = TypeVar("Result")


def with_use_cases(
    config: Path | None, secrets: Path | None, work: Callable[[UseCases], Awaitable[Result]]
) -> Result:
    """Return what `work` returns for the use cases on the database that the settings name."""
    settings = settings_of(config, secrets)

    async def main() -> Result:
        async with open_parts(settings) as parts:
            return await work(parts.use)

    return run(main)
