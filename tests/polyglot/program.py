"""Owns the running of a program that prints its steps, and waits for the test at some of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

# Only so that a test of a program that hangs ends.
_PATIENCE = 60.0


class Program:
    """A program that speaks in lines: `name value` for each step."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def step(self) -> tuple[str, str]:
        """Return the next step's name and value, or fail and show what the program logged."""
        assert self._process.stdout
        try:
            async with asyncio.timeout(_PATIENCE):
                line = (await self._process.stdout.readline()).decode()
        except TimeoutError:
            line = ""
        assert line.endswith("\n"), f"no further step:\n{self._log.read_text()[-8000:]}"
        name, _, value = line.rstrip("\n").rpartition(" ")
        return name, value

    async def expect(self, **steps: str) -> None:
        """Read the steps that have to come next."""
        for name, value in steps.items():
            await self.expect_one_of(name, value)

    async def expect_one_of(self, name: str, *values: str) -> None:
        """Read the step that has to come next, which may have any of the values."""
        found, said = await self.step()
        seen = f"{found} {said}:\n{self._log.read_text()[-8000:]}"
        assert found == name, seen
        assert _plain(said) in map(_plain, values), seen

    def resume(self) -> None:
        """Let the program go on after a step at which it waits."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")

    async def end(self) -> int:
        """Return the exit code."""
        async with asyncio.timeout(_PATIENCE):
            return await self._process.wait()


@asynccontextmanager
async def running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> AsyncIterator[Program]:
    """Run a program in `folder`; it is killed if it is still running in the end."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env=environment,
        )
        try:
            yield Program(process, log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _plain(value: str) -> str:
    """Return a name without what the style of a language adds: DeadlineExceeded."""
    return value.replace("_", "").lower()
