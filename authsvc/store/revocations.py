"""Owns the revocation log: appending to it, what names its rows, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias, cast

import asyncpg

from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import Kind, LoggedRevocation, RevocationCursor
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.log_reading import Log
from authsvc.store.postgres.connector import Connection, as_pool_connection, known_timeline

# What names the transaction, in the same statement, so that it costs no round trip.
CURSOR = "server_run() AS run_id, pg_current_xact_id() AS transaction"

_APPEND = f"""
WITH appended AS (
    INSERT INTO revocations (session_id, user_id, key_id, api_key_id, revoke_time, cache_only)
    SELECT session_id, user_id, key_id, api_key_id, $5, $6
    FROM (SELECT unnest($1::uuid[]), NULL::uuid, NULL::text, NULL::uuid
          UNION ALL SELECT NULL, $2::uuid, NULL, NULL WHERE $2 IS NOT NULL
          UNION ALL SELECT NULL, NULL, $3::text, NULL WHERE $3 IS NOT NULL
          UNION ALL SELECT NULL, NULL, NULL, $4::uuid WHERE $4 IS NOT NULL
         ) AS revoked (session_id, user_id, key_id, api_key_id)
)
SELECT {CURSOR}
"""  # noqa: S608 - made of constants


async def append(
    connection: Connection,
    now: datetime,
    *,
    session_ids: Sequence[SessionId] = (),
    user_id: UserId | None = None,
    key_id: str | None = None,
    api_key_id: ApiKeyId | None = None,
    cache_only: bool = False,
) -> None:
    """Append revocations; the doorbell rings once they are committed.

    A `user_id` revokes everything that the user has; `key_id` is a signing key. With `cache_only`,
    replicas drop what they have cached, and nothing else ends.
    """
    [row] = await connection.fetch(
        _APPEND, session_ids, user_id, key_id, api_key_id, now, cache_only
    )
    note(connection, row)


# A token of a second in which a user has lost something has the next second as its `iat`. So what
# is lost in the same second, but after that token was issued, needs the next second, too.
_APPEND_USER = f"""
WITH refused AS (
    UPDATE users SET token_revoke_time =
        greatest($2, date_trunc('second', token_revoke_time) + interval '1 second')
    WHERE user_id = $1
    RETURNING token_revoke_time
), appended AS (
    INSERT INTO revocations (user_id, revoke_time) SELECT $1, token_revoke_time FROM refused
)
SELECT token_revoke_time, {CURSOR} FROM refused
"""  # noqa: S608 - made of constants


async def append_user(connection: Connection, user_id: UserId, time: datetime) -> datetime:
    """Append the revocation of the access tokens that a user has got up to this time.

    Return the time up to whose second tokens are refused, which may be a little later. The caller
    has locked the user's row.
    """
    [row] = await connection.fetch(_APPEND_USER, user_id, time)
    note(connection, row)
    return cast("datetime", row["token_revoke_time"])


def note(connection: Connection, row: asyncpg.Record) -> None:
    """Note that the transaction revokes something, which the columns `CURSOR` of `row` name.

    The doorbell rings once it is committed.
    """
    own = as_pool_connection(connection)
    if own:
        own.revoked = RevocationCursor(row["run_id"], row["transaction"])
    ring_after_commit(connection, Channel.REVOCATIONS)


def noted(connection: Connection) -> RevocationCursor | None:
    """Return what names the revocations of the present transaction; None if there are none."""
    own = as_pool_connection(connection)
    return own.revoked if own else None


_NOW = f"SELECT {CURSOR}"


async def cursor_of_now(connection: Connection) -> RevocationCursor:
    """Return what names all that has been revoked by now, by whichever transaction.

    It is the present transaction, which ends after all those that have been acknowledged.
    """
    known = noted(connection)
    if known is None:
        [row] = await connection.fetch(_NOW)
        known = RevocationCursor(row["run_id"], row["transaction"])
    return known


def _revocation(record: asyncpg.Record) -> LoggedRevocation:
    kind, _, identifier = record["subject"].partition(":")
    return LoggedRevocation(
        cast("Kind", kind),
        identifier,
        record["revoke_time"],
        record["cache_only"],
        record["validity"] or timedelta(),
    )


# The validity is read with the revocations, once for all: a replica notes how long its tokens are
# valid before it issues any, so whoever sees what revokes one of them sees the note, too.
_COLUMNS = """concat_ws(':',
        CASE WHEN session_id IS NOT NULL THEN 'session'
             WHEN user_id IS NOT NULL THEN 'user'
             WHEN api_key_id IS NOT NULL THEN 'api_key'
             ELSE 'key' END,
        session_id, user_id, api_key_id, key_id) AS subject, revoke_time, cache_only,
    (SELECT max(validity) FROM token_validities) AS validity"""
LOG = Log(
    table="revocations", key="revocation_id", first_key=0, columns=_COLUMNS, parse=_revocation
)

# The time of a revocation and its key.
Place: TypeAlias = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class Page:
    """Revocations in the order of their times, and the place of the last one if there are more.

    They are all that had been committed when the read began, but for those of caches alone.
    """

    rows: Sequence[LoggedRevocation]
    next_place: Place | None


_SELECT_PAGE = f"""
SELECT revocation_id, {_COLUMNS} FROM revocations
WHERE (SELECT require_primary($4)) AND (revoke_time, revocation_id) > ($1, $2) AND NOT cache_only
ORDER BY revoke_time, revocation_id LIMIT $3
"""  # noqa: S608 - only constants


async def read_page(connection: Connection, after: Place, limit: int) -> Page:
    """Return up to `limit` revocations after that place.

    Fails on a server that is read-only, in recovery, or another one than the connection was opened
    to.
    """
    found = await connection.fetch(_SELECT_PAGE, *after, limit + 1, known_timeline(connection))
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        rows=[_revocation(record) for record in found[:limit]],
        next_place=(last["revoke_time"], last["revocation_id"]) if last else None,
    )
