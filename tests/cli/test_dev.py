"""`authsvc dev` on other ports: everything follows the state folder."""

import json
import re
import signal
import socket
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import Process

pytestmark = pytest.mark.slow


def test_issuer_health_and_first_call_follow_the_chosen_ports(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    state = tmp_path / "state"
    chosen = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    service = start("dev", "--state", str(state), *chosen)
    grpc = service.wait_for(r"gRPC \(mutual TLS\) +(\S+)")[1]
    http = service.wait_for(r"HTTP +(http://\S+)")[1]
    service.wait_for(rf"https://{re.escape(grpc)}/authsvc.v1.RateLimitService")
    settings = tomllib.loads((state / "config.toml").read_text())
    assert settings["grpc"]["address"] == grpc
    assert settings["tokens"]["issuer"] == http
    with urllib.request.urlopen(f"{http}/.well-known/openid-configuration") as answer:
        discovery = json.load(answer)
    assert (discovery["issuer"], discovery["jwks_uri"]) == (http, f"{http}/.well-known/jwks.json")
    health = start("health", "--state", str(state))
    assert health.end() == 0, health.output
    tour = start("demo", "api_keys", "--state", str(state))
    assert tour.end() == 0, tour.output
    # The folder remembers them, so that another service finds its port taken.
    second = start("dev", "--state", str(state), "--http", "127.0.0.1:0")
    assert second.end() == 1
    (line,) = second.output.splitlines()
    assert line.startswith(f"error: {grpc} is taken by process {service.pid} (")
    assert "--grpc" in line
    # Those with addresses of their own are refused too, and other commands still find the first.
    url = (state / "secrets" / "database__url").read_text()
    for database in ({}, {"AUTHSVC_DATABASE__URL": "postgresql://127.0.0.1:1/other"}):
        third = start("dev", "--state", str(state), *chosen, **database)
        assert third.end() == 1
        taken = f"the service in {state} is already run by process {service.pid}"
        assert third.output == f"error: {taken}\n"
    assert tomllib.loads((state / "config.toml").read_text()) == settings
    assert (state / "secrets" / "database__url").read_text() == url
    service.send(signal.SIGTERM)
    assert service.end() == 0, service.output


def test_taken_port_is_told_before_anything_is_made(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        state = tmp_path / "state"
        service = start("dev", "--state", str(state), "--grpc", "127.0.0.1:0", "--http", address)
        assert service.end() == 1
    (line,) = service.output.splitlines()
    assert line.startswith(f"error: {address} is taken by process ")
    assert "make run HTTP=" in line
    assert not state.exists()


@pytest.mark.parametrize("address", ["9643", "nope", "127.0.0.1:99999", "http://127.0.0.1:1"])
def test_address_in_another_form_is_one_line(
    tmp_path: Path, start: Callable[..., Process], address: str
) -> None:
    service = start("dev", "--state", str(tmp_path / "state"), "--grpc", address)
    assert service.end() == 1
    (line,) = service.output.splitlines()
    assert line.startswith(f'error: --grpc: "{address}" is not HOST:PORT')


def test_option_and_variable_together_are_refused(
    tmp_path: Path, start: Callable[..., Process]
) -> None:
    arguments = ("dev", "--state", str(tmp_path / "state"), "--grpc", "127.0.0.1:0")
    service = start(*arguments, AUTHSVC_GRPC__ADDRESS="127.0.0.1:1")
    assert service.end() == 1
    assert (
        service.output
        == "error: --grpc and AUTHSVC_GRPC__ADDRESS are both set: remove one of them\n"
    )
