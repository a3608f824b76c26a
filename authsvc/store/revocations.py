"""Owns the revocation log: appending to it, and how its rows are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias, cast
from uuid import UUID

import asyncpg

from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import Kind, LoggedRevocation
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.log_reading import Log
from authsvc.store.postgres.connector import Connection, known_timeline

_INSERT = """
INSERT INTO revocations (session_id, user_id, key_id, api_key_id, revoke_time)
SELECT session_id, user_id, key_id, api_key_id, $5
FROM (SELECT unnest($1::uuid[]), NULL::uuid, NULL::text, NULL::uuid
      UNION ALL SELECT NULL, $2::uuid, NULL, NULL WHERE $2 IS NOT NULL
      UNION ALL SELECT NULL, NULL, $3::text, NULL WHERE $3 IS NOT NULL
      UNION ALL SELECT NULL, NULL, NULL, $4::uuid WHERE $4 IS NOT NULL
     ) AS revoked (session_id, user_id, key_id, api_key_id)
"""


async def append(
    connection: Connection,
    now: datetime,
    *,
    session_ids: Sequence[SessionId] = (),
    user_id: UserId | None = None,
    key_id: str | None = None,
    api_key_id: ApiKeyId | None = None,
) -> None:
    """Append revocations; the doorbell rings once they are committed.

    A `user_id` revokes everything that the user has; `key_id` is a signing key.
    """
    await connection.execute(_INSERT, session_ids, user_id, key_id, api_key_id, now)
    ring_after_commit(connection, Channel.REVOCATIONS)


def _revocation(record: asyncpg.Record) -> LoggedRevocation:
    kind, _, identifier = record["subject"].partition(":")
    return LoggedRevocation(cast("Kind", kind), identifier, record["revoke_time"])


_COLUMNS = """concat_ws(':',
        CASE WHEN session_id IS NOT NULL THEN 'session'
             WHEN user_id IS NOT NULL THEN 'user'
             WHEN api_key_id IS NOT NULL THEN 'api_key'
             ELSE 'key' END,
        session_id, user_id, api_key_id, key_id) AS subject, revoke_time"""
LOG = Log(
    table="revocations", key="revocation_id", first_key=0, columns=_COLUMNS, parse=_revocation
)

# The time of a revocation and its key.
Place: TypeAlias = tuple[datetime, int]


@dataclass(frozen=True, slots=True)
class Page:
    """Revocations in the order of their times, and the place of the last one if there are more.

    They are all that had been committed, in this run of the server, when the read began.
    """

    rows: Sequence[LoggedRevocation]
    next_place: Place | None
    run_id: UUID


_SELECT_PAGE = f"""
WITH state AS MATERIALIZED (
    SELECT server_run() AS run_id WHERE (SELECT require_primary($4)))
SELECT state.run_id, page.* FROM state LEFT JOIN (
    SELECT revocation_id, {_COLUMNS} FROM revocations
    WHERE (revoke_time, revocation_id) > ($1, $2)
    ORDER BY revoke_time, revocation_id LIMIT $3
) AS page ON true
ORDER BY revoke_time, revocation_id
"""  # noqa: S608 - only constants


async def read_page(connection: Connection, after: Place, limit: int) -> Page:
    """Return up to `limit` revocations after that place; fails on a server that is no primary."""
    records = await connection.fetch(_SELECT_PAGE, *after, limit + 1, known_timeline(connection))
    found = [record for record in records if record["revocation_id"] is not None]
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        rows=[_revocation(record) for record in found[:limit]],
        next_place=(last["revoke_time"], last["revocation_id"]) if last else None,
        run_id=records[0]["run_id"],
    )
