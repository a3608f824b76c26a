"""Owns the export of users to a file that the import can read."""

import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.passwords.hashing import PasswordHash
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.users import UserStatus
from authsvc.store import user_transfer
from authsvc.store.postgres.database import Database
from authsvc.store.user_transfer import UserRow

_BATCH_ROWS = 1_000


class ExportedUser(NamedTuple):
    """A user in an export; `line` is a JSON object in a line of its own (see `import_rows`)."""

    user_id: UserId
    line: bytes


class UserExport:
    """Exports users, with their password hashes: the file is as secret as the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(
        self, call: Call, *, with_passwords: bool, after: UserId | None = None
    ) -> AsyncGenerator[ExportedUser, None]:
        """Yield all users in order of their ids, or those after one, to go on with an export.

        Second factors, identities and sessions are not included. The export is recorded before the
        first user. Users created or deleted in the meantime may or may not be included.
        """
        detail = {"with_passwords": with_passwords} | ({"resumed": True} if after else {})
        event = AuditEvent(AuditType.USERS_EXPORT, call, detail=detail)
        async with self._database.transaction() as connection:
            await record_event(connection, self._clock.now(), event)
        last = after
        while True:
            async with self._database.connection() as connection:
                rows = await user_transfer.list_after(connection, last, _BATCH_ROWS)
            for row in rows:
                yield ExportedUser(row.user_id, _line(row, with_passwords=with_passwords))
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
