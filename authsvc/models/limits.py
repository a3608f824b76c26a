"""Owns what rate-limit policies, charges and verdicts are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple


class Algorithm(StrEnum):
    """How a rate-limit policy counts."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - an algorithm's name
    SLIDING_WINDOW = "sliding_window"
    FIXED_WINDOW = "fixed_window"


@dataclass(frozen=True, slots=True)
class Policy:
    """A named limit: `requests` per `window`, and at most `burst` in any one second (0: no cap)."""

    name: str
    requests: int
    window: timedelta
    burst: int = 0
    algorithm: Algorithm = Algorithm.TOKEN_BUCKET


class Charge(NamedTuple):
    """One thing to be counted: `cost` units of `key` under `policy`.

    A tuple, as a frozen dataclass takes four times as long to make, and a batch holds a thousand.
    """

    policy: str
    key: str
    cost: int = 1


class Verdict(NamedTuple):
    """How a key stands with a policy; times in seconds.

    `retry_after` is 0 if the charge fits and None if it never will. A tuple, as `Charge`.
    """

    policy: str
    key: str
    allowed: bool
    limit: int
    remaining: int
    retry_after: float | None
    reset_after: float


class CheckResult(NamedTuple):
    """A check's outcome: `allowed` only if all of its charges are."""

    allowed: bool
    verdicts: Sequence[Verdict]
