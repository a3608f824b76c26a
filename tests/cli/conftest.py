"""A state folder as created by `authsvc dev`, with the test's own database."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from authsvc.cli.main import app
from authsvc.dev.workspace import Workspace

Command = Callable[..., Result]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def plain(text: str) -> str:
    """Return the output that a terminal would show, without colors."""
    return _ANSI.sub("", text)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Certificates, secrets and settings; commands run in its parent folder."""
    monkeypatch.chdir(tmp_path)
    made = Workspace(Path(".authsvc"))
    made.prepare()
    return made


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Restore the log configuration: commands log to a stream that is closed when they end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def command(workspace: Workspace, database_dsn: str) -> Command:
    """Runs a command with the settings of the state folder."""
    workspace.set_database(database_dsn)
    runner = CliRunner()

    def run(*arguments: str, input: str | None = None) -> Result:  # noqa: A002 - the runner's name
        return runner.invoke(app, list(arguments), input=input)

    return run
