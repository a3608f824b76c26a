"""The commands with which operators find, create, change and erase users."""

import json
import re
from typing import Any

import pytest

from authsvc.models.users import UserStatus
from tests.cli.conftest import Command

pytestmark = pytest.mark.slow

PASSWORD = "Correct-Horse-42-Staple"
ADA, GRACE = "ada@example.com", "grace@example.com"


def shown(command: Command, *arguments: str, **options: Any) -> Any:
    """Return what a command prints as JSON."""
    result = command("users", *arguments, "--json", **options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(command: Command, *arguments: str, **options: Any) -> str:
    """Return the one line with which a command is refused."""
    result = command("users", *arguments, **options)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    return str(result.stderr)


def create(command: Command, email: str, *more: str) -> Any:
    return shown(command, "create", email, "--no-password", *more)


def test_user_is_changed_by_commands(command: Command) -> None:
    user = create(command, ADA, "--name", "Ada", "--verified")
    assert (user["email"], user["verified"], user["has_password"]) == (ADA, True, False)
    user = shown(command, "update", ADA, "--name", "Countess", "--email", GRACE)
    assert (user["display_name"], user["email"], user["verified"]) == ("Countess", GRACE, False)
    assert shown(command, "update", GRACE, "--verified")["verified"]
    assert shown(command, "set-roles", GRACE, "--none")["roles"] == []
    assert shown(command, "set-roles", GRACE, "user", "user")["roles"] == ["user"]
    assert shown(command, "disable", GRACE)["status"] == UserStatus.DISABLED
    assert shown(command, "enable", GRACE)["status"] == UserStatus.ACTIVE
    assert shown(command, "unlock", GRACE)["failed_logins"] == 0
    assert shown(command, "require-password-change", GRACE)["password_change_required"]
    assert shown(command, "get", user["user_id"]) == shown(command, "get", GRACE)
    for words in (["disable"], ["enable"], ["unlock"], ["require-password-change"]):
        assert GRACE in command("users", *words, GRACE).stdout
    for nobody in ("nobody@example.com", "00000000-0000-7000-8000-000000000000"):
        assert "No user" in refused(command, "unlock", nobody)
    refused(command, "update", GRACE)
    refused(command, "set-roles", GRACE)
    refused(command, "set-roles", GRACE, "user", "--none")


def test_unknown_role_is_refused_before_the_password_is_asked_for(command: Command) -> None:
    result = command("users", "create", ADA, "--role", "emperor")
    assert (result.exit_code, result.stdout) == (1, "")
    assert '"emperor"' in result.stderr
    assert re.search(r'those defined are: .*"user"', result.stderr)
    create(command, ADA)
    assert '"user"' in refused(command, "set-roles", ADA, "emperor")


def test_reset_is_sent_or_its_code_shown(command: Command) -> None:
    create(command, ADA)
    sent = shown(command, "reset-password", ADA)
    assert sent["sent_to"] == ADA
    assert "code" not in sent
    assert re.fullmatch(
        r"\w{4}-\w{4}-\w{4}", shown(command, "reset-password", ADA, "--show-code")["code"]
    )
    command("users", "disable", ADA)
    assert "disabled" in refused(command, "reset-password", ADA)


def test_erasure_has_to_be_confirmed(command: Command) -> None:
    create(command, ADA)
    assert "--yes" in refused(command, "delete", ADA)
    assert shown(command, "list")
    assert shown(command, "delete", ADA, "--yes")["deleted"]
    assert shown(command, "list") == []
    assert "No user" in refused(command, "delete", ADA, "--yes")


def test_list_is_filtered_and_continued(command: Command) -> None:
    for number in range(5):
        create(command, f"u{number}@example.com", *(["--verified"] if number % 2 else []))
    command("users", "disable", "u1@example.com")

    def emails(*arguments: str) -> list[str]:
        return [user["email"] for user in shown(command, "list", *arguments)]

    assert emails("--email", "U3") == ["u3@example.com"]
    assert emails("--verified") == ["u1@example.com", "u3@example.com"]
    assert emails("--unverified", "--status", "disabled") == []
    assert emails("--status", "disabled", "--verified") == ["u1@example.com"]
    assert emails("--role", "admin") == []
    assert emails("--created-until", "2020-01-01") == []
    assert len(emails("--created-from", "2020-01-01T00:00:00Z")) == 5
    first = command("users", "list", "--role", "user", "--limit", "3")
    more = first.stderr.removeprefix("There are more: add --after ").strip()
    assert len(emails("--role", "user", "--after", more)) == 2
    assert "page_token" in refused(command, "list", "--role", "admin", "--after", more)


def test_interrupted_export_is_continued(command: Command) -> None:
    for number in range(3):
        create(command, f"u{number}@example.com")
    lines = command("users", "export").stdout.splitlines()
    last = json.loads(lines[0])["user_id"]
    assert command("users", "export", "--after", last).stdout.splitlines() == lines[1:]
    assert command("users", "export", "--after", "x").exit_code == 2
