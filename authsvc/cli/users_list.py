"""Owns `authsvc users list` and `show`: accounts as an operator sees them."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import typer

from authsvc.cli.output import (
    ConfigOption,
    JsonOption,
    LimitOption,
    SecretsOption,
    emit_one,
    emit_page,
)
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.models.ids import UserId
from authsvc.models.users import User


def list_users(
    limit: LimitOption = 50,
    after: Annotated[
        UUID | None, typer.Option("--after", help="List the users that follow this id.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List users in the order of their ids, which is mostly that of their creation."""

    async def work(use: UseCases) -> Sequence[User]:
        return await use.account_listing.list(UserId(after) if after else None, limit + 1)

    rows = [_row(user) for user in with_use_cases(config, secrets, work)]
    emit_page(rows, limit, as_json=as_json, title="Users", key="user_id")


def show_user(
    user: Annotated[str, typer.Argument(help="The user's e-mail address or id.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Show a user's account."""
    found = with_use_cases(config, secrets, lambda use: use.account_listing.find(user))
    emit_one(_row(found) | {"display_name": found.display_name}, as_json=as_json)


def _row(user: User) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "email": user.email,
        "verified": user.email_verify_time is not None,
        "status": user.status,
        "roles": user.roles,
        "second_factor": user.has_second_factor,
        "created": user.create_time,
    }
