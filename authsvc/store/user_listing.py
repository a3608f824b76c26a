"""Owns the lists of users for operators: the scan of the index that a filter has, and the details.

Each part of a filter has an index in the order in which its users are listed, so a page begins
where the previous one ended, and costs the same wherever that is. With several parts, one of them
leads: its index is scanned, a bounded number of rows at a time, and the others are compared.

The bounds are comparisons of rows, such as (status, user_id) > ($1, $2), as only one index has that
order. With status = $1, the planner may choose the primary key, and read a million rows to find the
first disabled user.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from authsvc.models.ids import UserId
from authsvc.models.users import TimeRange, UserDetails, UserFilter, UserOrigin, UserStatus
from authsvc.store.postgres.database import Connection

_FIRST_ID = UUID(int=0)
_LAST_ID = UUID(int=(1 << 128) - 1)
_FIRST_TIME = datetime.min.replace(tzinfo=UTC)
_LAST_TIME = datetime.max.replace(tzinfo=UTC)
# What begins with a text is before that text with this appended: no address has the character.
_LAST_CHARACTER = "\U0010ffff"


class ListPosition(NamedTuple):
    """A user's place in a list; `key` is what its index orders by, None if that is the id alone."""

    key: str | datetime | None
    user_id: UserId


class Scan(NamedTuple):
    """The places of the users that a scan found, and the place where it ended; None: at the end."""

    found: Sequence[ListPosition]
    end: ListPosition | None


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user, and what the limits on logins are counted by: canonical address and known devices."""

    user: UserDetails
    email_canonical: str = field(repr=False)
    devices: Sequence[bytes] = field(repr=False)


class _Arguments(list[Any]):
    """The arguments of a statement that is being put together."""

    def place(self, value: object) -> str:
        """Add an argument and return its placeholder."""
        self.append(value)
        return f"${len(self)}"


# Only the parts of the filter that are given appear, or the planner could not know the index.
_SCAN = """
WITH candidates AS MATERIALIZED ({candidates} LIMIT {max_scanned}),
found AS (
    SELECT c.key, c.user_id FROM candidates c JOIN users u USING (user_id)
    WHERE {conditions} ORDER BY c.key, c.user_id LIMIT {limit}
), scanned AS (
    SELECT key, user_id, (SELECT count(*) FROM candidates) AS size FROM candidates
    ORDER BY key DESC, user_id DESC LIMIT 1
)
SELECT key, user_id, NULL AS size FROM found UNION ALL SELECT key, user_id, size FROM scanned
"""


async def scan(
    connection: Connection,
    wanted: UserFilter,
    after: ListPosition | None,
    *,
    limit: int,
    max_scanned: int,
) -> Scan:
    """Return up to `limit` users that match, of the next `max_scanned` in the leading part's list.

    Fewer may be found although there are more; go on from the end of the scan.
    """
    arguments = _Arguments()
    candidates, rest = _candidates(arguments, wanted, after)
    statement = _SCAN.format(
        candidates=candidates,
        conditions=" AND ".join(_conditions(arguments, rest)) or "true",
        limit=arguments.place(limit),
        max_scanned=arguments.place(max_scanned),
    )
    rows = await connection.fetch(statement, *arguments)
    found = sorted(_position(row) for row in rows if row["size"] is None)
    if len(found) == limit:
        return Scan(found, found[-1])
    last = next((row for row in rows if row["size"] is not None), None)
    ended = last is None or last["size"] < max_scanned
    return Scan(found, None if ended or last is None else _position(last))


def has_one_part(wanted: UserFilter) -> bool:
    """Return whether every user in the list of the leading part matches the whole filter."""
    _, rest = _candidates(_Arguments(), wanted, None)
    return rest == UserFilter()


def _candidates(
    arguments: _Arguments, wanted: UserFilter, after: ListPosition | None
) -> tuple[str, UserFilter]:
    """Return the scan of the leading part's list, and the filter without that part.

    That which is likely to have the fewest users leads.
    """
    source, nothing = "SELECT user_id AS key, user_id FROM users", UserFilter()
    if wanted.email_prefix:
        lead = "email_prefix"
        scanned = _by_address(arguments, wanted.email_prefix, after)
    elif wanted.provider:
        lead = "provider"
        source = "SELECT DISTINCT ON (provider, user_id) user_id AS key, user_id FROM identities"
        scanned = _by_id(arguments, source, lead, wanted.provider, after)
    elif wanted.role:
        lead, source = "role", "SELECT user_id AS key, user_id FROM user_roles"
        scanned = _by_id(arguments, source, lead, wanted.role, after)
    elif any(wanted.last_login_time) or any(wanted.create_time):
        lead = "last_login_time" if any(wanted.last_login_time) else "create_time"
        scanned = _by_time(arguments, lead, getattr(wanted, lead), after)
    elif wanted.status is not None:
        lead = "status"
        scanned = _by_id(arguments, source, lead, wanted.status.value, after)
    elif wanted.verified is not None:
        lead, column = "verified", "(email_verify_time IS NOT NULL)"
        scanned = _by_id(arguments, source, column, wanted.verified, after)
    else:
        start = arguments.place(after.user_id if after else _FIRST_ID)
        return f"{source} WHERE user_id {_next(after)} {start} ORDER BY user_id", nothing
    return scanned, replace(wanted, **{lead: getattr(nothing, lead)})


def _by_address(arguments: _Arguments, prefix: str, after: ListPosition | None) -> str:
    start = arguments.place(after.key if after else prefix)
    end = arguments.place(prefix + _LAST_CHARACTER)
    return f"""
        SELECT email_canonical COLLATE "C" AS key, user_id FROM users
        WHERE email_canonical COLLATE "C" {_next(after)} {start}
            AND email_canonical COLLATE "C" < {end}
        ORDER BY email_canonical COLLATE "C"
    """  # noqa: S608 - made of constants


def _by_id(
    arguments: _Arguments, source: str, column: str, value: object, after: ListPosition | None
) -> str:
    same = arguments.place(value)
    start = arguments.place(after.user_id if after else _FIRST_ID)
    end = arguments.place(_LAST_ID)
    return f"""
        {source} WHERE ({column}, user_id) {_next(after)} ({same}, {start})
            AND ({column}, user_id) <= ({same}, {end})
        ORDER BY {column}, user_id
    """


def _by_time(
    arguments: _Arguments, column: str, times: TimeRange, after: ListPosition | None
) -> str:
    start = arguments.place(after.key if after else times.start or _FIRST_TIME)
    start_id = arguments.place(after.user_id if after else _FIRST_ID)
    end = arguments.place(times.end or _LAST_TIME)
    return f"""
        SELECT {column} AS key, user_id FROM users
        WHERE ({column}, user_id) {_next(after)} ({start}, {start_id}) AND {column} < {end}
        ORDER BY {column}, user_id
    """  # noqa: S608 - made of constants


def _next(after: ListPosition | None) -> str:
    return ">" if after else ">="


def _conditions(arguments: _Arguments, wanted: UserFilter) -> list[str]:
    """Return the conditions of the parts that don't lead; an address always does."""
    place, found = arguments.place, []
    if wanted.provider:
        found.append(
            "EXISTS (SELECT FROM identities i"
            f" WHERE i.user_id = u.user_id AND i.provider = {place(wanted.provider)})"
        )
    if wanted.role:
        found.append(f"{place(wanted.role)} = ANY (u.roles)")
    if wanted.status is not None:
        found.append(f"u.status = {place(wanted.status.value)}")
    if wanted.verified is not None:
        found.append(f"(u.email_verify_time IS NOT NULL) = {place(wanted.verified)}")
    for column, times in (
        ("create_time", wanted.create_time),
        ("last_login_time", wanted.last_login_time),
    ):
        if times.start is not None:
            found.append(f"u.{column} >= {place(times.start)}")
        if times.end is not None:
            found.append(f"u.{column} < {place(times.end)}")
    return found


