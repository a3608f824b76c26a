"""The commands that define policies, overrides and roles."""

import json

import pytest

from tests.cli.conftest import Command
from tests.cli.test_operating import rows


def fails(command: Command, *arguments: str, **more: str) -> str:
    """Run a command that has to fail; return what it says."""
    result = command(*arguments, **more)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    return str(result.stderr)


@pytest.mark.slow
def test_policies_are_put_listed_and_deleted(command: Command) -> None:
    put = rows(command, "policies", "put", "own", "--requests", "2", "--window", "1h30m")
    assert (put["window"], put["defined_in"]) == (5_400, "run_time")
    listed = {row["policy"]: row for row in rows(command, "policies", "list")}
    assert listed["own"] == put
    assert listed["login"]["defined_in"] == "settings"
    assert rows(command, "ratelimit", "check", "own", "k", "--cost", "2")["remaining"] == 0
    assert rows(command, "policies", "put", "none", "--requests", "0")["requests"] == 0
    assert command("ratelimit", "check", "none", "k").exit_code == 3
    assert "settings" in fails(command, "policies", "put", "login", "--unlimited")
    assert "reserved" in fails(command, "policies", "put", "authsvc.x", "--unlimited")
    assert "--window" in fails(command, "policies", "put", "own", "--requests", "1")
    assert "duration" in fails(
        command, "policies", "put", "own", "--requests", "1", "--window", "x"
    )
    assert "give --requests" in fails(command, "policies", "put", "own", "--burst", "9")
    assert "add --yes" in fails(command, "policies", "delete", "own", input="y\n")
    deleted = rows(command, "policies", "delete", "own", "--yes")
    assert deleted == {"policy": "own", "deleted": True}
    assert "no-such" not in fails(command, "policies", "delete", "own", "--yes")


@pytest.mark.slow
def test_overrides_are_put_listed_and_removed(command: Command) -> None:
    override = rows(command, "policies", "override", "login", "k", "--deny", "--for", "2h")
    assert (override["effect"], override["requests"]) == ("deny", None)
    assert command("ratelimit", "check", "login", "k").exit_code == 3
    for key in ("l", "m"):
        arguments = ("--requests", "9", "--note", "why")
        assert rows(command, "policies", "override", "login", key, *arguments)["requests"] == 9
    assert [row["key"] for row in rows(command, "policies", "overrides")] == ["k", "l", "m"]
    page = command("policies", "overrides", "login", "--limit", "2", "--json")
    assert [row["key"] for row in json.loads(page.stdout)] == ["k", "l"]
    assert "--after l" in page.stderr
    removed = rows(command, "policies", "remove-override", "login", "k")
    assert removed == {"policy": "login", "key": "k", "deleted": True}
    assert command("ratelimit", "check", "login", "k").exit_code == 0
    fails(command, "policies", "remove-override", "login", "k")
    fails(command, "policies", "override", "login", "k")
    fails(command, "policies", "override", "login", "k", "--allow", "--deny")
    fails(command, "policies", "override", "login", "k", "--allow", "--burst", "2")
    fails(command, "policies", "override", "nope", "k", "--allow")


@pytest.mark.slow
def test_roles_are_put_listed_and_deleted(command: Command) -> None:
    put = rows(command, "roles", "put", "editor", "--permission", "publish", "--idle", "10m")
    assert put["permissions"] == ["publish"]
    listed = {row["role"]: row for row in rows(command, "roles", "list")}
    assert listed["editor"] == put
    assert (put["idle"], listed["user"]["defined_in"]) == (600, "settings")
    assert "settings" in fails(command, "roles", "put", "user")
    assert "--idle" in fails(command, "roles", "put", "editor", "--idle", "10ms")
    assert "NAME" in fails(command, "roles", "put", "Editor")
    assert "add --yes" in fails(command, "roles", "delete", "editor", input="y\n")
    assert rows(command, "roles", "delete", "editor", "--yes") == {"user_count": 0}
    fails(command, "roles", "delete", "editor", "--yes")
