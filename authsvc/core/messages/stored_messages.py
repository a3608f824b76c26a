"""Owns what operators may know of messages and do with them: never what they tell, nor whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring
from authsvc.core.messages.outbox import MessageKind, unseal
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.store import outbox
from authsvc.store.outbox import MessageState
from authsvc.store.postgres.database import Database


class NotRetried(Exception):
    """A message can't be delivered again; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message without its content; `last_error` is a word for why the last attempt failed."""

    message_id: UUID
    kind: str
    user_id: UserId | None
    state: MessageState
    attempts: int
    create_time: datetime
    next_time: datetime
    end_time: datetime | None
    last_error: str


class StoredMessages:
    """Lists messages and lets abandoned ones be delivered after all."""

    def __init__(
        self, database: Database, keyring: Keyring, abandon_after: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._abandon_after = abandon_after
        self._clock = clock

    async def list(self, state: MessageState, limit: int) -> Sequence[MessageRecord]:
        """Return the newest messages in this state, at most `limit`."""
        async with self._database.connection() as connection:
            rows = await outbox.list_in_state(connection, state, limit)
        return [
            MessageRecord(
                message_id=row.message_id,
                kind=row.kind,
                user_id=row.user_id,
                state=row.state,
                attempts=row.attempts,
                create_time=row.create_time,
                next_time=row.next_time,
                end_time=row.end_time,
                last_error=row.last_error,
            )
            for row in rows
        ]

    async def retry(self, call: Call, message_id: UUID) -> None:
        """Let an abandoned message be delivered, from now on until it is abandoned again.

        Raises:
            NotRetried: No abandoned message has this id, or its code has expired.
            SealError: Its key is not in the keyring.
        """
        now = self._clock.now()
        async with self._database.transaction() as connection:
            row = await outbox.lock_abandoned(connection, message_id)
            if row is None:
                raise NotRetried("No abandoned message has this id.")
            kind = MessageKind(row.kind)
            message = unseal(self._keyring, message_id, kind, row.user_id, row.sealed_content)
            last = now + self._abandon_after
            expire_time = min(last, message.expire_time or last)
            if expire_time <= now:
                raise NotRetried("Its code has expired, so that it would be of no use.")
            await outbox.revive(connection, message_id, now, expire_time)
            detail = {"message_id": str(message_id), "kind": row.kind}
            event = AuditEvent(AuditType.MESSAGE_RETRY, call, user_id=row.user_id, detail=detail)
            await record_event(connection, now, event)
