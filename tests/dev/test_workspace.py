"""The state folder: its settings follow the addresses that it is given."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from authsvc.config.loading import validate
from authsvc.dev.workspace import Workspace, WorkspaceError
from tests.config.conftest import SECRET


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    for name in ("GRPC", "HTTP"):
        monkeypatch.delenv(f"AUTHSVC_{name}__ADDRESS", raising=False)
    made = Workspace(tmp_path / "state")
    made.prepare()
    return made


def _settings(workspace: Workspace) -> dict[str, Any]:
    return tomllib.loads(workspace.config.read_text())


def test_addresses_are_written_and_the_issuer_follows(workspace: Workspace) -> None:
    before = _settings(workspace)
    assert before["tokens"]["issuer"] == "http://127.0.0.1:8081"
    workspace.set_addresses({"grpc": "127.0.0.1:9443", "http": ":9081"})
    after = _settings(workspace)
    assert after["grpc"] == {"address": "127.0.0.1:9443"}
    assert after["http"] == {"address": ":9081"}
    assert after["tokens"] == {"issuer": "http://127.0.0.1:9081"}
    assert after == before | {name: after[name] for name in ("grpc", "http", "tokens")}
    kept = workspace.config.read_text()
    workspace.set_addresses({"grpc": None, "http": None})
    assert workspace.config.read_text() == kept
    workspace.set_addresses({"grpc": None, "http": "127.0.0.1:9082"})
    assert _settings(workspace)["tokens"]["issuer"] == "http://127.0.0.1:9082"
    assert _settings(workspace)["grpc"] == after["grpc"]


def test_issuer_of_the_developer_stays(workspace: Workspace) -> None:
    text = workspace.config.read_text()
    workspace.config.write_text(text.replace("http://127.0.0.1:8081", "https://mine.test"))
    workspace.set_addresses({"grpc": None, "http": "127.0.0.1:9081"})
    assert _settings(workspace)["tokens"]["issuer"] == "https://mine.test"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[http]\nmax_connections = 1\n[grpc] # here\n  address = ':1' # old\nreflection = false\n",
        "[grpc]\n[tokens]\naudience = 'x'\n",
        "[[callers]]\nidentity = 'dns:a'\nroles = ['app']",
    ],
)
def test_other_settings_of_an_older_folder_stay(workspace: Workspace, text: str) -> None:
    workspace.config.write_text(text)
    workspace.set_addresses({"grpc": "127.0.0.1:9443", "http": None})
    before, after = tomllib.loads(text), _settings(workspace)
    assert after.pop("grpc") == before.pop("grpc", {}) | {"address": "127.0.0.1:9443"}
    assert after == before


@pytest.mark.parametrize(
    "text", ["grpc.address = ':1'", "grpc = {address = ':1'}", "grpc = 5", "[[grpc]]"]
)
def test_settings_in_another_form_are_left_alone(workspace: Workspace, text: str) -> None:
    workspace.config.write_text(text)
    with pytest.raises(WorkspaceError, match=r"set grpc.address = 127.0.0.1:9443 by hand"):
        workspace.set_addresses({"grpc": "127.0.0.1:9443", "http": None})
    assert workspace.config.read_text() == text


@pytest.mark.parametrize(
    "text", [b"[grpc", b"\xff", b"a = " + b"1" * 5_000, b"a = " + b"[" * 9_000]
)
@pytest.mark.parametrize("address", ["127.0.0.1:9443", None])
def test_settings_that_are_not_toml_are_named(
    workspace: Workspace, text: bytes, address: str | None
) -> None:
    workspace.config.write_bytes(text)
    with pytest.raises(WorkspaceError, match=r"config\.toml: not TOML: "):
        workspace.set_addresses({"grpc": address, "http": None})
    assert workspace.config.read_bytes() == text


def test_settings_that_are_no_text_are_named(workspace: Workspace) -> None:
    workspace.config.write_bytes(b"\xff")
    with pytest.raises(WorkspaceError, match="not text in UTF-8"):
        workspace.prepare()


def test_sections_of_another_type_are_left_to_the_check(workspace: Workspace) -> None:
    workspace.config.write_text("tokens = 5\n")
    workspace.set_addresses({"grpc": None, "http": None})
    assert workspace.config.read_text() == "tokens = 5\n"


def test_new_settings_are_valid(workspace: Workspace) -> None:
    key = [{"id": "a", "key": SECRET}]
    values = _settings(workspace)
    values |= {"database": {"url": "postgresql://db"}, "secrets": {"keyring": key, "peppers": key}}
    values["oauth"]["providers"]["local"]["client_secret"] = "secret"
    validate(values)
