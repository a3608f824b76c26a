"""The commands and programs in the docs work literally, except for the port."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
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


PYTHON_CLIENT = page("docs/clients/python.md")
_NAMED = re.compile(r"# (\w+\.py)\n")
# Runs programs one after the other, so that what they import is imported only once.
_RUN_ALL = """
import contextvars, runpy, sys
for path in sys.argv[1:]:
    contextvars.Context().run(runpy.run_path, path, run_name="__main__")
"""


def programs(document: Page) -> Iterator[tuple[str, str]]:
    """Yield the page's Python blocks, each with a name for its file.

    A block begins with the name under which the reader saves it, if others import it.
    """
    for number, block in enumerate(document.blocks("python")):
        named = _NAMED.match(block)
        yield named[1] if named else f"example_{number}.py", block


@pytest.mark.slow
async def test_examples_of_the_python_client_run(running: Application, tmp_path: Path) -> None:
    examples = dict(programs(PYTHON_CLIENT))
    assert sum(block.count(_ADDRESS) for block in examples.values()) == 1
    for name, block in examples.items():
        (tmp_path / name).write_text(block.replace(_ADDRESS, f"127.0.0.1:{running.grpc_port}"))
    output = await run(sys.executable, "-W", "error", "-c", _RUN_ALL, *examples)
    assert "CREDENTIALS_INVALID" in output
    assert "SESSION_REVOKED" in output
    assert "UNAUTHENTICATED An access token is required.\nthe orders of " in output
    assert output.splitlines()[-1] == "True"


def test_examples_of_the_python_client_are_formatted(tmp_path: Path) -> None:
    for name, block in programs(PYTHON_CLIENT):
        (tmp_path / name).write_text(block)
    for check in (
        ("ruff", "format", "--check", "--config", REPOSITORY / "pyproject.toml", "."),
        ("ruff", "check", "--config", REPOSITORY / "pyproject.toml", "--select", "E,F,I,B,UP", "."),
    ):
        checked = subprocess.run(
            [Path(sys.executable).parent / check[0], *check[1:]],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
