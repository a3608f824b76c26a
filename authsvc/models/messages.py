"""Owns how a message reaches its user, and the states of its delivery."""

from enum import StrEnum


class Delivery(StrEnum):
    """Whether a new code is sent or returned; RETURN requires the role issuer."""

    SEND = "send"
    RETURN = "return"


class MessageState(StrEnum):
    """The delivery state of a message."""

    PENDING = "pending"
    SENT = "sent"
    ABANDONED = "abandoned"
