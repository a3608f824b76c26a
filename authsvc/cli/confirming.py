"""Owns the confirmation of commands whose effect can't be undone."""

import sys
from typing import Annotated

import typer

from authsvc.cli.output import fail

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")]


def confirm(question: str, *, yes: bool) -> None:
    """Return if the operator agrees; end the command otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nobody can be asked for confirmation here: add --yes")
    if not typer.confirm(question, err=True):
        fail("nothing was done")
