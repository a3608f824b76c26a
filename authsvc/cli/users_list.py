"""Owns `authsvc users list` and `get`: accounts as an operator sees them."""

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from authsvc.cli.output import ConfigOption, JsonOption, LimitOption, SecretsOption, emit, emit_one
from authsvc.cli.work import with_use_cases
from authsvc.core.use_cases import UseCases
from authsvc.models.users import Lock, TimeRange, UserDetails, UserFilter, UserStatus

# What is printed as a table; JSON has everything.
_COLUMNS = ("user_id", "email", "verified", "status", "roles", "second_factor", "created")
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]

UserArgument = Annotated[str, typer.Argument(help="The user's e-mail address or id.")]


def _time_option(name: str, text: str) -> Any:
    return typer.Option(name, formats=_FORMATS, help=f"{text} (UTC).")


def list_users(
    *,
    limit: LimitOption = 50,
    after: Annotated[
        str, typer.Option("--after", help="Go on after an earlier list with the same filters.")
    ] = "",
    email: Annotated[
        str, typer.Option("--email", help="Those whose address begins with this.")
    ] = "",
    role: Annotated[str, typer.Option("--role", help="Those who have this role.")] = "",
    status: Annotated[
        UserStatus | None, typer.Option("--status", help="Those with this status.")
    ] = None,
    verified: Annotated[
        bool | None,
        typer.Option("--verified/--unverified", help="Those whose address is verified, or not."),
    ] = None,
    provider: Annotated[
        str, typer.Option("--provider", help="Those with an identity at this provider.")
    ] = "",
    created_from: Annotated[
        datetime | None, _time_option("--created-from", "Those created then or later")
    ] = None,
    created_until: Annotated[
        datetime | None, _time_option("--created-until", "Those created before")
    ] = None,
    login_from: Annotated[
        datetime | None, _time_option("--login-from", "Those who last logged in then or later")
    ] = None,
    login_until: Annotated[
        datetime | None, _time_option("--login-until", "Those who last logged in before")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """List the users that match all filters.

    They are in order of their addresses with --email, of the times with a range of times, and
    otherwise of their ids, which is mostly that of their creation.
    """
    wanted = UserFilter(
        email_prefix=email,
        role=role,
        status=status,
        verified=verified,
        provider=provider,
        create_time=TimeRange(_utc(created_from), _utc(created_until)),
        last_login_time=TimeRange(_utc(login_from), _utc(login_until)),
    )

    async def work(use: UseCases) -> tuple[list[UserDetails], str]:
        found: list[UserDetails] = []
        token = after
        while True:
            page = await use.account_listing.list(wanted, limit - len(found), token)
            found += page.users
            token = page.next_page_token
            if not token or len(found) >= limit:
                return found, token
            print(f"{len(found)} found so far, still looking …", file=sys.stderr)

    found, token = with_use_cases(config, secrets, work)
    rows = [user_row(user) for user in found]
    if not as_json:
        rows = [{name: row[name] for name in _COLUMNS} for row in rows]
    emit(rows, as_json=as_json, title="Users")
    if token:
        print(f"There are more: add --after {token}", file=sys.stderr)


def get_user(
    user: UserArgument,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Show a user's account: times, failed logins and locks, factors and identities."""
    found = with_use_cases(config, secrets, lambda use: use.account_listing.find(user))
    emit_one(user_row(found), as_json=as_json)


def user_row(user: UserDetails) -> dict[str, Any]:
    """Return what is shown of a user."""
    return {
        "user_id": user.user_id,
        "email": user.email,
        "display_name": user.display_name,
        "verified": user.email_verify_time is not None,
        "status": user.status,
        "roles": user.roles,
        "second_factor": user.has_second_factor,
        "factors": user.factor_kinds,
        "providers": user.providers,
        "has_password": user.has_password,
        "password_change_required": user.password_change_required,
        "origin": user.origin,
        "created": user.create_time,
        "updated": user.update_time,
        "last_login": user.last_login_time,
        "failed_logins": user.failed_logins,
        "failed_device_logins": user.failed_device_logins,
        "locked_until": _until(user.lock),
        "device_locked_until": _until(user.device_lock),
    }


def _until(lock: Lock | None) -> datetime | str | None:
    return None if lock is None else lock.expire_time or "unlocked"


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)
