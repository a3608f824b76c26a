"""Owns how long a statement of a migration takes at the size of its table: a range, from rates.

The rates were measured on a busy machine with two cores and a fast disk (docs/decisions/0029). The
shorter time of a range is a third of what they say, for an idle machine; the longer one is ten
times as long, for a slow disk.
"""

from dataclasses import dataclass

from authsvc.models.upgrades import TableEffect, TableSize, Work

_FASTER = 3
_SLOWER = 10
# Seconds for a statement that touches no rows.
_CATALOG = 0.003
# Bytes a second.
SCAN_RATE = 1_000_000_000
# Rows a second.
INDEX_RATE = 400_000
# Rows a second, divided by one more than the table has indexes.
REWRITE_RATE = 450_000
ROWS_RATE = 75_000
# Bytes of an index for a row.
_INDEX_BYTES = 60


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
    seconds = _CATALOG + _on_rows(effect.work, size)
    return Seconds(seconds / _FASTER, seconds * _SLOWER)


def _on_rows(work: Work, size: TableSize) -> float:
    match work:
        case Work.SCAN:
            return size.bytes / SCAN_RATE
        case Work.INDEX:
            return size.rows / INDEX_RATE
        case Work.REWRITE:
            return size.rows * (1 + size.indexes) / REWRITE_RATE
        case Work.ROWS:
            return size.rows * (1 + size.indexes) / ROWS_RATE
        case Work.NONE:
            return 0.0


def bytes_for(effect: TableEffect, size: TableSize) -> int:
    """Return about how many bytes of disk are needed: for a second copy, or for an index.

    The log of changes comes on top, about as much again.
    """
    match effect.work:
        case Work.REWRITE | Work.ROWS:
            return size.bytes + size.rows * size.indexes * _INDEX_BYTES
        case Work.INDEX:
            return size.rows * _INDEX_BYTES
        case Work.SCAN | Work.NONE:
            return 0
