"""The addresses that the service listens on: their forms, and why one can't be used."""

import socket
from pathlib import Path

import pytest

from authsvc.app.addresses import split_address, unix_path, why_unusable, with_port
from authsvc.errors import ServerError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":80", ("::", 80)),
        ("name:65535", ("name", 65_535)),
    ],
)
def test_address_is_split(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "80", "name", "name:", "name:65536", "name:-1", "name:x"])
def test_other_forms_are_refused(address: str) -> None:
    with pytest.raises(ServerError, match=f'"{address}" is not a valid address'):
        split_address(address)


def test_port_zero_is_replaced() -> None:
    assert with_port("127.0.0.1:0", 80) == "127.0.0.1:80"
    assert with_port("127.0.0.1:8080", 80) == "127.0.0.1:8080"


def test_unix_socket_has_a_path() -> None:
    assert unix_path("unix:/run/grpc.sock") == "/run/grpc.sock"
    assert unix_path("unix:///run/grpc.sock") == "///run/grpc.sock"
    assert unix_path("127.0.0.1:80") is None


def test_port_in_use_is_told_from_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert why_unusable(address) == "it is already in use"
    assert why_unusable(address) is None


def test_unusable_names_are_told_apart() -> None:
    assert why_unusable("203.0.113.1:80") == "it is not an address of this machine"
    assert why_unusable("double..dot:80") == "it is not a valid name"
    cause = why_unusable("nowhere.invalid:80")
    assert cause is not None
    assert cause.startswith("the name can't be resolved: ")


def test_missing_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be allowed everything, so the system's answer is given."""

    def bind(_probe: socket.socket, _place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    assert why_unusable("127.0.0.1:443") == "permission denied"


def test_unix_socket_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    assert why_unusable(f"unix:{path}") is None
    assert not path.exists()
    path.write_text("a file")
    assert why_unusable(f"unix:{path}") == "it is already in use"
    assert why_unusable("unix:/nowhere/grpc.sock") == "No such file or directory"
