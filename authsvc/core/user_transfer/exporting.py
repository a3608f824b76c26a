"""Owns the export of users, as a file that the import takes back."""

import json
from collections.abc import AsyncIterator
from typing import Any

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.passwords.hashing import PasswordHash
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.users import UserStatus
from authsvc.store import user_import
from authsvc.store.postgres.database import Database
from authsvc.store.user_import import UserRow

_BATCH_ROWS = 1_000


class UserExport:
    """Gives back users, with their password hashes: as secret as the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def lines(self, call: Call, *, with_passwords: bool) -> AsyncIterator[bytes]:
        """Yield all users in the order of their ids: a JSON object a line (see `import_rows`).

        Second factors, identities and sessions are not part of it. It is recorded before the first
        line. Users that come or go meanwhile may be in it or not.
        """
        event = AuditEvent(AuditType.USERS_EXPORT, call, detail={"with_passwords": with_passwords})
        async with self._database.transaction() as connection:
            await record_event(connection, self._clock.now(), event)
        last = None
        while True:
            async with self._database.connection() as connection:
                rows = await user_import.list_after(connection, last, _BATCH_ROWS)
            for row in rows:
                yield _line(row, with_passwords=with_passwords)
            if len(rows) < _BATCH_ROWS:
                return
            last = rows[-1].user_id


def _line(row: UserRow, *, with_passwords: bool) -> bytes:
    values: dict[str, Any] = {
        "user_id": str(row.user_id),
        "email": row.email,
        "display_name": row.display_name,
        "email_verified": row.email_verify_time is not None,
        "roles": row.roles,
        "disabled": row.status is not UserStatus.ACTIVE,
        "create_time": row.create_time.isoformat(),
    }
    if with_passwords and row.phc is not None:
        values["password_hash"] = PasswordHash(row.phc, row.pepper_id).portable
        values["pepper_id"] = row.pepper_id
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
