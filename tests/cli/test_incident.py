"""The commands of an incident: each step, its dry run, and what is recorded of it."""

import asyncio
import getpass
import hashlib
import json
import stat
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from authsvc.app.build import open_parts
from authsvc.cli.output import settings_of
from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.dev.workspace import Workspace
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from tests.cli.conftest import Command
from tests.cli.test_operating import open_sessions

PASSWORD = "Correct-Horse-42-Staple"
REASON = ("--reason", "drill")
STEPS = (
    ("freeze", "--method", "password"),
    ("unfreeze", "--everything"),
    ("end-sessions", "--everything"),
    ("require-password-change", "--everything"),
    ("rotate-key",),
    ("revoke-key", "active"),
)


def log_in(workspace: Workspace, user_id: str, ip: str) -> None:
    """Let a login of a user be recorded."""

    async def work() -> None:
        async with open_parts(settings_of(workspace.config, workspace.secrets)) as parts:
            event = AuditEvent(
                AuditType.LOGIN,
                Call("request-1", "app"),
                UserId(UUID(user_id)),
                client=ClientContext(ip),
            )
            async with parts.database.transaction() as connection:
                await record_event(connection, parts.clock.now(), event)

    asyncio.run(work())


def run(command: Command, *arguments: str) -> Any:
    """Return what a command of the group prints as JSON."""
    result = command("incident", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(command: Command, *arguments: str) -> str:
    """Return why a command of the group does nothing."""
    result = command("incident", *arguments)
    assert result.exit_code == 1, result.output
    return result.stderr.strip()


def events(command: Command) -> list[dict[str, Any]]:
    return list(run(command, "status")["events"])


@pytest.fixture
def ready(command: Command) -> Command:
    """A database with a signing key and a user."""
    rotated = command("keys", "rotate")
    assert rotated.exit_code == 0, rotated.output
    created = command("users", "create", "ada@example.test", "--password-stdin", input=PASSWORD)
    assert created.exit_code == 0, created.output
    return command


def test_freeze_is_shown_extended_and_lifted(ready: Command) -> None:
    network = ("--network", "198.51.100.0/24")
    plan = run(ready, "freeze", "--method", "password", *network, *REASON, "--dry-run")
    assert (plan["logins_in_the_last_hour"], plan["for"]) == (0, 3600.0)
    assert run(ready, "status") == {"freezes": [], "events": []}

    made = run(ready, "freeze", "--method", "password", *network, *REASON, "--yes")
    again = run(ready, "freeze", "--method", "password", *network, "--for", "2h", *REASON, "--yes")
    assert made["freeze_id"] == again["freeze_id"]
    assert made["until"] < again["until"]
    everything = run(ready, "freeze", "--everything", *REASON, "--yes")
    [first, second] = run(ready, "status")["freezes"]
    assert (first["methods"], first["network"]) == (["password"], "198.51.100.0/24")
    assert (second["methods"], second["network"]) == (["everything"], None)
    assert first["by"] == f"cli:{getpass.getuser()}"

    assert len(run(ready, "unfreeze", "--everything", *REASON, "--dry-run")) == 2
    [lifted] = run(ready, "unfreeze", everything["freeze_id"], *REASON, "--yes")
    assert lifted["freeze_id"] == everything["freeze_id"]
    assert len(run(ready, "unfreeze", "--everything", *REASON, "--yes")) == 1
    status = run(ready, "status")
    assert status["freezes"] == []
    assert [event["event"] for event in status["events"]] == [
        *["incident.freeze"] * 3,
        *["incident.unfreeze"] * 2,
    ]
    assert {event["by"] for event in status["events"]} == {f"cli:{getpass.getuser()}"}
    assert {event["detail"]["reason"] for event in status["events"]} == {"drill"}


def test_sessions_are_ended_by_selection(ready: Command, workspace: Workspace) -> None:
    [ada] = json.loads(ready("users", "list", "--json").stdout)
    open_sessions(workspace, ada["user_id"], 3)
    elsewhere = ("end-sessions", "--network", "198.51.100.0/24", *REASON)
    here = ("end-sessions", "--network", "192.0.2.0/24", "--since", "1h", *REASON)
    assert run(ready, *elsewhere, "--dry-run")["session_count"] == 0
    assert run(ready, *here, "--dry-run")["session_count"] == 3
    assert run(ready, *elsewhere, "--yes")["session_count"] == 0
    assert len(json.loads(ready("sessions", "list", ada["user_id"], "--json").stdout)) == 3
    assert run(ready, *here, "--user", "ada@example.test", "--yes")["session_count"] == 3
    assert json.loads(ready("sessions", "list", ada["user_id"], "--json").stdout) == []
    assert [event["detail"]["count"] for event in events(ready)] == [0, 3]


def test_passwords_are_to_be_changed_by_selection(
    ready: Command, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.incidents.steps._BATCH", 1)
    created = ready("users", "create", "grace@example.test", "--password-stdin", input=PASSWORD)
    assert created.exit_code == 0, created.output
    by_id = {
        row["email"]: row["user_id"] for row in json.loads(ready("users", "list", "--json").stdout)
    }
    ada = by_id["ada@example.test"]
    open_sessions(workspace, ada, 2)
    log_in(workspace, ada, "198.51.100.7")
    step = ("require-password-change", *REASON)
    assert run(ready, *step, "--everything", "--dry-run")["user_count"] == 2
    assert run(ready, *step, "--network", "203.0.113.0/24", "--dry-run")["user_count"] == 0
    assert run(ready, *step, "--until", "1h", "--dry-run")["user_count"] == 0
    here = (*step, "--network", "198.51.100.0/24", "--since", "1h")
    assert run(ready, *here, "--dry-run")["user_count"] == 1
    assert run(ready, *here, "--yes")["user_count"] == 1
    assert json.loads(ready("sessions", "list", ada, "--json").stdout) == []
    # Who has to change the password already is left out.
    assert run(ready, *here, "--yes")["user_count"] == 0
    assert run(ready, *step, "--user", "ada@example.test", "--yes")["user_count"] == 0
    assert run(ready, *step, "--everything", "--yes")["user_count"] == 1
    counts = [
        event["detail"]["count"]
        for event in events(ready)
        if event["event"] == "incident.require_password_change"
    ]
    assert counts == [1, 0, 0, 1]


def test_keys_are_rotated_and_revoked(ready: Command) -> None:
    keys = json.loads(ready("keys", "list", "--json").stdout)
    [old] = [key for key in keys if key["state"] == "active"]
    assert run(ready, "rotate-key", *REASON, "--dry-run")["key_id"] == old["key_id"]
    planned = run(ready, "rotate-key", *REASON, "--yes")
    made = run(ready, "rotate-key", *REASON, "--now", "--yes")
    new = made["key_id"]
    assert (planned["key_id"], planned["state"], made["state"]) == (new, "prepared", "active")
    assert run(ready, "revoke-key", "active", *REASON, "--dry-run")["key_id"] == new
    assert run(ready, "revoke-key", old["key_id"], *REASON, "--yes")["state"] == "revoked"
    states = {
        row["key_id"]: row["state"] for row in json.loads(ready("keys", "list", "--json").stdout)
    }
    assert (states.pop(old["key_id"]), states.pop(new)) == ("revoked", "active")
    [prepared] = states
    assert states[prepared] == "prepared"
    dry = run(ready, "revoke-key", "prepared", *REASON, "--dry-run")
    assert (dry["key_id"], dry["signs_since"]) == (prepared, None)
    assert f"{old['key_id']} is already revoked" in refused(
        ready, "revoke-key", old["key_id"], *REASON, "--yes"
    )
    assert [event["event"] for event in events(ready)] == [
        *["incident.rotate_key"] * 2,
        "incident.revoke_key",
    ]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[0])
def test_step_without_a_terminal_or_a_reason_does_nothing(
    step: tuple[str, ...], ready: Command
) -> None:
    if step[0] == "unfreeze":
        run(ready, "freeze", "--everything", *REASON, "--yes")
    before = events(ready)
    assert "add --yes" in refused(ready, *step, *REASON)
    assert "--reason" in refused(ready, *step, "--reason", " ", "--yes")
    assert "--reason" in refused(ready, *step, "--reason", "a\nb", "--yes")
    assert "--reason" in refused(ready, *step, "--reason", "x" * 201, "--yes")
    assert ready("incident", *step, "--yes").exit_code == 2
    assert events(ready) == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("freeze",), "name what to freeze"),
        (("freeze", "--everything", "--method", "code"), "name what to freeze"),
        (("freeze", "--network", "198.51.100.1/24"), "--network: "),
        (("end-sessions",), "say which sessions"),
        (("end-sessions", "--everything", "--method", "pwd"), "say which sessions"),
        (("end-sessions", "--since", "soon"), "--since: "),
        (("require-password-change",), "select users"),
        (("require-password-change", "--everything", "--since", "1h"), "select users"),
        (("require-password-change", "--user", "nobody@example.test"), "No user has"),
        (("end-sessions", "--user", "nobody@example.test"), "No user has"),
        (("freeze", "--network", "nowhere"), "--network: "),
        (("freeze", "--method", "code", "--for", "soon"), "--for: "),
        (("freeze", "--method", "code", "--for", "31d"), "--for: "),
        (("freeze", "--method", "code", "--for", "0s"), "--for: "),
        (("unfreeze",), "name the freezes"),
        (("unfreeze", "00000000-0000-7000-8000-000000000000"), "no freeze in force"),
        (("revoke-key", "nothing"), "no key has the id nothing"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    arguments: tuple[str, ...], problem: str, ready: Command
) -> None:
    message = refused(ready, *arguments, *REASON, "--yes")
    assert message.startswith(f"error: {problem}")
    assert "\n" not in message


