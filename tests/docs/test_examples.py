"""The README's commands work literally, except for the port."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from authsvc.app.application import Application
from tests.support.documents import REPOSITORY, Page, page, pages

README = page("README.md")
_ADDRESS = "127.0.0.1:8443"
_PATIENCE = 120.0


async def run(*command: str) -> str:
    """Run a command in the current folder and return what it prints, except errors."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(_PATIENCE):
        output, errors = await process.communicate()
    assert process.returncode == 0, (output + errors).decode()
    return output.decode()


@pytest.mark.slow
async def test_first_calls_work(
    running: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The home folder may be missing or read-only.
    monkeypatch.setenv("BUF_CACHE_DIR", str(tmp_path / "buf"))
    # As in a checkout in which `make run` was called.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "protos").symlink_to(REPOSITORY / "protos")
    (shell,) = (block for block in README.blocks("sh") if "buf curl" in block)
    (python,) = README.blocks("python")
    assert shell.count(_ADDRESS) == python.count(_ADDRESS) == 1
    address = f"127.0.0.1:{running.grpc_port}"
    registered = await run("sh", "-ec", shell.replace(_ADDRESS, address))
    assert "userId" in registered
    session_id = await run(".venv/bin/python", "-c", python.replace(_ADDRESS, address))
    assert len(session_id.strip()) == 36


@pytest.mark.parametrize("document", pages(), ids=str)
def test_shell_blocks_parse(document: Page) -> None:
    for block in document.blocks("sh"):
        checked = subprocess.run(
            ["sh", "-n", "-c", block], check=False, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr


def test_banner_matches_dev_command() -> None:
    """The README shows lines of the banner of `make run`."""
    source = (REPOSITORY / "authsvc" / "cli" / "dev.py").read_text()
    (shown,) = (block for block in README.blocks("text") if "is running" in block)
    for line in filter(None, shown.splitlines()):
        assert line.split()[0] in source
    assert "embedded PostgreSQL" in source
    assert "embedded PostgreSQL" in shown


def test_shown_tour_matches_demo() -> None:
    tour = REPOSITORY / "authsvc" / "cli" / "demo"
    sources = "".join(path.read_text() for path in tour.glob("*.py"))
    (shown,) = (block for block in README.blocks("text") if "That is authsvc." in block)
    for line in filter(str.strip, shown.splitlines()):
        what = line.strip(" ✓⊘…").partition(": ")[0]
        assert what in sources, line
