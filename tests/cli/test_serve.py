"""The service as a process: it starts with one command, reports errors, drains and reloads."""

import base64
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from authsvc.dev.workspace import Workspace
from tests.support.processes import Process

pytestmark = pytest.mark.slow


@pytest.fixture
def served(workspace: Workspace, database_dsn: str) -> list[str]:
    """The arguments of a service that can start."""
    workspace.set_database(database_dsn)
    return ["serve", "-c", str(workspace.config), "--secrets", str(workspace.secrets)]


def test_dev_runs_demo_and_drains(tmp_path: Path, start: Callable[..., Process]) -> None:
    state = str(tmp_path / "state")
    for _ in range(2):
        service = start("dev", "--state", state, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
        target = service.wait_for(r"gRPC \(mutual TLS\) +(\S+)")[1]
        tour = start("demo", "--state", state, "--target", target)
        assert tour.end() == 0, tour.output
        assert "That is authsvc." in tour.output
        assert "⊘" in tour.output
        assert "✗" not in tour.output
        service.send(signal.SIGTERM)
        assert service.end() == 0, service.output


@pytest.mark.world
def test_dev_restarts_after_kill(tmp_path: Path, start: Callable[..., Process]) -> None:
    state = str(tmp_path / "state")
    first = start("dev", "--state", state, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    first.wait_for(r"authsvc is running\.")
    first.kill()
    second = start("dev", "--state", state, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    second.wait_for(r"authsvc is running\.")
    second.send(signal.SIGINT)
    assert second.end() == 0, second.output


@pytest.mark.world
def test_health_over_mutual_tls(
    served: list[str], workspace: Workspace, start: Callable[..., Process]
) -> None:
    service = start(*served, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    target = service.wait_for(r'serving.*"grpc": ?"([^"]+)"')[1]
    certs = workspace.certificates
    arguments = [f"--ca={certs}/ca.crt", f"--cert={certs}/clients/edge.crt"]
    health = start("health", "--target", target, *arguments, f"--key={certs}/clients/edge.key")
    assert health.end() == 0, health.output
    assert health.output == "SERVING\n"


@pytest.mark.world
def test_port_in_use_prints_one_line(served: list[str], start: Callable[..., Process]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("GRPC", "HTTP"):
            service = start(
                *served,
                **{"AUTHSVC_GRPC__ADDRESS": "127.0.0.1:0", f"AUTHSVC_{name}__ADDRESS": address},
            )
            assert service.end() == 1
            errors = [line for line in service.output.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, service.output
            assert address in errors[0]
            assert "Traceback" not in service.output


def test_stop_by_a_signal_is_counted_and_a_crash_is_not(
    served: list[str], start: Callable[..., Process], tmp_path: Path
) -> None:
    count = tmp_path / "planned_stops"
    for number, expected in (
        (signal.SIGKILL, None),
        (signal.SIGTERM, "1\n"),
        (signal.SIGINT, "2\n"),
    ):
        environment = {"AUTHSVC_GRPC__ADDRESS": "127.0.0.1:0", "STATE_DIRECTORY": str(tmp_path)}
        service = start(*served, **environment)
        service.wait_for("serving")
        service.send(number)
        service.end()
        assert (count.read_text() if count.exists() else None) == expected


@pytest.mark.parametrize("name", ["server.crt", "server.key", "ca.crt"])
def test_missing_certificate_prints_one_line(
    served: list[str], workspace: Workspace, start: Callable[..., Process], name: str
) -> None:
    (workspace.certificates / name).unlink()
    service = start(*served, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    assert service.end() == 1
    assert "Traceback" not in service.output
    (line,) = [line for line in service.output.splitlines() if line.startswith("error: ")]
    assert name in line


def test_outdated_schema_is_rejected(
    workspace: Workspace, blank_dsn: str, start: Callable[..., Process]
) -> None:
    workspace.set_database(blank_dsn)
    service = start("serve", "-c", str(workspace.config), "--secrets", str(workspace.secrets))
    assert service.end() == 1
    assert "authsvc migrate" in service.output
    assert "Traceback" not in service.output


@pytest.mark.world
def test_keyring_of_another_database_prints_one_line(
    served: list[str], workspace: Workspace, start: Callable[..., Process]
) -> None:
    service = start(*served, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    service.wait_for("serving")
    service.kill()
    (workspace.secrets / "secrets__keyring").unlink()
    workspace.prepare()
    service = start(*served, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    assert service.end() == 1
    (line,) = [line for line in service.output.splitlines() if line.startswith("error: ")]
    assert "secrets.keyring" in line
    assert "Traceback" not in service.output


@pytest.mark.world
def test_reload_applies_valid_settings_and_ignores_invalid_ones(
    served: list[str], workspace: Workspace, start: Callable[..., Process]
) -> None:
    service = start(*served, AUTHSVC_GRPC__ADDRESS="127.0.0.1:0")
    service.wait_for("serving")
    good = workspace.config.read_text()
    workspace.config.write_text(good + "\n[grpc]\nnonsense = 1\n")
    service.send(signal.SIGHUP)
    service.wait_for("settings_not_reloaded")
    keyring = workspace.secrets / "secrets__keyring"
    keyring.rename(keyring.with_name("kept"))
    keyring.write_bytes(b"\xff")
    seen = len(service.output)
    service.send(signal.SIGHUP)
    service.wait_for("secrets__keyring: not text", seen)
    keyring.with_name("kept").rename(keyring)
    workspace.config.write_text(good + '\n[rate_limits.policies.x]\nrequests = 1\nwindow = "1s"\n')
    seen = len(service.output)
    service.send(signal.SIGHUP)
    service.wait_for("settings_reloaded", seen)
    # Nobody sends a signal after a change of a secret.
    seen = len(service.output)
    peppers = workspace.secrets / "secrets__peppers"
    another = {"id": "another", "key": base64.b64encode(os.urandom(32)).decode()}
    peppers.write_text(json.dumps([*json.loads(peppers.read_text()), another]))
    service.wait_for("secrets.peppers", seen)
    service.send(signal.SIGTERM)
    assert service.end() == 0
