"""Owns `authsvc sessions`: lists and revokes the sessions of users."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    LimitOption,
    SecretsOption,
    emit_one,
    emit_page,
    fail,
)
from authsvc.cli.sessions_revoke_all import revoke_all
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.models.ids import SessionId
from authsvc.models.sessions import Session

app = Commands(help="List and revoke the sessions of users.")
app.command("revoke-all")(revoke_all)


@app.command("list")
def list_sessions(
    user: Annotated[str, typer.Argument(help="The user's e-mail address or id.")],
    limit: LimitOption = 50,
    after: Annotated[
        UUID | None, typer.Option("--after", help="List the sessions that follow this id.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List a user's active sessions, newest first."""

    async def work(use: UseCases) -> Sequence[Session]:
        user_id = (await use.account_listing.find(user)).user_id
        before = SessionId(after) if after else None
        return await use.session_listing.list_before(user_id, before, limit + 1)

    rows = [
        {
            "session_id": session.session_id,
            "created": session.create_time,
            "last_used": session.last_use_time,
            "expires": session.idle_expire_time,
            "methods": session.authentication_methods,
            "ip": session.client.ip,
            "user_agent": session.client.user_agent,
            "impersonator": session.impersonator,
        }
        for session in with_use_cases(config, secrets, work)
    ]
    emit_page(rows, limit, as_json=as_json, title="Sessions", key="session_id")


@app.command()
def revoke(
    session: Annotated[
        UUID | None,
        typer.Argument(help="The session, as `sessions list` shows it.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Revoke all sessions of this user: an e-mail address or id."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Revoke a session, or all sessions of a user; every replica rejects them within a second.

    To revoke a session that has ended already is no error.
    """
    if (session is None) == (user is None):
        fail("name either a session or, with --user, a user")

    async def work(use: UseCases) -> int:
        if session is not None:
            await use.session_ending.revoke(cli_call(), SessionId(session))
            return 1
        user_id = (await use.account_listing.find(user or "")).user_id
        return (await use.session_ending.revoke_all(cli_call(), user_id)).count

    count = with_use_cases(config, secrets, work)
    if as_json:
        emit_one({"revoked_count": count}, as_json=True)
    elif session is not None:
        print(f"{session} is revoked.")
    else:
        print(f"{count} {'session' if count == 1 else 'sessions'} of {user} revoked.")
