"""Owns how a message reaches its user, and the states of its delivery."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from authsvc.models.ids import UserId


class Delivery(StrEnum):
    """Whether a new code is sent or returned; RETURN requires the role issuer."""

    SEND = "send"
    RETURN = "return"


class MessageState(StrEnum):
    """The delivery state of a message."""

    PENDING = "pending"
    SENT = "sent"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message without its content.

    `last_error` says why the last attempt failed: a word and, if a mail server refused it, its code
    and text without addresses, as in `recipient_refused: 550 5.1.1 No such user`.
    """

    message_id: UUID
    kind: str
    user_id: UserId | None
    state: MessageState
    attempts: int
    create_time: datetime
    next_time: datetime
    end_time: datetime | None
    last_error: str
