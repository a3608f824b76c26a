"""`authsvc blocks`: addresses and networks are blocked, listed and unblocked."""

import pytest

from tests.cli.conftest import Command
from tests.cli.test_operating import rows

pytestmark = pytest.mark.slow


def test_networks_are_blocked_listed_and_unblocked(command: Command) -> None:
    assert command("blocks", "list").stdout == "Blocks: none\n"
    made = rows(command, "blocks", "add", "203.0.113.0/24", "--for", "30d", "--reason", "case 1")
    assert made["blocked_by"].startswith("cli:")
    assert (made["network"], made["reason"], made["automatic"]) == (
        "203.0.113.0/24",
        "case 1",
        False,
    )
    assert rows(command, "blocks", "add", "203.0.113.7")["until"] is None
    assert rows(command, "blocks", "add", "2001:db8::/32")["network"] == "2001:db8::/32"
    listed = [row["network"] for row in rows(command, "blocks", "list")]
    assert listed == ["203.0.113.0/24", "203.0.113.7/32", "2001:db8::/32"]
    first = command("blocks", "list", "--limit", "1")
    assert "--after 203.0.113.0/24" in first.stderr
    after = rows(command, "blocks", "list", "--after", "203.0.113.0/24")
    assert [row["network"] for row in after] == listed[1:]
    covering = rows(command, "blocks", "list", "--covering", "203.0.113.8")
    assert [row["network"] for row in covering] == listed[:1]

    removed = rows(command, "blocks", "remove", "203.0.113.7")
    assert removed["was_blocked"]
    assert [row["network"] for row in removed["remaining"]] == ["203.0.113.0/24"]
    again = command("blocks", "remove", "203.0.113.7")
    assert again.stdout.startswith("203.0.113.7/32 had no block.\nThese blocks contain it")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["add", "example.com"], "example.com: must be an address or a network"),
        (["add", "10.0.0.1/8"], "10.0.0.1/8: must be an address or a network"),
        (["add", "0.0.0.0/0"], "set --confirm-wide"),
        (["add", "192.0.2.1", "--for", "soon"], "--for: expected a duration"),
        (["add", "192.0.2.1", "--for", "0s"], "--for: must be from one second to 3660 days"),
        (["add", "192.0.2.1", "--reason", "a\nb"], "--reason: must be one line"),
        (["remove", "x"], "x: must be an address or a network"),
        (["list", "--covering", "x"], "x: must be an address or a network"),
    ],
)
def test_mistakes_are_one_line(command: Command, arguments: list[str], problem: str) -> None:
    result = command("blocks", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert problem in result.stderr


def test_wide_network_is_blocked_when_confirmed(command: Command) -> None:
    made = rows(command, "blocks", "add", "0.0.0.0/0", "--confirm-wide")
    assert made["network"] == "0.0.0.0/0"
