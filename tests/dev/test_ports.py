"""The ports of a developer's service: where they come from, and who has them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from authsvc.dev import ports
from authsvc.dev.ports import addresses, dialled, free, problems


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRPC", "HTTP"):
        monkeypatch.delenv(f"AUTHSVC_{name}__ADDRESS", raising=False)


def test_options_go_before_variables_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert addresses(tmp_path) == ports.DEFAULTS
    (tmp_path / "config.toml").write_text('\ufeff[grpc]\naddress = ":1"\n[http]\naddress = ":2"\n')
    assert addresses(tmp_path) == {"grpc": ":1", "http": ":2"}
    monkeypatch.setenv("AUTHSVC_HTTP__ADDRESS", ":3")
    assert addresses(tmp_path) == {"grpc": ":1", "http": ":3"}
    assert addresses(tmp_path, {"http": ":4", "grpc": None}) == {"grpc": ":1", "http": ":4"}
    (tmp_path / "config.toml").write_text("grpc = 1\nhttp = [")
    assert addresses(tmp_path)["grpc"] == ports.DEFAULTS["grpc"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":1", "127.0.0.1:1"),
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "127.0.0.1:1"),
        ("[::1]:1", "[::1]:1"),
        ("unix:/run/a:b", "unix:/run/a:b"),
    ],
)
def test_all_interfaces_are_reached_by_loopback(address: str, expected: str) -> None:
    assert dialled(address) == expected


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:²", "a..b:80", f"{'a' * 70}.test:80", f"127.0.0.1:{'9' * 30}", "127.0.0.1:99999"],
)
def test_what_is_no_address_is_left_to_the_service(address: str) -> None:
    assert problems({"grpc": address}) == []


def test_port_zero_becomes_a_free_one() -> None:
    host, _, port = free("127.0.0.1:0").rpartition(":")
    assert (host, port == "0") == ("127.0.0.1", False)
    assert free("127.0.0.1:8443") == "127.0.0.1:8443"


def test_taken_port_names_its_process_and_the_way_out(taken: str) -> None:
    (line,) = problems({"grpc": taken, "http": "127.0.0.1:0"})
    assert line.startswith(f"{taken} is taken by process {os.getpid()} (")
    assert "authsvc dev --grpc 127.0.0.1:" in line
    assert "make run GRPC=127.0.0.1:" in line
    assert problems({"grpc": "unix:/run/a", "http": free("127.0.0.1:0")}) == []


def test_both_ports_need_addresses_of_their_own() -> None:
    address = free("127.0.0.1:0")
    (line,) = problems({"grpc": address, "http": address})
    assert "different addresses" in line
    assert problems(dict.fromkeys(("grpc", "http"), "127.0.0.1:0")) == []


def test_script_needs_nothing_installed(taken: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[http]\naddress = "{taken}"\n')
    command = [sys.executable, "-I", "-S", ports.__file__, "--state", str(tmp_path)]
    at_free = [*command, "--grpc", "127.0.0.1:0"]
    done = subprocess.run(at_free, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {taken} is taken")
    assert subprocess.run([*at_free, "--http", "127.0.0.1:0"], check=False).returncode == 0
