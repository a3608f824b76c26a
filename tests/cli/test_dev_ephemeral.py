"""`authsvc dev --ephemeral`: a service for the tests of any language, of which nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from authsvc.client import Client
from authsvc.v1.auth_service_pb2 import RegisterRequest
from tests.support.processes import Process

pytestmark = pytest.mark.slow

_PATIENCE = 120.0
_EPHEMERAL = ("dev", "--ephemeral", "--http", "127.0.0.1:0", "--port-file")
# A test that is killed before it could stop its service.
_PARENT = """
import subprocess, sys
from pathlib import Path
file = Path(sys.argv[-1])
service = subprocess.Popen([sys.executable, "-m", "authsvc", *sys.argv[1:]])
while not file.exists():
    assert service.poll() is None
"""


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _read(file: Path, service: Process) -> Any:
    """Return what the file says once it exists; it is whole from the first moment."""
    service.wait_for("authsvc is running")
    _until(file.exists, service.output)
    return json.loads(file.read_text())


def test_port_file_says_all_that_a_client_needs(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    file = tmp_path / "ports.json"
    file.write_text("left by a service that was killed")
    service = start(*_EPHEMERAL, str(file))
    found = _read(file, service)
    assert found["pid"] == service.pid
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(found["clients"]) == ["admin", "app", "edge", "issuer", "observer"]
    with urlopen(f"{found['http']}/.well-known/openid-configuration") as answer:
        assert json.load(answer)["issuer"] == found["http"]
    state = Path(found["ca"]).parent.parent
    with Client(found["grpc"], ca=found["ca"], **found["clients"]["app"]) as client:
        registration = RegisterRequest(email="ada@example.test", password="Correct-Horse-7-Stapler")
        assert client.auth.Register(registration).user_id
    _until(lambda: any(Path(found["messages"]).glob("*.txt")), "no message")
    service.send(signal.SIGTERM)
    assert service.end() == 0, service.output
    assert not file.exists()
    assert not state.exists()


@pytest.mark.world
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(
    tmp_path: Path, start: Callable[..., Process], number: int
) -> None:
    file = tmp_path / "ports.json"
    service = start(*_EPHEMERAL, str(file))
    state = Path(_read(file, service)["ca"]).parent.parent
    service.send(number)
    assert service.end() == (0 if number == signal.SIGINT else -signal.SIGKILL)
    _until(lambda: not state.exists(), f"{state} is left")


@pytest.mark.world
def test_it_ends_with_process_that_started_it(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    clean = {name: value for name, value in os.environ.items() if "AUTHSVC" not in name}
    subprocess.run(
        [sys.executable, "-c", _PARENT, *_EPHEMERAL, str(file)],
        check=True,
        env=clean,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # It may have ended already.
    _until(lambda: not file.exists(), "it still serves")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ephemeral", "--state", "here"), "leave out"),
        (("--ephemeral", "--database", "postgresql://h/d"), "leave out"),
        (("--ephemeral", "--port-file", "none/ports.json"), "there is no folder"),
        (("--ephemeral", "--port-file", "."), "is a folder"),
    ],
)
def test_unusable_options_are_refused_in_one_line(
    start: Callable[..., Process], arguments: tuple[str, ...], message: str
) -> None:
    service = start("dev", *arguments)
    assert service.end() == 1
    (line,) = service.output.splitlines()
    assert line.startswith("error: ")
    assert message in line
