"""Runs the commands of pages as an operator would."""

import asyncio
import os
import sys
from pathlib import Path

_PATIENCE = 600.0


async def sh(
    script: str, folder: Path, standard_input: str = "", *, cwd: Path | None = None, **more: str
) -> str:
    """Run a script and return what it prints; a failing command ends it and fails the test.

    `folder` is for temporary files. `more` is for the environment, where PATH is put before the
    machine's.
    """
    path = ":".join((str(Path(sys.executable).parent), more.pop("PATH", ""), os.environ["PATH"]))
    process = await asyncio.create_subprocess_exec(
        *("sh", "-eux", "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(folder)} | more | {"PATH": path},
    )
    async with asyncio.timeout(_PATIENCE):
        output, errors = await process.communicate(standard_input.encode())
    assert process.returncode == 0, (output + errors).decode()
    return output.decode()
