"""The README tells the truth: its API is that of the access table, and its commands exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from authsvc.cli.main import app
from authsvc.models.calls import Role
from authsvc.rpc.access import ACCESS

README = (Path(__file__).parents[1] / "README.md").read_text()


def table(heading: str) -> Iterator[list[str]]:
    """Yield the rows of the table below a header row that starts with these cells."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(heading):
            break
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_the_api_is_complete_and_true() -> None:
    written: dict[str, frozenset[Role]] = {}
    service = ""
    for first, names, _, roles in table("| service | RPC |"):
        service = first or service
        granted = frozenset(Role if roles == "all" else map(Role, roles.split(", ")))
        written |= {f"/authsvc.v1.{service}/{name}": granted for name in names.split(", ")}
    served = {
        method: access.roles for method, access in ACCESS.items() if method.startswith("/authsvc.")
    }
    assert written == served


def commands(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_the_table_of_commands_is_complete_and_true() -> None:
    written = set()
    for cell, _ in table("| command | does |"):
        first, *more = re.findall(r"`([^`]+)`", cell)
        stem, _, _ = first.rpartition(" ")
        written |= {first, *(f"{stem} {name}" for name in more)}
    assert written == set(commands(typer.main.get_command(app), "authsvc"))


@pytest.mark.parametrize("role", Role)
def test_every_role_is_described(role: Role) -> None:
    assert role in {cell.strip("`") for cell, _ in table("| role | may |")}
