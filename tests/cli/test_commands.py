"""The commands: their effects on the database, their output and their failures."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from authsvc.cli.confirming import confirm
from authsvc.cli.main import app
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.dev.workspace import Workspace
from authsvc.errors import StoreUnavailable
from tests.cli.conftest import Command, plain

PASSWORD = "Correct-Horse-42-Staple"


def _commands() -> list[list[str]]:
    group: Any = typer.main.get_command(app)
    found: list[list[str]] = [[]]
    for name, command in sorted(group.commands.items()):
        found.append([name])
        found += [[name, inner] for inner in sorted(getattr(command, "commands", {}))]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arguments", _commands(), ids=" ".join)
def test_every_command_has_help(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, [*arguments, "-h"])
    assert result.exit_code == 0
    assert "Usage:" in plain(result.output)
    assert result.output == CliRunner().invoke(app, [*arguments, "--help"]).output
    # What takes no value shows no type.
    assert "<bool>" not in plain(result.output)


def test_commands_that_confirm_do_so_alike() -> None:
    root: Any = typer.main.get_command(app)
    for arguments in _commands():
        command = root
        for name in arguments:
            command = command.commands[name]
        options = {option: param.help for param in command.params for option in param.opts}
        if "--yes" in options:
            assert options["-y"] == options["--yes"] == "Don't ask for confirmation.", arguments
            assert "--json" in options, arguments


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_operator_at_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(typer.Exit):
        confirm("Delete it?", yes=False)
    monkeypatch.setattr("authsvc.cli.confirming.typer.confirm", lambda *_, **__: True)
    confirm("Delete it?", yes=False)


def test_shell_completes_commands_and_rpcs() -> None:
    def complete(words: str) -> list[str]:
        environment = {
            "_AUTHSVC_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        result = CliRunner().invoke(app, [], env=environment, prog_name="authsvc")
        return result.stdout.split()

    assert complete("authsvc rate") == ["ratelimit"]
    assert complete("authsvc call RateLimitService/C") == ["RateLimitService/CheckRateLimit"]


def test_settings_that_nobody_named_are_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHSVC_CONFIG", "AUTHSVC_SECRETS_DIR"):
        monkeypatch.delenv(name, raising=False)
    for arguments in (["serve"], ["users", "list"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "neither --config nor AUTHSVC_CONFIG is set" in result.stderr
        assert str(tmp_path / ".authsvc" / "config.toml") in result.stderr


def test_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.startswith("authsvc 0.")


@pytest.mark.slow
def test_config_check_accepts_valid_settings(command: Command) -> None:
    result = command("config", "check")
    assert (result.exit_code, result.output) == (0, "The settings are valid.\n")


def test_config_check_reports_each_error_on_one_line(
    command: Command, workspace: Workspace
) -> None:
    with workspace.config.open("a") as stream:
        stream.write('\n[grpc]\nadress = "x"\nmax_connections = "few"\n')
    result = command("config", "check")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: grpc.") for line in lines)


def test_config_show_masks_secrets(command: Command, workspace: Workspace) -> None:
    keyring = json.loads((workspace.secrets / "secrets__keyring").read_text())
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        result = command(*arguments)
        assert result.exit_code == 0
        assert "********" in result.output
        assert keyring[0]["key"] not in result.output
        assert "postgresql://" not in result.output
    assert json.loads(result.output)["sessions"]["max_per_user"] == 5


def test_config_schema_is_a_json_schema() -> None:
    result = CliRunner().invoke(app, ["config", "schema"])
    schema = json.loads(result.output)
    assert "GrpcSettings" in schema["$defs"]


@pytest.mark.slow
def test_migrate_sets_up_empty_database(
    command: Command, workspace: Workspace, blank_dsn: str
) -> None:
    workspace.set_database(blank_dsn)
    looked = json.loads(command("migrate", "--dry-run", "--json").output)
    assert [row["applied"] for row in looked] == [None] * len(looked)
    assert {row["state"] for row in looked} == {"pending"}
    applied = json.loads(command("migrate", "--json").output)
    assert {row["state"] for row in applied} == {"applied now"}
    again = json.loads(command("migrate", "--json").output)
    assert {row["state"] for row in again} == {"applied before"}


def test_migrate_waits_no_longer_than_it_was_told(command: Command, workspace: Workspace) -> None:
    workspace.set_database("postgresql://authsvc@localhost:1/authsvc")
    result = command("migrate", "--wait", "1ms")
    assert result.exit_code == 1
    assert "the connection was refused" in result.output
    assert command("migrate", "--wait", "soon").exit_code == 1


def test_commands_reject_empty_database_with_hint(
    command: Command, workspace: Workspace, blank_dsn: str
) -> None:
    workspace.set_database(blank_dsn)
    result = command("keys", "list")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "authsvc migrate" in line


def _keys(command: Command) -> dict[str, str]:
    rows = json.loads(command("keys", "list", "--json").output)
    return {row["key_id"]: row["state"] for row in rows}


def test_keys_list_says_what_is_left_in_the_hsm(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def orphans(_: SigningKeys) -> list[str]:
        return ["00ff"]

    async def none(_: SigningKeys) -> list[str]:
        raise StoreUnavailable("The HSM is away.")

    for found, said in ((orphans, "note: the HSM holds the key 00ff"), (none, "note: The HSM is")):
        monkeypatch.setattr(SigningKeys, "find_orphans", found)
        result = command("keys", "list", "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (0, [])
        assert result.stderr.startswith(said)


@pytest.mark.slow
def test_keys_can_be_listed_rotated_and_revoked(command: Command) -> None:
    assert _keys(command) == {}
    assert command("keys", "list").output == "Signing keys: none\n"
    first = command("keys", "rotate").output.split()[0]
    (second,) = _keys(command).keys() - {first}
    assert _keys(command) == {first: "active", second: "prepared"}
    # Not before verifiers have the next key.
    planned = json.loads(command("keys", "rotate", "--json").output)
    assert (planned["key_id"], planned["state"]) == (second, "prepared")
    listed = json.loads(command("keys", "list", "--json").output)
    (shown,) = [row for row in listed if row["key_id"] == second]
    assert (shown["signs_from"], shown["activated"]) == (planned["activate_time"], None)
    assert f"{second} will be the signing key from " in command("keys", "rotate").output
    assert _keys(command) == {first: "active", second: "prepared"}
    assert command("keys", "rotate", "--now").output == f"{second} is now the signing key.\n"
    (third,) = _keys(command).keys() - {first, second}
    assert _keys(command) == {first: "retired", second: "active", third: "prepared"}
    assert first in plain(command("keys", "list").output)
    unasked = command("keys", "revoke", second)
    assert (unasked.exit_code, unasked.output.count("\n")) == (1, 1)
    assert "--yes" in unasked.output
    assert _keys(command)[second] == "active"
    revoked = command("keys", "revoke", second, "--yes")
    assert f"{second} is revoked; {third} signs.\nThat key is new: verifiers" in revoked.output
    states = _keys(command)
    assert (states[second], states[third]) == ("revoked", "active")
    assert sorted(states.values()) == ["active", "prepared", "retired", "revoked"]
    again = json.loads(command("keys", "revoke", second, "--yes", "--json").output)
    assert (again["revoked_key_id"], again["active_key_id"]) == (second, third)
    assert again["refused_until"] is not None
    unknown = command("keys", "revoke", "unknown", "--yes")
    assert (unknown.exit_code, unknown.output) == (1, "error: No signing key has this id.\n")


@pytest.mark.slow
async def test_keys_rotate_is_audited(command: Command, database_dsn: str) -> None:
    # In a thread, as a command runs its own event loop.
    result = await asyncio.to_thread(command, "keys", "rotate")
    assert result.exit_code == 0
    connection = await asyncpg.connect(database_dsn)
    try:
        callers = await connection.fetch(
            "SELECT caller FROM audit_events WHERE type = 'key.rotate' AND caller LIKE 'cli:%'"
        )
    finally:
        await connection.close()
    assert len(callers) == 1


@pytest.mark.slow
def test_users_can_be_created_disabled_and_enabled(command: Command) -> None:
    created = command(
        "users", "create", "ada@example.com", "--password-stdin", input=f"{PASSWORD}\n"
    )
    assert created.exit_code == 0, created.output
    user_id = created.output.split()[0]
    assert command("users", "disable", "ada@example.com").exit_code == 0
    assert command("users", "enable", user_id).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("verified", [False, True])
def test_users_create_can_mark_address_verified(command: Command, verified: bool) -> None:
    words = ["--password-stdin", *(["--verified"] if verified else [])]
    result = command("users", "create", "ada@example.com", *words, input=f"{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    (line,) = command("users", "export").stdout.splitlines()
    assert json.loads(line)["email_verified"] is verified


def test_users_create_prompts_for_password(command: Command) -> None:
    result = command("users", "create", "ada@example.com", input=f"{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output


def test_password_that_nobody_can_be_asked_for_has_to_be_given_otherwise(command: Command) -> None:
    result = command("users", "create", "ada@example.com")
    assert result.exit_code == 1
    assert "add --password-stdin or --no-password" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        (["users", "create", "no-address", "--password-stdin"], PASSWORD, "email"),
        (["users", "create", "ada@example.com", "--password-stdin"], "short", "password"),
        (["users", "create", "ada@example.com", "--password-stdin"], "", "password"),
        (["users", "disable", "nobody@example.com"], "", "No user"),
        (["users", "disable", "00000000-0000-7000-8000-000000000000"], "", "No user"),
    ],
)
def test_failure_prints_one_line(
    command: Command, arguments: list[str], typed: str, said: str
) -> None:
    result = command(*arguments, input=f"{typed}\n")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.slow
def test_creating_same_user_twice_prints_one_line(command: Command) -> None:
    arguments = ["users", "create", "ada@example.com", "--password-stdin"]
    assert command(*arguments, input=f"{PASSWORD}\n").exit_code == 0
    result = command(*arguments, input=f"{PASSWORD}\n")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_unreachable_database_prints_one_line(command: Command, workspace: Workspace) -> None:
    workspace.set_database("postgresql://nobody:hidden@127.0.0.1:1/none")
    for arguments in (["keys", "list"], ["migrate"], ["users", "disable", "a@example.com"]):
        result = command(*arguments)
        assert result.exit_code == 1
        (line,) = result.output.splitlines()
        assert line.startswith("error: The database is not available: the connection was refused")
        assert "(127.0.0.1:1)" in line
        assert "hidden" not in line


def test_address_of_another_database_is_refused(command: Command, workspace: Workspace) -> None:
    workspace.set_database("mysql://nobody:hidden@127.0.0.1/none")
    result = command("config", "check")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "database.url" in line
    assert "postgresql://" in line
    assert "hidden" not in line


def test_parameters_that_are_left_out_are_told(command: Command, workspace: Workspace) -> None:
    workspace.set_database("postgresql://db.example.test/none?channel_binding=require")
    result = command("config", "check")
    assert result.exit_code == 0
    assert "note: database.url: channel_binding is left out" in result.output


def test_demo_without_certificates_explains_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "make run" in result.output


def test_health_of_unreachable_target_prints_one_line(command: Command) -> None:
    result = command("health", "--target", "127.0.0.1:1", "--timeout", "2")
    assert result.exit_code == 1
    assert result.output.startswith("error: 127.0.0.1:1 does not answer")


@pytest.mark.parametrize(("algorithm", "told"), [("HS256", True), ("ES256", False)])
def test_tokens_that_nobody_else_can_verify_are_told(
    algorithm: str, told: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_TOKENS__ALGORITHM", algorithm)
    result = command("config", "check")
    assert result.exit_code == 0
    assert ("note: tokens.algorithm: the key of HS256 is secret" in result.output) is told


@pytest.mark.parametrize(
    ("lead", "interval", "problem"),
    [
        ("1s", "30d", "expected a duration of at least 2s"),
        ("2h", "1h", "tokens: key_publish_lead must be at most key_rotation_interval"),
    ],
)
def test_lead_that_makes_no_sense_is_refused(
    lead: str, interval: str, problem: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTHSVC_TOKENS__KEY_PUBLISH_LEAD", lead)
    monkeypatch.setenv("AUTHSVC_TOKENS__KEY_ROTATION_INTERVAL", interval)
    result = command("config", "check")
    assert result.exit_code == 1
    assert problem in result.output