def _position(row: asyncpg.Record) -> ListPosition:
    key = row["key"]
    return ListPosition(None if isinstance(key, UUID) else key, UserId(row["user_id"]))


_DETAILS = """
SELECT user_id, email, email_canonical, display_name, roles, status, origin, create_time,
    update_time, last_login_time, email_verify_time, has_second_factor, failed_logins,
    failed_device_logins, password_change_required, password_hash IS NOT NULL AS has_password,
    ARRAY(SELECT DISTINCT kind FROM factors f
        WHERE f.user_id = u.user_id AND confirm_time IS NOT NULL ORDER BY kind)
    || CASE WHEN EXISTS (SELECT FROM recovery_codes r WHERE r.user_id = u.user_id)
        THEN ARRAY['recovery_code'] ELSE '{}' END AS factor_kinds,
    ARRAY(SELECT DISTINCT provider FROM identities i
        WHERE i.user_id = u.user_id ORDER BY provider) AS providers,
    ARRAY(SELECT device_hash FROM devices d WHERE d.user_id = u.user_id) AS devices
FROM users u
"""
_DETAILS_OF_ONE = f"{_DETAILS} WHERE user_id = $1 OR email_canonical = $2"
_DETAILS_OF_MANY = f"{_DETAILS} WHERE user_id = ANY ($1)"


async def find(connection: Connection, account: UserId | str) -> ListedUser | None:
    """Return the account with this id or canonical address, active or not."""
    user_id, address = (None, account) if isinstance(account, str) else (account, None)
    row = await connection.fetchrow(_DETAILS_OF_ONE, user_id, address)
    return None if row is None else _listed(row)


async def find_many(connection: Connection, ids: Sequence[UserId]) -> list[ListedUser]:
    """Return the accounts with these ids, in order; those deleted meanwhile are left out."""
    rows = {row["user_id"]: row for row in await connection.fetch(_DETAILS_OF_MANY, ids)}
    return [_listed(rows[user_id]) for user_id in ids if user_id in rows]


def _listed(row: asyncpg.Record) -> ListedUser:
    values = dict(row)
    email_canonical, devices = values.pop("email_canonical"), values.pop("devices")
    origin = values["origin"]
    values |= {
        "status": UserStatus(values["status"]),
        "origin": None if origin is None else UserOrigin(origin),
    }
    values |= {name: tuple(values[name]) for name in ("roles", "factor_kinds", "providers")}
    return ListedUser(UserDetails(**values), email_canonical, devices)
