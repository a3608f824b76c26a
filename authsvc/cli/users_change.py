"""Owns the commands of `authsvc users` that create, change and erase one account."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, emit_one, fail
from authsvc.cli.users_list import UserArgument, user_row
from authsvc.cli.work import with_use_cases
from authsvc.core.accounts.accounts import NewUser
from authsvc.core.accounts.administration import ProfileChange
from authsvc.core.roles.permissions import DEFAULT_ROLES
from authsvc.core.use_cases import UseCases
from authsvc.models.ids import UserId
from authsvc.models.messages import Delivery
from authsvc.models.users import UserDetails


def create(
    email: Annotated[str, typer.Argument(help="The new user's e-mail address.")],
    *,
    name: Annotated[str, typer.Option("--name", help="The user's display name.")] = "",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="A role of the user (repeatable).")
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="Mark the address as verified.")
    ] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Create the user without a password.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Create an account; prompt for the password or read it from standard input.

    The password has to meet the password policy. Without --role, the user gets the role "user".

    A user with a role that requires a second factor can't log in until the address is verified. A
    user without a password sets one with a code (`users reset-password`), or logs in otherwise.
    """
    if password_stdin and no_password:
        fail("--password-stdin and --no-password exclude each other")
    roles = tuple(role or DEFAULT_ROLES)

    async def work(use: UseCases) -> UserDetails:
        # Before the prompt, so that nobody types a password in vain.
        await use.accounts.check_roles(roles)
        password = "" if no_password else _password(from_stdin=password_stdin)
        user = NewUser(email, password, name, roles, verified)
        return await use.account_listing.find(await use.accounts.create_user(cli_call(), user))

    created = with_use_cases(config, secrets, work)
    if as_json:
        emit_one(user_row(created), as_json=True)
    else:
        print(f"{created.user_id} created.")


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().removeprefix("\ufeff").rstrip("\r\n")
    else:
        try:
            password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        except typer.Abort:
            if sys.stdin.isatty():
                raise
            fail("nobody can be asked for a password here: add --password-stdin or --no-password")
    if not password:
        fail("password: must not be empty (--no-password creates a user without one)")
    return password


def update(
    user: UserArgument,
    name: Annotated[str | None, typer.Option("--name", help="The new display name.")] = None,
    email: Annotated[str | None, typer.Option("--email", help="The new address.")] = None,
    verified: Annotated[
        bool | None,
        typer.Option("--verified/--unverified", help="Mark the address as verified, or not."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Change a user's name or address.

    A new address counts as unverified without --verified. The old one gets a notice.
    """
    change = ProfileChange(name, email, verified)
    if not change.fields:
        fail("name what to change: --name, --email, --verified or --unverified")

    async def work(use: UseCases, user_id: UserId) -> str:
        await use.user_administration.update(cli_call(), user_id, change)
        return f"{user} is changed."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def set_roles(
    user: UserArgument,
    roles: Annotated[
        list[str] | None, typer.Argument(help="All the roles that the user is to have.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Leave the user no role.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Replace a user's roles; tokens lose what the remaining ones don't grant within a second.

    If a role is added that requires a second factor, the user's sessions end.
    """
    if bool(roles) == none:
        fail("name the roles that the user is to have, or --none")

    async def work(use: UseCases, user_id: UserId) -> str:
        await use.user_administration.set_roles(cli_call(), user_id, roles or ())
        return f"The roles of {user} are now: {', '.join(roles or ()) or 'none'}."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def disable(
    user: UserArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Disable an account: its sessions end at once and it can't be logged in to."""

    async def work(use: UseCases, user_id: UserId) -> str:
        await use.accounts.disable(cli_call(), user_id)
        return f"{user} is disabled and its sessions have ended."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def enable(
    user: UserArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Enable an account again."""

    async def work(use: UseCases, user_id: UserId) -> str:
        await use.accounts.enable(cli_call(), user_id)
        return f"{user} is enabled."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def unlock(
    user: UserArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Unlock an account with too many failed logins, from unknown and from known devices."""

    async def work(use: UseCases, user_id: UserId) -> str:
        await use.user_administration.unlock(cli_call(), user_id)
        return f"{user} is unlocked."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def require_password_change(
    user: UserArgument,
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="Don't end the user's sessions.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Let a user's password open no more sessions until it has been changed.

    The user sets a new one with a code (`users reset-password`, or RequestPasswordReset in the
    application). Passkeys, providers and codes still log in.
    """

    async def work(use: UseCases, user_id: UserId) -> str:
        ended = await use.user_administration.require_password_change(
            cli_call(), user_id, keep_sessions=keep_sessions
        )
        return f"The password of {user} has to be changed; sessions ended: {ended.count}."

    _change(user, work, as_json=as_json, config=config, secrets=secrets)


def reset_password(
    user: UserArgument,
    show_code: Annotated[
        bool, typer.Option("--show-code", help="Print the code instead of sending it.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Send a user a code with which to set a new password."""
    delivery = Delivery.RETURN if show_code else Delivery.SEND

    async def work(use: UseCases) -> dict[str, object]:
        found = await use.account_listing.find(user)
        issued = await use.user_administration.start_password_reset(
            cli_call(), found.user_id, delivery
        )
        code = {"code": issued.code} if show_code else {"sent_to": found.email}
        return {"user_id": found.user_id, **code, "expires": issued.expire_time}

    emit_one(with_use_cases(config, secrets, work), as_json=as_json)


def delete(
    user: UserArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Erase an account and all that is held on its user, which can't be undone.

    Only audit events without personal data remain. The user gets a notice.
    """
    found = with_use_cases(config, secrets, lambda use: use.account_listing.find(user))
    confirm(f"Erase {found.email} ({found.user_id})? This can't be undone.", yes=yes)
    with_use_cases(
        config, secrets, lambda use: use.account_deletion.erase(cli_call(), found.user_id)
    )
    if as_json:
        emit_one({"user_id": found.user_id, "deleted": True}, as_json=True)
    else:
        print(f"{user} is erased.")


def _change(
    user: str,
    work: Callable[[UseCases, UserId], Awaitable[str]],
    *,
    as_json: bool,
    config: Path | None,
    secrets: Path | None,
) -> None:
    """Change an account; print the user after that as JSON, or what `work` says."""

    async def change(use: UseCases) -> tuple[str, UserDetails]:
        user_id = (await use.account_listing.find(user)).user_id
        said = await work(use, user_id)
        return said, await use.account_listing.find(user_id)

    said, changed = with_use_cases(config, secrets, change)
    if as_json:
        emit_one(user_row(changed), as_json=True)
    else:
        print(said)
