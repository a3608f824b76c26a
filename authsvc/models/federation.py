"""Owns the domain value of a user's identity at an external provider."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's identity at a provider; `email` is the address that the provider last reported."""

    provider: str
    subject: str
    email: str = field(repr=False)
    create_time: datetime
    last_use_time: datetime
