"""The page of commands lists every command, and the commands on other pages exist."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from authsvc.cli.main import app
from tests.support.documents import REPOSITORY, Page, page, pages

MAKEFILE = (REPOSITORY / "Makefile").read_text()
_TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
_COMMAND = re.compile(r"(?:^|[ /])authsvc ((?:[a-z][a-z-]* ?)+)(.*)")


def groups(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below a group, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from groups(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(groups(typer.main.get_command(app), "authsvc"))


def test_command_table_lists_all_commands() -> None:
    written = set()
    for cell, _ in page("docs/commands.md").tables("command", "does"):
        first, *more = re.findall(r"`([^`]+)`", cell)
        stem, _, _ = first.rpartition(" ")
        written |= {first, *(f"{stem} {name}" for name in more)}
    assert written == set(COMMANDS)


@pytest.mark.parametrize("document", pages(), ids=str)
def test_shell_blocks_use_existing_options(document: Page) -> None:
    for line in "\n".join(document.blocks("sh")).splitlines():
        match = _COMMAND.search(line.partition("  #")[0])
        if match is None or line.startswith(("docker", "helm", "kubectl")):
            continue
        words = match[1].split()
        name = next(
            candidate
            for length in range(len(words), 0, -1)
            if (candidate := f"authsvc {' '.join(words[:length])}") in COMMANDS
        )
        params = COMMANDS[name].params
        known = {option for param in params for option in (*param.opts, *param.secondary_opts)}
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", line)) <= known, line


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    named = {
        (str(document), target)
        for document in pages()
        for code in (*document.names(), *document.blocks("sh"))
        for target in _TARGET.findall(code)
    }
    assert named
    assert {(where, target) for where, target in named if target not in targets} == set()


def test_make_table_lists_every_target_once() -> None:
    listed = [cell for cell, _ in page("CONTRIBUTING.md").tables("command", "does")]
    described = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
    assert sorted(listed) == sorted(f"`make {name}`" for name in described if name != "help")
