"""Owns how long a statement of a migration takes at the size of its table: a range, from rates.

The rates were measured on an idle server with a fast disk (docs/decisions/0029). The shorter time
of a range is for such a server; the longer one for a tenth of its speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from authsvc.models.upgrades import TableEffect, TableSize, Work

# How many times longer it may take on a slow or busy server.
_SLOWER = 10
# What a statement takes that touches no rows: seconds.
_CATALOG = 0.002
_MEGABYTE = 1_000_000

# Bytes a second.
RATES_BY_BYTES: Mapping[Work, float] = MappingProxyType(
    {Work.SCAN: 1_000 * _MEGABYTE, Work.REWRITE: 100 * _MEGABYTE}
)
# Rows a second.
RATES_BY_ROWS: Mapping[Work, float] = MappingProxyType(
    {Work.INDEX: 1_000_000.0, Work.ROWS: 50_000.0}
)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A range of time, in seconds."""

    least: float
    most: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.least + other.least, self.most + other.most)


NO_TIME = Seconds(0.0, 0.0)


def seconds_for(effect: TableEffect, size: TableSize) -> Seconds:
    """Return how long what a statement does to a table takes."""
    seconds = _CATALOG
    if effect.work in RATES_BY_BYTES:
        seconds += size.bytes / RATES_BY_BYTES[effect.work]
    elif effect.work in RATES_BY_ROWS:
        seconds += size.rows / RATES_BY_ROWS[effect.work]
    return Seconds(seconds, seconds * _SLOWER)


def bytes_for(effect: TableEffect, size: TableSize) -> int:
    """Return about how many bytes of disk are needed: for a second copy, or for an index.

    The log of changes comes on top, about as much again.
    """
    match effect.work:
        case Work.REWRITE:
            return size.bytes
        case Work.INDEX:
            return size.rows * 60
        case Work.ROWS:
            return size.bytes
        case _:
            return 0