def test_evidence_is_complete_private_and_verifiable(ready: Command, tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    run(ready, "freeze", "--method", "code", *REASON, "--yes")
    assert ready("blocks", "add", "203.0.113.0/24").exit_code == 0
    plan = run(ready, "export", str(folder), "--since", "1h", *REASON, "--dry-run")
    assert not folder.exists()
    made = run(ready, "export", str(folder), "--since", "1h", *REASON)
    assert made["rows"] == plan["rows"]
    assert (made["rows"]["ip_blocks"], made["rows"]["login_freezes"]) == (1, 1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path.name: path for path in folder.iterdir()}
    assert set(files) == {
        *("events.jsonl", "sessions.jsonl", "signing_keys.jsonl", "login_freezes.jsonl"),
        "ip_blocks.jsonl",
        *("settings.toml", "manifest.json", "SHA256SUMS"),
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, check=True)
    assert made["checksum"] == hashlib.sha256(files["SHA256SUMS"].read_bytes()).hexdigest()
    lines = [json.loads(line) for line in files["events.jsonl"].read_text().splitlines()]
    assert len(lines) == made["rows"]["events"]
    assert {"user.create", "key.rotate", "incident.freeze"} <= {line["type"] for line in lines}
    [last] = [event for event in events(ready) if event["event"] == "incident.export"]
    assert last["detail"]["checksum"] == made["checksum"]

    everything = "".join(path.read_text() for path in files.values())
    secrets = [path.read_text().strip() for path in Path(".authsvc/secrets").iterdir()]
    assert secrets
    assert [secret for secret in secrets if secret in everything] == []
    assert "sealed_key" not in everything

    assert "nothing is overwritten" in refused(
        ready, "export", str(folder), "--since", "1h", *REASON
    )
    assert "can't be created" in refused(
        ready, "export", str(tmp_path / "none" / "x"), "--since", "1h", *REASON
    )


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        (("--since", "yesterday"), "--since: expected a time"),
        (("--since", "1h", "--until", "2h"), "--since is not before --until"),
        (("--since", "1h", "--until", "2026-13-01"), "--until: expected a time"),
    ],
)
def test_invalid_span_is_refused(
    span: tuple[str, ...], problem: str, ready: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    assert refused(ready, "export", str(folder), *span, *REASON).startswith(f"error: {problem}")
    assert not folder.exists()


def test_evidence_is_read_page_by_page(
    ready: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.incidents.evidence._BATCH", 2)
    for _ in range(3):
        run(ready, "rotate-key", *REASON, "--now", "--yes")
    folder = tmp_path / "evidence"
    rows = run(ready, "export", str(folder), "--since", "1h", *REASON)["rows"]
    lines = (folder / "events.jsonl").read_text().splitlines()
    ids = [json.loads(line)["event_id"] for line in lines]
    assert rows["events"] == len(ids) == len(set(ids)) >= 8
    assert ids == sorted(ids)


def test_status_is_readable_without_json(ready: Command) -> None:
    assert ready("incident", "freeze", "--everything", *REASON, "--yes").exit_code == 0
    shown = ready("incident", "status").stdout
    assert "everything" in shown
    assert "incident.freeze" in shown
    assert (
        "Would freeze" in ready("incident", "freeze", "--everything", *REASON, "--dry-run").stdout
    )


def test_list_that_is_cut_off_says_so(ready: Command) -> None:
    for _ in range(2):
        run(ready, "freeze", "--everything", *REASON, "--yes")
    cut_off = ready("incident", "status", "--limit", "1")
    assert "There are earlier ones: raise --limit" in cut_off.stderr
    assert (
        len(json.loads(ready("incident", "status", "--limit", "1", "--json").stdout)["events"]) == 1
    )
    assert ready("incident", "status", "--limit", "2").stderr == ""


def test_export_that_could_not_begin_leaves_no_folder(
    workspace: Workspace, ready: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    workspace.set_database("postgresql://nobody:hidden@127.0.0.1:1/none")
    refused(ready, "export", str(folder), "--since", "1h", *REASON)
    assert not folder.exists()
