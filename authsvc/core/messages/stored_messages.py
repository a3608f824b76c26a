"""Owns operators' access to messages, which never shows their content or recipients."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from authsvc.core.audit.recording import AuditEvent, AuditType, record_event
from authsvc.core.lib.sealing import Keyring
from authsvc.core.messages.outbox import MessageKind, unseal
from authsvc.models.calls import Call
from authsvc.models.clock import Clock
from authsvc.models.messages import MessageRecord, MessageState
from authsvc.store import outbox
from authsvc.store.postgres.database import Database


class NotRetried(Exception):
    """A message can't be retried; the exception's text says why in one sentence."""


class StoredMessages:
    """Lists messages and retries abandoned ones."""

    def __init__(
        self, *, database: Database, keyring: Keyring, abandon_after: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._abandon_after = abandon_after
        self._clock = clock

    async def list(self, state: MessageState, limit: int) -> Sequence[MessageRecord]:
        """Return the newest messages in this state, at most `limit`."""
        async with self._database.connection() as connection:
            return await outbox.list_in_state(connection, state, limit)

    async def retry(self, call: Call, message_id: UUID) -> None:
        """Make an abandoned message due again, until it is sent or abandoned again.

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
                raise NotRetried("Its code has expired, so it would be useless.")
            await outbox.revive(connection, message_id, now, expire_time)
            detail = {"message_id": str(message_id), "kind": row.kind}
            event = AuditEvent(AuditType.MESSAGE_RETRY, call, user_id=row.user_id, detail=detail)
            await record_event(connection, now, event)
