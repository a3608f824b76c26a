"""`authsvc certs`: commands as a newcomer types them, and their output."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authsvc.cli.certs import app


def certs(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def certs_json(*arguments: str | Path) -> list[dict[str, object]]:
    result = certs(*arguments, "--json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def test_init_lists_certificates(tmp_path: Path) -> None:
    first = certs_json("init", "--folder", tmp_path)
    again = certs_json("init", "--folder", tmp_path)
    assert {row["made"] for row in first} == {"now"}
    assert {row["made"] for row in again} == {"earlier"}
    assert [Path(str(row["certificate"])).stem for row in first] == [
        "ca", "server", "app", "edge", "issuer", "admin", "observer",
    ]  # fmt: skip
    assert all(Path(str(row[kind])).is_file() for row in first for kind in ("certificate", "key"))
    assert first[2]["names"] == ["spiffe://authsvc.dev/app"]
    assert datetime.fromisoformat(str(first[2]["expire_time"])) > datetime.now(UTC)


def test_init_prints_a_table(tmp_path: Path) -> None:
    result = certs("init", "--folder", tmp_path)
    assert result.exit_code == 0
    assert "spiffe" in result.stdout


def test_issue_derives_identity_from_file_name(tmp_path: Path) -> None:
    (row,) = certs_json("issue", "billing", "--folder", tmp_path)
    assert row["names"] == ["spiffe://authsvc.dev/billing"]
    assert row["certificate"] == str(tmp_path / "clients" / "billing.crt")


def test_issue_accepts_identity_and_lifetime(tmp_path: Path) -> None:
    identity = "spiffe://corp.example/team-a/billing"
    (row,) = certs_json("issue", "b", "--identity", identity, "--days", "2", "--folder", tmp_path)
    assert row["names"] == [identity]
    left = datetime.fromisoformat(str(row["expire_time"])) - datetime.now(UTC)
    assert timedelta(days=1) < left <= timedelta(days=2)


def test_issue_accepts_server_names(tmp_path: Path) -> None:
    names = ["--dns", "Web.Local", "--dns", "localhost", "--ip", "0:0::1"]
    (row,) = certs_json("issue", "web", "--server", *names, "--folder", tmp_path)
    assert row["names"] == ["dns:web.local", "dns:localhost", "::1"]
    assert row["certificate"] == str(tmp_path / "web.crt")


def test_issue_prints_caller_settings(tmp_path: Path) -> None:
    result = certs("issue", "web", "--dns", "web.local", "--folder", tmp_path)
    assert result.exit_code == 0
    assert 'identity = "dns:web.local"' in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--identity", "https://authsvc.dev/billing"],
        ["--identity", "SPIFFE://authsvc.dev/billing"],
        ["--identity", "spiffe://authsvc.dev"],
        ["--identity", "spiffe://authsvc.dev/"],
        ["--identity", "spiffe:///billing"],
        ["--identity", "spiffe://Authsvc.dev/billing"],
        ["--identity", "spiffe://user@authsvc.dev/billing"],
        ["--identity", "spiffe://authsvc.dev:80/billing"],
        ["--identity", "spiffe://authsvc.dev/billing/"],
        ["--identity", "spiffe://authsvc.dev//billing"],
        ["--identity", "spiffe://authsvc.dev/a/../billing"],
        ["--identity", "spiffe://authsvc.dev/billing?x=1"],
        ["--identity", "spiffe://authsvc.dev/billing#x"],
        ["--identity", "spiffe://authsvc.dev/b%69lling"],
        ["--identity", "spiffe://authsvc.dev/bílling"],
        ["--identity", "spiffe://authsvc.dev/" + "x" * 2_048],
        ["--identity", ""],
        ["--identity", "spiffe://authsvc.dev/x", "--dns", "x.local"],
        ["--dns", "a.local", "--dns", "b.local"],
        ["--dns", "under_score"],
        ["--dns", "-a.local"],
        ["--dns", "a..local"],
        ["--dns", ""],
        ["--dns", "*.local"],
        ["--dns", ".".join(["a" * 60] * 5)],
        ["--ip", "10.0.0.1"],
        ["--server", "--ip", "10.0.0"],
    ],
)
def test_invalid_identity_is_rejected_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    result = certs("issue", "billing", *arguments, "--folder", tmp_path / "certs")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["init"], ["issue", "billing"]])
def test_unusable_folder_is_named_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "file").touch()
    result = certs(*arguments, "--folder", tmp_path / "file")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tmp_path / 'file'}")
    assert result.stderr.count("\n") == 1


def test_invalid_file_name_is_rejected(tmp_path: Path) -> None:
    result = certs("issue", "../up", "--folder", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == "error: '../up' can't be the name of a certificate's files\n"
