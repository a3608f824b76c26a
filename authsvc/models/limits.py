"""Owns the domain values of rate limiting: policies, charges and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from authsvc.models.definitions import DefinedIn

# Names that start with this are those of the service's own policies.
OWN_PREFIX = "authsvc."
MAX_REQUESTS = 1_000_000_000
# What is left of no limit: the largest number that every client can read.
UNLIMITED = 2**53 - 1


class Algorithm(StrEnum):
    """How a rate-limit policy counts."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - an algorithm's name
    SLIDING_WINDOW = "sliding_window"
    FIXED_WINDOW = "fixed_window"


@dataclass(frozen=True, slots=True)
class Policy:
    """A named limit: `requests` per `window`, and at most `burst` in any one second (0: no cap).

    A crash of the database loses at most the last second of counts if the policy is `durable`, and
    all of them otherwise. With 0 `requests` nothing is ever allowed; with `unlimited` everything
    is, whatever the numbers. A `shadow` policy counts and reports, but refuses nothing.
    """

    name: str
    requests: int
    window: timedelta
    burst: int = 0
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET
    durable: bool = False
    unlimited: bool = False
    shadow: bool = False
    defined_in: DefinedIn = DefinedIn.SETTINGS


class Effect(StrEnum):
    """What an override does."""

    ALLOW = "allow"
    DENY = "deny"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True)
class Override:
    """What holds for one key in place of its policy's numbers, until it expires if it does.

    `requests`, `window` (None: the policy's) and `burst` count for the effect NUMBERS only.
    """

    policy: str
    key: str
    effect: Effect
    requests: int = 0
    window: timedelta | None = None
    burst: int = 0
    expire_time: datetime | None = None
    note: str = ""


class Charge(NamedTuple):
    """A charge of `cost` units to `key` under `policy`.

    A tuple, because a frozen dataclass takes four times as long to create and a batch can hold a
    thousand.
    """

    policy: str
    key: str
    cost: int = 1


class Verdict(NamedTuple):
    """The state of a key under a policy; times are in seconds.

    `limit` is the most that can be available at once: the policy's requests or, if `is_burst`, its
    burst, which is lower; UNLIMITED if there is none. `retry_after` is 0 if the charge fits and
    None if it never can. `shadow_rejected` means that it is allowed only because its policy is a
    shadow. A tuple, like `Charge`.
    """

    policy: str
    key: str
    allowed: bool
    limit: int
    remaining: int
    retry_after: float | None
    reset_after: float
    is_burst: bool = False
    shadow_rejected: bool = False


class CheckResult(NamedTuple):
    """The outcome of a check: `allowed` only if all of its charges are."""

    allowed: bool
    verdicts: Sequence[Verdict]
