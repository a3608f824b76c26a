"""Owns the rows that say since when keys of the keyring and peppers have been in use."""

from datetime import datetime

from authsvc.store.postgres.connector import Connection

# Whichever replica was first, by the clock of the database; a row changes nothing after that.
_NOTE = """
INSERT INTO key_first_uses AS known (kind, key_id, first_use_time)
VALUES ('keyring', $1, $3), ('pepper', $2, $3)
ON CONFLICT (kind, key_id) DO UPDATE
SET first_use_time = least(known.first_use_time, excluded.first_use_time)
RETURNING kind, first_use_time
"""


async def note(
    connection: Connection, key_id: str, pepper_id: str, now: datetime
) -> tuple[datetime, datetime]:
    """Note that a key and a pepper are in use; return since when they have been."""
    rows = await connection.fetch(_NOTE, key_id, pepper_id, now)
    times: dict[str, datetime] = {row["kind"]: row["first_use_time"] for row in rows}
    return times["keyring"], times["pepper"]
