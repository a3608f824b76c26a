"""Import and export of users by command: output, stored users, files and exit codes."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from authsvc.dev.workspace import Workspace
from tests.cli.conftest import Command, plain
from tests.core.passwords.test_foreign_forms import WEAK
from tests.core.passwords.test_foreign_hashes import FIREBASE, FIREBASE_HASH, FIREBASE_SALT

pytestmark = pytest.mark.slow

HASH = bcrypt.hashpw(b"hunter2", bcrypt.gensalt(8)).decode()
ROW = {"email": "ada@example.test", "display_name": "Ada", "password_hash": HASH}
FIREBASE_CONSOLE = f"""hash_config {{
  algorithm: SCRYPT,
  base64_signer_key: {base64.b64encode(FIREBASE.signer_key).decode()},
  base64_salt_separator: Bw==,
  rounds: 8,
  mem_cost: 14,
}}"""
FIREBASE_ROW = {
    "email": "bob@example.test",
    "password_hash": FIREBASE_HASH,
    "salt": FIREBASE_SALT,
}


def written(path: Path, *rows: object) -> str:
    """Write rows as JSON Lines, and strings unchanged; return the path."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def exported(command: Command, *arguments: str) -> list[dict[str, Any]]:
    result = command("users", "export", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_import_reports_row_counts(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u.jsonl", ROW, {"email": "bob@example.test"})
    first = command("users", "import", file)
    assert (first.exit_code, first.stdout) == (0, "2 imported, 0 skipped, 0 failed\n")
    again = command("users", "import", file)
    assert (again.exit_code, again.stdout) == (0, "0 imported, 2 skipped, 0 failed\n")


def test_failed_rows_are_named_and_set_exit_code(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u.jsonl", ROW, {"email": "no address"}, "{", {"shoe": 44})
    result = command("users", "import", file)
    assert result.exit_code == 3
    assert result.stdout == "1 imported, 0 skipped, 3 failed\n"
    assert result.stderr.splitlines() == [
        "line 2: email is not an e-mail address",
        "line 3: is not valid JSON from character 2 on",
        'line 4: has unknown fields: "shoe"',
    ]


def test_many_failures_are_written_to_file(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u.jsonl", *[{}] * 50)
    shown = command("users", "import", file)
    assert len(shown.stderr.splitlines()) == 21
    errors = tmp_path / "errors.jsonl"
    result = command("users", "import", file, "--errors", str(errors))
    assert (result.exit_code, result.stderr) == (3, "")
    failures = [json.loads(line) for line in errors.read_text().splitlines()]
    assert failures[-1] == {"line": 50, "field": "email", "error": "is missing"}
    assert len(failures) == 50


def test_dry_run_stores_nothing(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u.jsonl", ROW)
    result = command("users", "import", file, "--dry-run")
    assert result.stdout == "would be 1 imported, 0 skipped, 0 failed\n"
    assert exported(command) == []


def test_file_can_come_from_stdin(command: Command, workspace: Workspace) -> None:
    with workspace.config.open("a") as stream:
        stream.write("\n[permissions]\nadmin = []\n")
    result = command("users", "import", "-", input="email,roles\nada@example.test,user admin\n")
    assert result.stdout == "1 imported, 0 skipped, 0 failed\n"
    (row,) = exported(command)
    assert row["roles"] == ["user", "admin"]


def test_format_can_be_specified(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u", "email\na@example.test")
    assert command("users", "import", file, "--format", "jsonl").exit_code == 3
    assert command("users", "import", file, "--format", "csv").exit_code == 0
    assert command("users", "import", file, "--format", "xml").exit_code == 2


def test_weak_hashes_are_wrapped_if_asked_for(command: Command, tmp_path: Path) -> None:
    weak = {"email": "ada@example.test", "password_hash": WEAK["passlib, ldap_sha1"]}
    file = written(tmp_path / "u.jsonl", weak)
    refused = command("users", "import", file)
    assert refused.exit_code == 3
    assert "accept_weak_hashes" in refused.stderr
    assert command("users", "import", file, "--accept-weak-hashes").exit_code == 0
    (row,) = exported(command)
    assert row["password_hash"].startswith("wrapped:$digest-sha1$i=1,s=suffix$$AAAA")
    assert row["pepper_id"]


def test_undefined_role_is_named(command: Command, tmp_path: Path) -> None:
    file = written(tmp_path / "u.jsonl", {"email": "ada@example.test", "roles": ["editr"]})
    result = command("users", "import", file)
    assert (result.exit_code, result.stderr) == (
        3,
        'line 1: roles has roles that are not defined: "editr"; those defined are: "user"\n',
    )
    password = "Analytical-Engine-1843\n"
    arguments = ["users", "create", "a@x.test", "--role", "editr", "--password-stdin"]
    result = command(*arguments, input=password)
    assert (result.exit_code, result.stderr) == (
        1,
        'error: roles: has roles that are not defined: "editr"; those defined are: "user"\n',
    )
    arguments[4] = "user"
    assert command(*arguments, input="\ufeff" + password.replace("\n", "\r\n")).exit_code == 0


@pytest.mark.parametrize("name", ["disable", "enable"])
def test_unknown_address_is_told_from_unknown_id(command: Command, name: str) -> None:
    result = command("users", name, "nobody@example.test")
    assert (result.exit_code, result.stderr) == (1, "error: No user has this address.\n")
    for unknown in ("018f0000-0000-7000-8000-000000000001", "nobody"):
        result = command("users", name, unknown)
        assert (result.exit_code, result.stderr) == (1, "error: No user has this id.\n")


def test_export_of_keycloak_without_users_is_one_line(command: Command, tmp_path: Path) -> None:
    result = command("users", "import", written(tmp_path / "realm.json", {"realm": "r"}))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: This export of a Keycloak realm has no users")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_firebase_parameters_are_accepted_in_console_format(
    command: Command, tmp_path: Path, as_json: bool
) -> None:
    key = base64.b64encode(FIREBASE.signer_key).decode()
    parameters = {
        "base64_signer_key": key,
        "base64_salt_separator": "Bw==",
        "rounds": 8,
        "mem_cost": 14,
    }
    text = json.dumps(parameters) if as_json else FIREBASE_CONSOLE
    # Editors on Windows begin a file with a byte order mark.
    config = written(tmp_path / "firebase", "\ufeff" + text)
    file = written(tmp_path / "u.jsonl", FIREBASE_ROW)
    assert command("users", "import", file).exit_code == 3
    result = command("users", "import", file, "--firebase-config", config)
    assert result.exit_code == 0, result.output
    (row,) = exported(command)
    assert row["password_hash"].startswith("$firebase-scrypt$ln=14,r=8$")
    assert key not in row["password_hash"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "missing.jsonl"],
        ["import", "."],
        ["import", "u.jsonl", "--errors", "missing/errors"],
        ["import", "u.jsonl", "--firebase-config", "missing"],
        ["import", "u.jsonl", "--firebase-config", "u.jsonl"],
        ["import", "u.jsonl", "--firebase-config", "u.bin"],
        ["import", "u.bin"],
        ["import", "secrets.csv"],
        ["export", "missing/u.jsonl"],
        ["export", ".authsvc"],
    ],
    ids=" ".join,
)
def test_impossible_commands_print_one_line(
    command: Command, workspace: Workspace, arguments: list[str]
) -> None:
    written(Path("u.jsonl"), ROW)
    Path("u.bin").write_bytes(b"\xff\xfeu\0s\0")
    Path("secrets.csv").write_text("ada@example.test,hunter2\n")
    result = command("users", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: " in result.stderr
    assert len([line for line in result.stderr.splitlines() if "error: " in line]) == 1
    assert "hunter2" not in result.output
    assert {path.name for path in Path().iterdir()} == {
        *(".authsvc", "secrets.csv", "u.bin", "u.jsonl")
    }


def test_exceeding_limit_reports_progress(
    command: Command, workspace: Workspace, tmp_path: Path
) -> None:
    with workspace.config.open("a") as stream:
        stream.write("\n[imports]\nmax_rows = 600\n")
    file = written(tmp_path / "u.jsonl", *({"email": f"u{n}@example.test"} for n in range(700)))
    result = command("users", "import", file)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "500 rows: 500 imported, 0 skipped, 0 failed",
        "error: At most 600 of these are allowed.",
    ]


def test_export_is_private_and_can_be_imported_again(
    command: Command, workspace: Workspace, tmp_path: Path, blank_dsn: str
) -> None:
    own = command(
        "users", "create", "eve@example.test", "--password-stdin", input="Ä-Secret-Horse-42\n"
    )
    assert own.exit_code == 0, own.output
    rows = [ROW | {"roles": [], "disabled": True}, {"email": "bob@example.test"}]
    command("users", "import", written(tmp_path / "u.jsonl", *rows))
    file = tmp_path / "export.jsonl"
    file.write_text("from before")
    file.chmod(0o644)
    result = command("users", "export", str(file))
    assert (result.exit_code, result.stdout) == (0, f"3 users written to {file}.\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = exported(command)

    workspace.set_database(blank_dsn)
    assert command("migrate").exit_code == 0
    again = command("users", "import", str(file))
    assert again.stdout == "3 imported, 0 skipped, 0 failed\n", again.output
    assert exported(command) == first
    assert [sorted(row) for row in exported(command, "--without-passwords")] == [
        sorted(set(row) - {"password_hash", "pepper_id"}) for row in first
    ]


def test_failed_export_keeps_existing_file(
    command: Command, workspace: Workspace, tmp_path: Path
) -> None:
    file = tmp_path / "export.jsonl"
    file.write_text("from before")
    workspace.set_database("postgresql://nobody:hidden@127.0.0.1:1/none")
    assert command("users", "export", str(file)).exit_code == 1
    assert file.read_text() == "from before"
    assert {path.name for path in tmp_path.iterdir()} == {".authsvc", "export.jsonl"}


def test_help_lists_fields_and_formats(command: Command) -> None:
    text = " ".join(plain(command("users", "import", "--help").output).split())
    for word in ("email_verified", "create_time", "user_id", "bcrypt", "Firebase", "Exit codes: 0"):
        assert word in text
    text = " ".join(plain(command("users", "export", "--help").output).split())
    assert "as secret as the database" in text
