"""The plugin as another project has it: light until it is used, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import page

_PATIENCE = 60.0

# The project has no asyncio plugin, which is not needed.
_PLAIN = ("-p", "no:cacheprovider", "-p", "no:asyncio")

_LIGHT = """
import sys

def test_nothing_was_loaded():
    loaded = {name for name in sys.modules if name.partition(".")[0] == "authsvc"}
    assert loaded == {"authsvc", "authsvc.testing", "authsvc.testing.plugin"}
    for name in ("grpc", "google.protobuf", "asyncpg", "aiohttp", "pydantic", "cryptography"):
        assert name not in sys.modules, name
"""

_PROJECT = """
import asyncio
import os
from pathlib import Path

import pytest
from authsvc.testing import TestService
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest

@pytest.fixture(scope="session")
def authsvc_settings():
    return {"tokens": {"access_lifetime": "2m"}, "brute_force": {"max_consecutive_failures": 50}}

@pytest.mark.parametrize("number", range(4))
def test_sync(authsvc_service: TestService, number):
    folder = authsvc_service.ca.parent.parent
    (Path(os.environ["FOLDERS"]) / folder.name).write_text(str(folder))
    tokens = authsvc_service.tokens(authsvc_service.user())
    request = ValidateTokenRequest(access_token=tokens.access_token)
    with authsvc_service.client() as client:
        assert client.auth.ValidateToken(request).active
        authsvc_service.clock.move(150)
        assert not client.auth.ValidateToken(request).active

def test_async_without_plugin(authsvc_service: TestService):
    async def main():
        async with authsvc_service.async_client() as client:
            tokens = authsvc_service.tokens(authsvc_service.user())
            request = ValidateTokenRequest(access_token=tokens.access_token)
            assert (await client.auth.ValidateToken(request)).active
    asyncio.run(main())

def test_left_in_disorder(authsvc_service: TestService):
    authsvc_service.clock.move(3600)
    authsvc_service.faults.unavailable().__enter__()
    authsvc_service.faults.database_gone().__enter__()

def test_after_disorder(authsvc_service: TestService):
    from datetime import UTC, datetime
    assert abs((authsvc_service.clock.now() - datetime.now(UTC)).total_seconds()) < 60
    authsvc_service.tokens(authsvc_service.user())
"""

_KILLED = """
import os, signal
from pathlib import Path

def test_killed(authsvc_service):
    folder = authsvc_service.ca.parent.parent
    (Path(os.environ["FOLDERS"]) / folder.name).write_text(str(folder))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _pytest(
    folder: Path, code: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    (folder / "test_project.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    # Settings of the project's own service are not those of this one.
    kept |= {"AUTHSVC_GRPC__ADDRESS": "nonsense", "AUTHSVC_CONFIG": "/nonexistent.toml"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *_PLAIN, *arguments],
        check=False,
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Where runs say which folders their services had: all of them are gone at the end."""
    folder = tmp_path / "folders"
    folder.mkdir()
    yield folder
    deadline = time.monotonic() + _PATIENCE
    for file in folder.iterdir():
        service = Path(file.read_text())
        while service.exists() or _processes_in(service):
            assert time.monotonic() < deadline, f"{service} is left"
            time.sleep(0.01)


def _processes_in(folder: Path) -> list[str]:
    """Return the processes whose working directory or arguments are in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = (process / "cmdline").read_text() + str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in seen:
            found.append(process.name)
    return found


def test_plugin_loads_nothing_until_it_is_used(tmp_path: Path) -> None:
    run = _pytest(tmp_path, _LIGHT, "-p", "no:xdist", "-p", "no:cov")
    assert run.returncode == 0, run.stdout + run.stderr


def test_plugin_adds_no_options_and_only_prefixed_fixtures(tmp_path: Path) -> None:
    code = """
from authsvc.testing import plugin

def test_names(pytestconfig, request):
    assert not hasattr(plugin, "pytest_addoption")
    manager = request.session._fixturemanager
    own = {name for name in vars(plugin) if manager.getfixturedefs(name, request.node)}
    assert own == {"authsvc_service", "authsvc_settings"}
"""
    run = _pytest(tmp_path, code)
    assert run.returncode == 0, run.stdout + run.stderr


_NO_SERVER = """
import sys
sys.modules["aiohttp"] = None
"""
_NO_BINARIES = """
from authsvc.dev import postgres

def find_binaries():
    raise postgres.BinariesNotFoundError("there are none")

postgres.find_binaries = find_binaries
"""


@pytest.mark.parametrize("missing", [_NO_SERVER, _NO_BINARIES])
def test_missing_extra_is_an_error_with_its_remedy(tmp_path: Path, missing: str) -> None:
    run = _pytest(tmp_path, f"{missing}\ndef test_needs_service(authsvc_service):\n    pass\n")
    assert run.returncode == 1
    assert "pip install 'authsvc[server,embedded]'" in run.stdout
    assert "1 error" in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.world
@pytest.mark.parametrize("arguments", [("-p", "no:xdist"), ("-n", "2")])
def test_project_uses_service_and_leaves_nothing(
    tmp_path: Path, folders: Path, arguments: tuple[str, ...]
) -> None:
    run = _pytest(tmp_path, _PROJECT, *arguments, FOLDERS=str(folders))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "7 passed" in run.stdout
    assert len(list(folders.iterdir())) == (2 if "-n" in arguments else 1)


@pytest.mark.world
def test_killed_run_leaves_nothing(tmp_path: Path, folders: Path) -> None:
    run = _pytest(tmp_path, _KILLED, FOLDERS=str(folders))
    assert run.returncode == -signal.SIGKILL, run.stdout + run.stderr
    assert len(list(folders.iterdir())) == 1


@pytest.mark.world
def test_examples_of_the_documentation_run(tmp_path: Path) -> None:
    examples = [
        block for block in page("docs/clients/python.md").blocks("python") if "authsvc_s" in block
    ]
    assert len(examples) == 2
    for block in examples:
        name = block.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(block)
    run = _pytest(tmp_path, "", "test_orders.py")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout


@pytest.mark.world
def test_shell_example_of_the_documentation_runs(tmp_path: Path) -> None:
    (shell,) = (block for block in page("docs/commands.md").blocks("sh") if "--ephemeral" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-ec", shell],
        check=False,
        cwd=tmp_path,
        env={"PATH": path, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"keys":' in run.stdout
    assert not list(tmp_path.glob("*/authsvc.json"))
