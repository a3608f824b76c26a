"""Owns what a user's identity at another provider is."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's identity at a provider; `email` is the address that the provider named last."""

    provider: str
    subject: str
    email: str = field(repr=False)
    create_time: datetime
    last_use_time: datetime
