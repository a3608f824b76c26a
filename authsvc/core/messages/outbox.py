"""Owns the outbox: messages are written in the same transaction as the change they report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog

from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.sealing import Keyring
from authsvc.models.clock import Clock
from authsvc.models.ids import UserId
from authsvc.models.sealing import MESSAGES
from authsvc.store import outbox
from authsvc.store.postgres.database import Connection

# Somebody who registers another person's address must not be able to flood that mailbox by changing
# the account over and over. Counted per kind, so that many of one kind don't suppress another.
_MAX_NOTICES = 10
_WITHIN = timedelta(hours=1)

log = structlog.get_logger(__name__)


class MessageKind(StrEnum):
    """The subject of a message; the first four kinds carry a code."""

    VERIFY_EMAIL = "verify_email"
    LOGIN_CODE = "login_code"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - a kind's name
    CHANGE_EMAIL = "change_email"
    EMAIL_CHANGE_REQUESTED = "email_change_requested"
    EMAIL_CHANGED = "email_changed"
    EMAIL_IN_USE = "email_in_use"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a kind's name
    FACTOR_ADDED = "factor_added"
    FACTOR_REMOVED = "factor_removed"
    RECOVERY_CODES_GENERATED = "recovery_codes_generated"
    RECOVERY_CODE_USED = "recovery_code_used"
    IDENTITY_LINKED = "identity_linked"
    IDENTITY_UNLINKED = "identity_unlinked"
    API_KEY_CREATED = "api_key_created"
    ACCOUNT_DELETED = "account_deleted"


CODE_KINDS = frozenset(
    {
        MessageKind.VERIFY_EMAIL,
        MessageKind.LOGIN_CODE,
        MessageKind.RESET_PASSWORD,
        MessageKind.CHANGE_EMAIL,
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to the stored address of an account, never to one that was just typed in.

    `code` and `expire_time` are for the kinds that carry a code. `values` holds what else the text
    names, such as `display_name`, `factor`, `provider` or `key_name`. A message with a `user_id` is
    deleted together with the user's row, so the notice of the deletion has none.
    """

    kind: MessageKind
    address: str = field(repr=False)
    user_id: UserId | None
    code: str = field(default="", repr=False)
    expire_time: datetime | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        carries_code = self.kind in CODE_KINDS
        if bool(self.code) != carries_code or (self.expire_time is not None) != carries_code:
            raise ValueError(f"code and expire_time do not match the message kind {self.kind}")


class Outbox:
    """Enqueues messages for delivery, with their content sealed."""

    def __init__(self, keyring: Keyring, abandon_after: timedelta, clock: Clock) -> None:
        self._keyring = keyring
        self._abandon_after = abandon_after
        self._clock = clock

    async def enqueue(self, connection: Connection, message: Message) -> None:
        """Enqueue the message in the caller's transaction; it is sent only if that commits.

        A user gets at most ten notices of one kind per hour; further ones are dropped. Codes are
        limited where they are requested.
        """
        await self._insert(connection, message, decoy=False)

    async def enqueue_decoy(self, connection: Connection, kind: MessageKind) -> None:
        """Do the same work as `enqueue` if there is no recipient; nothing is ever sent."""
        code, expire_time = ("0" * 8, self._clock.now()) if kind in CODE_KINDS else ("", None)
        message = Message(kind, "nobody@invalid", None, code, expire_time)
        await self._insert(connection, message, decoy=True)

    async def _insert(self, connection: Connection, message: Message, *, decoy: bool) -> None:
        now = self._clock.now()
        message_id = uuid7(now)
        last = now + self._abandon_after
        row = outbox.NewMessage(
            message_id=message_id,
            kind=message.kind.value,
            user_id=message.user_id,
            sealed_content=seal(self._keyring, message_id, message),
            create_time=now,
            expire_time=min(last, message.expire_time or last),
            decoy=decoy,
            max_recent=None if message.kind in CODE_KINDS else _MAX_NOTICES,
            since=now - _WITHIN,
        )
        if not await outbox.insert(connection, row):
            log.warning("notice_skipped", kind=row.kind, user_id=str(row.user_id))


def seal(keyring: Keyring, message_id: UUID, message: Message) -> bytes:
    """Return the message's content and address, sealed for its row."""
    content = {
        "address": message.address,
        "code": message.code,
        "expire_time": message.expire_time and message.expire_time.isoformat(),
        "values": dict(message.values),
    }
    return keyring.seal(json.dumps(content).encode(), **MESSAGES.place(message_id))


def unseal(
    keyring: Keyring, message_id: UUID, kind: MessageKind, user_id: UserId | None, sealed: bytes
) -> Message:
    """Return the message of a row.

    Raises:
        SealError: The content was altered, belongs to another row, or its key is not in the
            keyring.
    """
    opened = keyring.open(sealed, **MESSAGES.place(message_id))
    content = json.loads(opened)
    expire_time = content["expire_time"]
    return Message(
        kind=kind,
        address=content["address"],
        user_id=user_id,
        code=content["code"],
        expire_time=datetime.fromisoformat(expire_time) if expire_time else None,
        values=content["values"],
    )
