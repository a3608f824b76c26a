"""The plan of what will be removed, in the shell."""

import json

from authsvc.dev.workspace import Workspace
from tests.cli.conftest import Command


def test_plan_lists_every_kind(command: Command, workspace: Workspace) -> None:
    result = command("retention", "plan", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["kind"]: row for row in json.loads(result.stdout)}
    nothing = {"due": 0, "oldest": None, "next": None}
    assert rows["sessions"] == {"kind": "sessions", "kept_for": "30d"} | nothing
    assert rows["one_time_codes"]["kept_for"] == "0s"
    assert {rows[kind]["kept_for"] for kind in ("session_addresses", "event_addresses")} == {
        "for ever"
    }
    with workspace.config.open("a") as stream:
        stream.write('\n[retention]\naddresses = "7d"\nunverified_accounts = "60d"\n')
    rows = {row["kind"]: row for row in json.loads(command("retention", "plan", "--json").stdout)}
    assert rows["event_addresses"]["kept_for"] == "7d"
    assert rows["unverified_accounts"]["kept_for"] == "60d"
    assert "kept for" in command("retention", "plan").stdout


def test_plan_removes_nothing(command: Command) -> None:
    result = command(
        "users", "create", "a@example.test", "--password-stdin", input="Correct-Horse-42-Staple\n"
    )
    assert result.exit_code == 0, result.output
    [row] = [
        row
        for row in json.loads(command("retention", "plan", "--json").stdout)
        if row["kind"] == "audit_events"
    ]
    assert (row["due"], row["next"] > row["oldest"]) == (0, True)
