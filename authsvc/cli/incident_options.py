"""Owns what the commands of an incident have in common: options, and what they print."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import typer

from authsvc.cli.output import emit_one, fail
from authsvc.config import durations

_MAX_REASON = 200

ReasonOption = Annotated[
    str, typer.Option("--reason", help="Why; it is recorded. One line of up to 200 characters.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would happen, and to how many.")
]


def reason_of(text: str) -> str:
    """Return the reason, or end the command if it is none."""
    reason = text.strip()
    if not reason or len(reason) > _MAX_REASON or not reason.isprintable():
        fail(f"--reason: write one line of up to {_MAX_REASON} characters")
    return reason


def conclude(row: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print what a step did as a sentence, or `row` as JSON."""
    if as_json:
        emit_one(row, as_json=True)
    else:
        print(text)


def duration_of(text: str, option: str, longest: timedelta) -> timedelta:
    """Return a duration as in the settings; end the command if it is none, or too long."""
    try:
        duration = durations.parse(text)
    except ValueError as error:
        fail(f"{option}: {error}")
    if not timedelta(seconds=1) <= duration <= longest:
        fail(f"{option}: expected a duration from 1s to {durations.text(longest)}")
    return duration
