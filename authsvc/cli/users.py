"""Owns `authsvc users`: creates, disables and enables accounts, takes many over, gives all back."""

import re
import sys
from collections.abc import Awaitable, Callable
from inspect import getdoc
from typing import Annotated, TypeVar

import typer

from authsvc.app.build import open_parts
from authsvc.cli.calls import cli_call
from authsvc.cli.output import ConfigOption, SecretsOption, run, settings_of
from authsvc.cli.users_export import export_users
from authsvc.cli.users_import import import_users
from authsvc.config import Settings
from authsvc.core.accounts.accounts import Accounts
from authsvc.core.roles.permissions import DEFAULT_ROLES

Result = TypeVar("Result")

app = typer.Typer(help="Create, disable, enable, import and export accounts.", no_args_is_help=True)
for _name, _command in (("import", import_users), ("export", export_users)):
    # A line's end would be kept where it is in the source.
    app.command(_name, help=re.sub(r"(?<!\n)\n(?!\n)", " ", getdoc(_command) or ""))(_command)

UserArgument = Annotated[str, typer.Argument(help="The user's e-mail address or id.")]


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="The new user's e-mail address.")],
    name: Annotated[str, typer.Option("--name", help="The name to show for the user.")] = "",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="A role of the user; may be repeated.")
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="The address is known to be the user's.")
    ] = False,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Create an account; the password is asked for, or read from standard input.

    It has to meet the service's policy, like anybody's. Without a role the user gets "user".

    A user of a role that needs a second factor can't log in before the address is verified.
    """
    settings = settings_of(config, secrets)
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
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
    """Disable an account: its sessions end at once and nobody can log in to it."""
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
