"""Owns the revocation log: appending to it, and how its rows are read."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import asyncpg

from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import Kind, Revocation
from authsvc.store.doorbell import Channel, ring_after_commit
from authsvc.store.log_reading import Log
from authsvc.store.postgres.connector import Connection

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


def _revocation(record: asyncpg.Record) -> Revocation:
    kind, _, identifier = record["subject"].partition(":")
    return Revocation(cast("Kind", kind), identifier)


LOG = Log(
    table="revocations",
    key="revocation_id",
    first_key=0,
    columns="""concat_ws(':',
        CASE WHEN session_id IS NOT NULL THEN 'session'
             WHEN user_id IS NOT NULL THEN 'user'
             WHEN api_key_id IS NOT NULL THEN 'api_key'
             ELSE 'key' END,
        session_id, user_id, api_key_id, key_id) AS subject""",
    parse=_revocation,
)
