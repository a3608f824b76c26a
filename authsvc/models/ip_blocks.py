"""Owns the domain values of blocked addresses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class IpBlock:
    """A block of all addresses in a network; without an `expire_time` it lasts until it is lifted.

    `network` is in CIDR notation, `reason` is for operators, and `blocked_by` the caller; an
    `automatic` block was made by the service after too many violations.
    """

    network: str
    reason: str
    blocked_by: str
    automatic: bool
    create_time: datetime
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A block of a `network`, in CIDR notation; without a `duration` it lasts until it is lifted.

    `confirm_wide` confirms that a network of unusual size is meant.
    """

    network: str
    reason: str
    duration: timedelta | None = None
    confirm_wide: bool = False


@dataclass(frozen=True, slots=True)
class Unblocked:
    """Whether the network was blocked, and the blocks of other networks that still contain it."""

    was_blocked: bool
    remaining: Sequence[IpBlock]


class ScreenReason(StrEnum):
    """Why a screened request is refused."""

    IP_BLOCKED = "IP_BLOCKED"
    RATE_LIMITED = "RATE_LIMITED"


@dataclass(frozen=True, slots=True)
class Screened:
    """The answer on a request: why it is refused, if it is, and after how many seconds to retry.

    `retry_after` is None if it is allowed, or refused without a known end.
    """

    reason: ScreenReason | None = None
    retry_after: float | None = None
