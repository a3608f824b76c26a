"""Owns `authsvc audit`: shows the audit log, and follows it."""

import asyncio
import json
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Any
from uuid import UUID

import typer

from authsvc.app.build import open_parts
from authsvc.cli.arguments import network_of, span_of
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    SecretsOption,
    fail,
    follow,
    plain_text,
    run,
    settings_of,
    to_json,
)
from authsvc.core.audit.recording import AuditType
from authsvc.models.audit import AuditFilter, AuditRow
from authsvc.models.ids import SessionId, UserId

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


TypesOption = Annotated[
    list[str] | None,
    typer.Option("--type", help="Only events of this type; give it again for others."),
]
UserOption = Annotated[
    UUID | None, typer.Option("--user", help="Only events of the user with this id.")
]
SessionOption = Annotated[
    UUID | None, typer.Option("--session", help="Only events of the session with this id.")
]
CallerOption = Annotated[
    str | None, typer.Option("--caller", help="Only events of this calling service.")
]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help="Only events from this address, or network such as 10.0.0.0/8."),
]
RequestOption = Annotated[
    str | None, typer.Option("--request", help="Only events of the call with this id.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object for each event.")]


@app.command("list")
def list_events(
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many events to print.")
    ] = 50,
    start: Annotated[
        str | None,
        typer.Option("--start", help="Only events from this time on, such as 2026-11-27T08:00Z."),
    ] = None,
    end: Annotated[str | None, typer.Option("--end", help="Only events before this time.")] = None,
    types: TypesOption = None,
    user: UserOption = None,
    session: SessionOption = None,
    caller: CallerOption = None,
    network: NetworkOption = None,
    request: RequestOption = None,
    page_token: Annotated[
        str, typer.Option("--page-token", help="Print the page after the one that ended with this.")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Print the events that match all options, the newest first.

    The token of the next page, if there is one, is printed on standard error.
    """
    wanted = _filter(types, user, session, caller, network, request)
    # No durations: the token of a page holds for one time only, and they would give another.
    since, until = span_of(("--start", start), ("--end", end), None)
    settings = settings_of(config, secrets)

    async def work() -> str:
        async with open_parts(settings) as parts:
            token, left = page_token, limit
            # A page may be short because it took long to find.
            while True:
                page = await parts.use.audit_listing.page(wanted, since, until, left, token)
                for row in page.rows:
                    _print(row, as_json=as_json)
                token, left = page.next_page_token, left - len(page.rows)
                if not token or not left:
                    return token

    token = run(work)
    if token:
        print(f"the next page: --page-token {token}", file=sys.stderr)


@app.command()
def watch(
    *,
    cursor: Annotated[
        str,
        typer.Option("--cursor", help="Continue after the cursor that was printed last."),
    ] = "",
    types: TypesOption = None,
    user: UserOption = None,
    session: SessionOption = None,
    caller: CallerOption = None,
    network: NetworkOption = None,
    request: RequestOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Print the events that match all options as they are committed, until Ctrl-C is pressed.

    At the end, the cursor to continue with is printed on standard error: no event is missed.
    """
    wanted = _filter(types, user, session, caller, network, request)
    settings = settings_of(config, secrets)
    reached = ""

    async def work() -> None:
        nonlocal reached
        async with open_parts(settings) as parts:
            reading = asyncio.create_task(parts.use.audit_watch.run())
            try:
                async for events in parts.use.audit_watch.watch("cli", wanted, cursor):
                    if not reached:
                        print("watching; press Ctrl-C to end", file=sys.stderr, flush=True)
                    for row in events.rows:
                        _print(row, as_json=as_json)
                    reached = events.cursor
            finally:
                reading.cancel()

    try:
        follow(work)
    finally:
        if reached:
            print(f"to continue: --cursor {reached}", file=sys.stderr)


def _filter(
    types: list[str] | None,
    user: UUID | None,
    session: UUID | None,
    caller: str | None,
    network: str | None,
    request: str | None,
) -> AuditFilter:
    unknown = sorted(set(types or ()) - {each.value for each in AuditType})
    if unknown:
        fail(f"--type {unknown[0]}: there is no such type; docs/audit-events.md lists them")
    within = network_of(network)
    return AuditFilter(
        types=tuple(types or ()),
        user_id=UserId(user) if user else None,
        session_id=SessionId(session) if session else None,
        caller=caller,
        network=ip_network(within) if within else None,
        request_id=request,
    )


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
