"""Owns `authsvc roles`: defines the roles of users at run time."""

from typing import Annotated, Any

import typer

from authsvc.cli.calls import cli_call
from authsvc.cli.confirming import YesOption, confirm
from authsvc.cli.groups import Commands
from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    SecretsOption,
    duration_of,
    emit,
    emit_one,
    fail,
)
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.errors import FieldInvalid
from authsvc.models.definitions import DefinedIn
from authsvc.models.roles import Lifetimes, RoleDefinition
from authsvc.rpc.admin.roles import bounded_lifetime, permission_names, role_name

app = Commands(help="Define the roles of users: what each grants and demands.")

NameArgument = Annotated[str, typer.Argument(help="The role, such as editor.")]


@app.command("list")
def list_roles(
    as_json: JsonOption = False, config: ConfigOption = None, secrets: SecretsOption = None
) -> None:
    """List the roles, and where each is defined: in the settings, or at run time."""

    async def work(use: UseCases) -> list[RoleDefinition]:
        return use.role_definitions.list()

    rows = [_role(role) for role in with_use_cases(config, secrets, work)]
    emit(rows, as_json=as_json, title="Roles")


@app.command()
def put(
    name: NameArgument,
    *,
    permission: Annotated[
        list[str] | None,
        typer.Option("--permission", help="A permission that it grants; may be repeated."),
    ] = None,
    second_factor: Annotated[
        bool, typer.Option("--second-factor", help="Require a second factor.")
    ] = False,
    idle: Annotated[
        str | None,
        typer.Option("--idle", help="How long sessions last without being used, such as 1h."),
    ] = None,
    absolute: Annotated[
        str | None, typer.Option("--absolute", help="How long sessions last, such as 12h.")
    ] = None,
    access_token: Annotated[
        str | None, typer.Option("--access-token", help="How long access tokens are valid.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Create a role, or replace the one of this name.

    Its users' tokens lose at once what the role no longer grants. Of the lifetimes of a user's
    roles and of the settings, the shortest counts, for what is opened or issued from then on. A
    role of the settings can only be changed there.
    """
    try:
        role = RoleDefinition(
            name=role_name(name, "NAME"),
            permissions=permission_names(permission or (), "--permission"),
            requires_second_factor=second_factor,
            lifetimes=Lifetimes(
                bounded_lifetime(duration_of(idle, "--idle"), "--idle"),
                bounded_lifetime(duration_of(absolute, "--absolute"), "--absolute"),
                bounded_lifetime(duration_of(access_token, "--access-token"), "--access-token"),
            ),
            defined_in=DefinedIn.RUN_TIME,
        )
    except FieldInvalid as error:
        fail(error.message)
    with_use_cases(config, secrets, lambda use: use.role_definitions.put(cli_call(), role))
    emit_one(_role(role), as_json=as_json)


@app.command()
def delete(
    name: NameArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Delete a role; users who have it keep its name, which grants nothing."""
    confirm(f"Delete the role {name}? Its users lose what it grants.", yes=yes)
    count = with_use_cases(
        config, secrets, lambda use: use.role_definitions.delete(cli_call(), name)
    )
    if as_json:
        emit_one({"user_count": count}, as_json=True)
    else:
        print(f"{name} is deleted; {count} {'user has' if count == 1 else 'users have'} its name.")


def _role(role: RoleDefinition) -> dict[str, Any]:
    return {
        "role": role.name,
        "permissions": role.permissions,
        "second_factor": role.requires_second_factor,
        "idle": role.lifetimes.idle,
        "absolute": role.lifetimes.absolute,
        "access_token": role.lifetimes.access_token,
        "defined_in": role.defined_in,
    }
