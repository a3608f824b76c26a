"""Owns `authsvc sessions revoke-all`: ends the sessions of many users by criteria."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from authsvc.cli.arguments import network_of, span_of
from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit_one, fail
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.models.ids import UserId
from authsvc.models.sessions import SessionSelection

# Without a terminal, progress is one line per this many sessions.
_SESSIONS_PER_LINE = 10_000


def revoke_all(
    *,
    every: Annotated[bool, typer.Option("--all", help="All sessions of all users.")] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Created longer ago than this, such as 12h.")
    ] = None,
    created_before: Annotated[
        str | None,
        typer.Option("--created-before", help="Created before this time: 2026-11-27T02:00:00Z."),
    ] = None,
    created_after: Annotated[
        str | None, typer.Option("--created-after", help="Created at or after this time.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="Created from this address or network: 192.0.2.0/24."),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="Whose user logged in with this method, such as pwd.")
    ] = "",
    users: Annotated[
        list[str] | None,
        typer.Option("--user", help="Of this user, an address or id; may be repeated."),
    ] = None,
    impersonated: Annotated[
        bool, typer.Option("--impersonated", help="Opened by ImpersonateUser.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how many sessions would end.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Revoke the sessions of any user that meet all of the criteria; --all needs none.

    Every replica rejects them within a second. It shows how many there are and asks before it
    begins. If it is interrupted, what was revoked stays revoked, and the same command revokes the
    rest.
    """
    if older_than is not None and created_before is not None:
        fail("name either --older-than or --created-before")
    after, before = span_of(
        ("--created-after", created_after),
        ("--created-before", created_before)
        if older_than is None
        else ("--older-than", older_than),
        datetime.now(UTC),
    )
    criteria = SessionSelection(
        created_before=before,
        created_after=after,
        network=network_of(network),
        authentication_method=method,
        impersonated_only=impersonated,
    )
    if (criteria.is_everything and not users) != every:
        fail("name criteria or, for all sessions, --all, but not both")

    async def select(use: UseCases) -> tuple[SessionSelection, int]:
        selection = replace(criteria, user_ids=await _user_ids(use, users or ()))
        return selection, await use.bulk_session_ending.count(selection)

    selection, count = with_use_cases(config, secrets, select)
    if not dry_run:
        confirm(f"Revoke {_sessions(count)}? This can't be undone.", yes=yes)

        async def end(use: UseCases) -> int:
            with _progress(count) as show:
                return (await use.bulk_session_ending.end(cli_call(), selection, show)).count

        count = with_use_cases(config, secrets, end)
    if as_json:
        emit_one({"revoked_count": count, "dry_run": dry_run}, as_json=True)
    else:
        print(f"{_sessions(count)} {'would be ' if dry_run else ''}revoked.")


async def _user_ids(use: UseCases, users: Sequence[str]) -> list[UserId]:
    return [(await use.account_listing.find(user)).user_id for user in users]


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, otherwise an occasional line, on standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("revoking"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("revoking", total=total)
            yield lambda count: bar.update(task, completed=count)
        return
    next_line = _SESSIONS_PER_LINE

    def show(count: int) -> None:
        nonlocal next_line
        if count >= next_line:
            next_line = count + _SESSIONS_PER_LINE
            print(f"{count} of {_sessions(total)} revoked", file=sys.stderr)

    yield show


def _sessions(count: int) -> str:
    return f"{count} {'session' if count == 1 else 'sessions'}"
