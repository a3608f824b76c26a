"""Owns how a message reaches its user."""

from enum import StrEnum


class Delivery(StrEnum):
    """What becomes of a code that is made; RETURN is for callers with the role issuer."""

    SEND = "send"
    RETURN = "return"
