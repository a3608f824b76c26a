"""Owns `authsvc audit`: shows the audit log, and follows it."""

import json
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from authsvc.app.build import open_parts
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    SecretsOption,
    fail,
    follow,
    plain_text,
    settings_of,
    to_json,
)
from authsvc.models.audit import AuditRow

app = Commands(help="Show the audit log.")


@app.callback()
def _group() -> None:
    """Show the audit log."""


@app.command()
def tail(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many events to print.")
    ] = 20,
    following: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on to print new events, until Ctrl-C is pressed."),
    ] = False,
    before: Annotated[
        UUID | None,
        typer.Option("--before", help="Print the events before this one, for the page before."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each event.")
    ] = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Print the newest events of the audit log, the latest last, each on a line of its own."""
    if following and before is not None:
        fail("--follow goes on from the newest event, so --before doesn't go with it")
    settings = settings_of(config, secrets)

    async def work() -> None:
        async with open_parts(settings) as parts:
            listing = parts.use.audit_listing
            if following:
                async for row in listing.follow(lines):
                    _print(row, as_json=as_json)
                return
            for row in await listing.newest(lines, before):
                _print(row, as_json=as_json)

    follow(work)


def _print(row: AuditRow, *, as_json: bool) -> None:
    values = _values(row)
    if as_json:
        text = to_json(values)
    else:
        time, kind = f"{row.occur_time:%Y-%m-%d %H:%M:%S} UTC", values.pop("type")
        del values["occur_time"]
        pairs = (f"{name}={_shown(value)}" for name, value in values.items() if value)
        text = plain_text(" ".join((time, kind, *pairs)))
    # At once, so that whoever reads a pipe sees each event when it happens.
    print(text, flush=True)


def _values(row: AuditRow) -> dict[str, Any]:
    return {
        "occur_time": row.occur_time,
        "type": row.type,
        "user_id": row.user_id,
        "session_id": row.session_id,
        "ip": row.client.ip,
        "user_agent": row.client.user_agent,
        "caller": row.call.caller,
        "request_id": row.call.request_id,
        "detail": json.loads(row.detail),
        "event_id": row.event_id,
    }


def _shown(value: object) -> str:
    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
    return json.dumps(text) if " " in text and not isinstance(value, Mapping) else text
