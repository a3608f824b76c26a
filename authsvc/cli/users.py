"""Owns `authsvc users`: creates, disables, enables, imports and exports accounts."""

import re
import sys
from collections.abc import Awaitable, Callable
from inspect import getdoc
from typing import Annotated, TypeVar

import typer

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.output import ConfigOption, SecretsOption, fail, run, settings_of
from authsvc.cli.users_export import export_users
from authsvc.cli.users_import import import_users
from authsvc.config import Settings
from authsvc.core.accounts.accounts import Accounts
from authsvc.core.roles.permissions import DEFAULT_ROLES, Permissions
from authsvc.errors import FieldInvalid

Result = TypeVar("Result")

app = typer.Typer(help="Create, disable, enable, import and export accounts.", no_args_is_help=True)
for _name, _command in (("import", import_users), ("export", export_users)):
    # Typer would keep the line breaks of the source.
    app.command(_name, help=re.sub(r"(?<!\n)\n(?!\n)", " ", getdoc(_command) or ""))(_command)

UserArgument = Annotated[str, typer.Argument(help="The user's e-mail address or id.")]


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="The new user's e-mail address.")],
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
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Create an account; prompt for the password or read it from standard input.

    The password has to meet the password policy. Without --role, the user gets the role "user".

    A user with a role that requires a second factor can't log in until the address is verified.
    """
    settings = settings_of(config, secrets)
    try:
        Permissions.of_settings(settings).check_defined(role or ())
    except FieldInvalid as error:
        fail(error.message)
    if password_stdin:
        password = sys.stdin.readline().removeprefix("\ufeff").rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    user_id = _with_accounts(
        settings,
        lambda accounts: accounts.create_user(
            cli_call(),
            email,
            password,
            display_name=name,
            roles=tuple(role or DEFAULT_ROLES),
            verified=verified,
        ),
    )
    print(f"{user_id} created.")


@app.command()
def disable(user: UserArgument, config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Disable an account: its sessions end at once and it can't be logged in to."""
    _with_accounts(
        settings_of(config, secrets), lambda accounts: accounts.disable(cli_call(), user)
    )
    print(f"{user} is disabled and its sessions have ended.")


@app.command()
def enable(user: UserArgument, config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Enable an account again."""
    _with_accounts(settings_of(config, secrets), lambda accounts: accounts.enable(cli_call(), user))
    print(f"{user} is enabled.")


def _with_accounts(settings: Settings, work: Callable[[Accounts], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        async with open_parts(settings) as parts:
            return await work(parts.use.accounts)

    return run(main)
