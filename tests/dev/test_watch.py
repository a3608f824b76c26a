"""`make dev` and `make psql`: a code change restarts the service, and its data are kept."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from watchfiles import Change

from authsvc.dev.psql import PsqlError, connection_variables, find_psql
from authsvc.dev.watch import SOURCES, is_source
from authsvc.dev.workspace import Workspace

RUNNING = "authsvc is running."


@pytest.fixture
def environment() -> dict[str, str]:
    """Free ports, and no settings of the developer; no coverage of copied code."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AUTHSVC", "COVERAGE"))
    }
    ports = {f"AUTHSVC_{name}__ADDRESS": "127.0.0.1:0" for name in ("GRPC", "HTTP")}
    return kept | ports


@pytest.fixture
def watched(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The service, running from a watched copy of the code."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCES, tmp_path / "authsvc", ignore=ignored)
    with subprocess.Popen(
        [sys.executable, "-m", "authsvc.dev.watch"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.kill()


def read_until(output: IO[str] | None, text: str) -> list[str]:
    """Return the lines up to the one with `text`."""
    assert output is not None
    lines = []
    for line in output:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"{text!r} never came: {''.join(lines)}")


@pytest.mark.slow
def test_code_change_restarts_service_and_keeps_data(
    watched: subprocess.Popen[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    def psql(statement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "authsvc.dev.psql", "-At", "-c", statement],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    read_until(watched.stdout, RUNNING)
    assert psql("CREATE TABLE kept AS SELECT 1815 AS year").returncode == 0
    (tmp_path / "authsvc" / "core" / "notes.txt").touch()
    (tmp_path / "authsvc" / "core" / "added.py").touch()
    restarted = read_until(watched.stdout, RUNNING)
    assert [line for line in restarted if line.startswith("changed")] == [
        "changed: authsvc/core/added.py; restarting\n"
    ]
    assert psql("SELECT year FROM kept").stdout == "1815\n"
    watched.send_signal(signal.SIGTERM)
    assert watched.wait() == 0
    stopped = psql("SELECT 1")
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("error: the service isn't running: ")


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("authsvc/core/sessions.py", True),
        ("authsvc/store/migrations/0001_foundation.sql", True),
        ("authsvc/outbound/templates/code.html", True),
        ("authsvc/outbound/templates/code.txt", True),
        ("authsvc/core/notes.txt", False),
        ("authsvc/core/.#sessions.py", False),
        ("authsvc/core/__pycache__/sessions.cpython-311.pyc", False),
    ],
)
def test_only_source_files_cause_restart(path: str, counts: bool) -> None:
    assert is_source(Change.modified, path) is counts


def test_psql_requires_service_that_has_run(tmp_path: Path) -> None:
    with pytest.raises(PsqlError, match="has never run"):
        connection_variables(Workspace(tmp_path))


def test_psql_connects_to_configured_database(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.prepare()
    workspace.set_database("postgresql://ada:l%40ce@db.test:6432/users?sslmode=require")
    assert connection_variables(workspace) == {
        "PGHOST": "db.test",
        "PGPORT": "6432",
        "PGUSER": "ada",
        "PGPASSWORD": "l@ce",
        "PGDATABASE": "users",
        "PGSSLMODE": "require",
    }


def test_psql_is_found_on_path_without_embedded_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.dev.psql.find_binaries", lambda: tmp_path / "nowhere")
    (tmp_path / "psql").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_psql() == tmp_path / "psql"
    (tmp_path / "psql").unlink()
    with pytest.raises(PsqlError, match="postgresql-client"):
        find_psql()
