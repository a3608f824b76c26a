"""Owns what a route does with a token that a verifier can't decide on by itself."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the service, and refuse it if the service does not answer."""


@dataclass(frozen=True, slots=True)
class AcceptStale:
    """Accept it by what was known up to `seconds` ago, and refuse it after that.

    A token whose `min_cursor` is not reached is refused, and so is every token while nothing at all
    is known: before the first complete list of what was revoked has arrived.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError("AcceptStale needs a number of seconds above 0")


WhenDegraded: TypeAlias = Refuse | Ask | AcceptStale
