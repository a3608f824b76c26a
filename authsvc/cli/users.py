"""Owns `authsvc users`: lists, creates, disables, enables, imports and exports accounts."""

import sys
from typing import Annotated

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.groups import Commands
from authsvc.cli.output import ConfigOption, SecretsOption
from authsvc.cli.users_export import export_users
from authsvc.cli.users_import import import_users
from authsvc.cli.users_list import list_users, show_user
from authsvc.cli.work import with_use_cases
from authsvc.core.roles.permissions import DEFAULT_ROLES

app = Commands(help="List, create, disable, enable, import and export accounts.")
app.command("list")(list_users)
app.command("show")(show_user)
app.command("import")(import_users)
app.command("export")(export_users)

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
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    user_id = with_use_cases(
        config,
        secrets,
        lambda use: use.accounts.create_user(
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
    with_use_cases(config, secrets, lambda use: use.accounts.disable(cli_call(), user))
    print(f"{user} is disabled and its sessions have ended.")


@app.command()
def enable(user: UserArgument, config: ConfigOption = None, secrets: SecretsOption = None) -> None:
    """Enable an account again."""
    with_use_cases(config, secrets, lambda use: use.accounts.enable(cli_call(), user))
    print(f"{user} is enabled.")
