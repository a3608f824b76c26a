"""Owns how a message reaches its user, and what became of it."""

from enum import StrEnum


class Delivery(StrEnum):
    """What becomes of a code that is made; RETURN is for callers with the role issuer."""

    SEND = "send"
    RETURN = "return"


class MessageState(StrEnum):
    """What became of a message so far."""

    PENDING = "pending"
    SENT = "sent"
    ABANDONED = "abandoned"
