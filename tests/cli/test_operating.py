"""The commands for operators: users, sessions, rate limits and the audit log."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from authsvc.app.build import open_parts
from authsvc.cli.output import emit, settings_of
from authsvc.dev.workspace import Workspace
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import UserId
from tests.cli.conftest import Command
from tests.support.processes import Process

PASSWORD = "Correct-Horse-42-Staple"
CALL = Call("request-1", "spiffe://authsvc.test/issuer")
NOBODY = "00000000-0000-7000-8000-000000000000"


def create(command: Command, *emails: str) -> list[str]:
    """Create users; return their ids in the order of `users list`."""
    ids = []
    for email in emails:
        result = command("users", "create", email, "--password-stdin", input=f"{PASSWORD}\r\n")
        assert result.exit_code == 0, result.output
        ids.append(result.stdout.split()[0])
    return sorted(ids)


def rows(command: Command, *arguments: str) -> Any:
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def open_sessions(workspace: Workspace, user_id: str, count: int) -> list[str]:
    """Open sessions of a user; return their ids, newest first."""

    async def work() -> list[str]:
        async with open_parts(settings_of(workspace.config, workspace.secrets)) as parts:
            await parts.use.signing_keys.rotate(CALL)
            opened = [
                await parts.use.session_opening.create(
                    CALL, UserId(UUID(user_id)), ClientContext("192.0.2.1", "Browser\x1b[2J"), ()
                )
                for _ in range(count)
            ]
            return [str(tokens.session_id) for tokens in reversed(opened)]

    return asyncio.run(work())


def test_lists_are_empty_before_there_is_anything(command: Command) -> None:
    assert rows(command, "users", "list") == []
    assert command("users", "list").output == "Users: none\n"
    assert command("audit", "tail").output == ""
    create(command, "ada@example.com")
    assert command("sessions", "list", "ada@example.com").output == "Sessions: none\n"


@pytest.mark.slow
def test_users_are_listed_by_page_and_shown(command: Command) -> None:
    ids = create(command, "ada@example.com", "bob@example.com", "eve@example.com")
    first = command("users", "list", "--limit", "2", "--json")
    assert [row["user_id"] for row in json.loads(first.stdout)] == ids[:2]
    more = first.stderr.removeprefix("There are more: add --after ").strip()
    second = command("users", "list", "--limit", "2", "--after", more, "--json")
    assert [row["user_id"] for row in json.loads(second.stdout)] == ids[2:]
    assert second.stderr == ""
    assert command("users", "disable", "ada@example.com").exit_code == 0
    shown = rows(command, "users", "get", "ADA@example.com")
    assert shown["status"] == "disabled"
    assert shown == rows(command, "users", "get", shown["user_id"])
    assert "disabled" in command("users", "get", "ada@example.com").stdout
    for account in ("nobody@example.com", NOBODY):
        for words in (["users", "get"], ["sessions", "list"], ["sessions", "revoke", "--user"]):
            result = command(*words, account)
            assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.slow
def test_sessions_are_listed_by_page_and_revoked(command: Command, workspace: Workspace) -> None:
    (user_id,) = create(command, "ada@example.com")
    ids = open_sessions(workspace, user_id, 3)
    first = command("sessions", "list", "ada@example.com", "--limit", "2")
    assert ids[0] in first.stdout
    assert ids[1] in first.stdout
    assert ids[2] not in first.stdout
    assert "\x1b" not in first.stdout
    assert f"--after {ids[1]}" in first.stderr
    second = rows(command, "sessions", "list", user_id, "--after", ids[1])
    assert [row["session_id"] for row in second] == ids[2:]

    assert command("sessions", "revoke", ids[0]).output == f"{ids[0]} is revoked.\n"
    assert command("sessions", "revoke", ids[0]).exit_code == 0
    assert rows(command, "sessions", "revoke", "--user", user_id) == {"revoked_count": 2}
    assert rows(command, "sessions", "list", user_id) == []
    for mistake in ([], [ids[0], "--user", user_id], [NOBODY]):
        result = command("sessions", "revoke", *mistake)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.slow
def test_sessions_of_many_users_are_revoked_after_a_question(
    command: Command, workspace: Workspace
) -> None:
    ada, bob = create(command, "ada@example.com", "bob@example.com")
    open_sessions(workspace, ada, 2)
    (kept,) = open_sessions(workspace, bob, 1)
    of_ada = ["sessions", "revoke-all", "--user", ada, "--network", "192.0.2.0/24"]
    assert command(*of_ada, "--dry-run").stdout == "2 sessions would be revoked.\n"
    for options in ([], ["--json"]):
        unasked = command(*of_ada, *options)
        assert (unasked.exit_code, unasked.stdout, unasked.stderr.count("\n")) == (1, "", 1)
        assert "--yes" in unasked.stderr
    assert rows(command, *of_ada, "--dry-run") == {"revoked_count": 2, "dry_run": True}
    assert rows(command, *of_ada, "--yes") == {"revoked_count": 2, "dry_run": False}
    assert rows(command, "sessions", "list", ada) == []
    everything = ["sessions", "revoke-all", "--all"]
    for none in (["--older-than", "1h"], ["--method", "otp"], ["--impersonated"]):
        assert rows(command, *everything[:2], *none, "--yes")["revoked_count"] == 0
    assert [row["session_id"] for row in rows(command, "sessions", "list", bob)] == [kept]
    assert command(*everything, "--yes").stdout == "1 session revoked.\n"
    for mistake in (
        *([], ["--all", "--method", "pwd"], ["--all", "--user", ada], ["--user", NOBODY]),
        *(["--older-than", "x"], ["--older-than", "1h", "--created-before", "2026-01-01"]),
        *(["--created-before", "x"], ["--created-after", ""], ["--network", "192.0.2.1/24"]),
    ):
        result = command("sessions", "revoke-all", *mistake, "--yes")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), mistake


@pytest.mark.slow
def test_rate_limits_are_shown_charged_and_reset(command: Command) -> None:
    policies = {row["policy"]: row for row in rows(command, "ratelimit", "show")}
    assert set(policies) == {"api", "login", "upload"}
    assert rows(command, "ratelimit", "show", "api") == [policies["api"]]
    assert policies["api"]["window"] == 3_600
    fresh = rows(command, "ratelimit", "show", "api", "k")
    assert (fresh["limit"], fresh["remaining"], fresh["bound"]) == (100, 100, "burst")
    taken = rows(command, "ratelimit", "check", "login", "k", "--cost", "5")
    assert (taken["limit"], taken["remaining"], taken["bound"]) == (5, 0, "requests")
    for more in (["--dry-run"], []):
        rejected = command("ratelimit", "check", "login", "k", "--json", *more)
        assert rejected.exit_code == 3
        assert json.loads(rejected.stdout)["retry_after"] > 0
    assert command("ratelimit", "reset", "login", "k").exit_code == 0
    assert command("ratelimit", "check", "login", "k", "--dry-run").exit_code == 0
    assert rows(command, "ratelimit", "show", "login", "k")["remaining"] == 5
    for words in (["show", "nope"], ["show", "nope", "k"], ["check", "nope", "k"]):
        result = command("ratelimit", *words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the policies are api, login, upload" in result.stderr
    assert "key" in command("ratelimit", "check", "login", "x" * 513).stderr


def test_audit_log_is_shown_by_page(command: Command) -> None:
    create(command, "ada@example.com", "bob@example.com", "eve@example.com")

    def events(*arguments: str) -> list[dict[str, Any]]:
        result = command("audit", "tail", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    everything = events()
    assert [event["type"] for event in everything] == ["user.create"] * 3
    assert events("-n", "2") == everything[1:]
    assert events("--before", everything[1]["event_id"]) == everything[:1]
    (line,) = command("audit", "tail", "-n", "1").stdout.splitlines()
    assert " user.create " in line
    assert f"user_id={everything[2]['user_id']}" in line
    assert command("audit", "tail", "-f", "--before", NOBODY).exit_code == 1


def test_audit_log_is_listed_by_filter_and_page(command: Command) -> None:
    ids = create(command, "ada@example.com", "bob@example.com")
    assert command("users", "disable", ids[0]).exit_code == 0

    def events(*arguments: str) -> list[str]:
        result = command("audit", "list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line)["type"] for line in result.stdout.splitlines()]

    assert events() == ["user.disable", "user.create", "user.create"]
    assert events("--user", ids[0]) == ["user.disable", "user.create"]
    assert events("--type", "user.create", "--type", "user.enable") == ["user.create"] * 2
    assert events("--end", "2026-01-01") == events("--start", "2999-01-01T00:00Z") == []
    assert events("--network", "192.0.2.0/24") == events("--caller", "nobody") == []
    first = command("audit", "list", "-n", "2")
    token = first.stderr.split()[-1]
    assert events("--page-token", token) == ["user.create"]
    for words in (
        ("--type", "user.typo"),
        ("--network", "192.0.2.1/24"),
        ("--start", "yesterday"),
        ("--page-token", token, "--user", ids[0]),
    ):
        result = command("audit", "list", *words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")


@pytest.mark.slow
def test_audit_log_is_watched_and_continued(
    command: Command, workspace: Workspace, start: Callable[..., Process]
) -> None:
    files = ["-c", str(workspace.config), "--secrets", str(workspace.secrets)]

    def watch(*more: str) -> Process:
        watcher = start("audit", "watch", "--type", "user.create", *more, *files)
        watcher.wait_for("watching")
        return watcher

    watcher = watch()
    (ada,) = create(command, "ada@example.com")
    watcher.wait_for(f"user.create user_id={ada}")
    watcher.send(signal.SIGINT)
    assert watcher.end() == 0
    cursor = watcher.output.split()[-1]
    (bob,) = create(command, "bob@example.com")
    watcher = watch("--cursor", cursor)
    watcher.wait_for(f"user.create user_id={bob}")
    watcher.send(signal.SIGINT)
    assert watcher.end() == 0
    assert ada not in watcher.output


@pytest.mark.slow
def test_audit_log_is_followed_until_ctrl_c(
    command: Command, workspace: Workspace, start: Callable[..., Process]
) -> None:
    (ada,) = create(command, "ada@example.com")
    files = ["-c", str(workspace.config), "--secrets", str(workspace.secrets)]
    follower = start("audit", "tail", "-f", "-n", "1", *files)
    follower.wait_for(f"user.create user_id={ada}")
    (bob,) = create(command, "bob@example.com")
    follower.wait_for(f"user.create user_id={bob}")
    follower.send(signal.SIGINT)
    assert follower.end() == 0
    assert len(follower.output.splitlines()) == 2, follower.output


@pytest.mark.parametrize("columns", [40, 300])
def test_ids_stay_whole_on_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader can copy every value, although the table is wider than the terminal."""
    row = {"user_id": NOBODY, "email": "somebody.with.a.long.address@department.example.com"}
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = on_terminal(lambda: emit([row, row], as_json=False, title="Users"), monkeypatch)
    for value in row.values():
        assert shown.count(value) == 2, shown
    assert ("│" in shown) == (columns == 300)


def on_terminal(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is printed while standard output is a terminal."""
    reader, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        work()
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(reader, "rb", buffering=0) as screen:
        # Reading fails once everything was read, as nobody has the terminal open any more.
        while part := screen.read(65_536):
            shown += part
    return shown.decode()


@pytest.mark.slow
def test_cursor_that_was_refused_is_not_one_to_continue_with(command: Command) -> None:
    result = command("audit", "watch", "--cursor", "rubbish")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: cursor: Not a cursor of this stream.\n"
