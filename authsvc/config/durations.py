"""Owns the spelling of durations: one that is read, written, and stated in the JSON Schema.

A duration is numbers with units from the largest to the smallest, such as `30d`, `1h30m` or
`250ms`. The first number may be any; the others stay below the next larger unit.
"""

import re
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any

_MILLISECOND = timedelta(milliseconds=1)
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))
# A point in time this far from now is still one that Python and PostgreSQL can express.
LONGEST = "36500d"
_EXPECTED = f'a duration such as "250ms", "30s", "1h30m" or "7d", of at most {LONGEST}'


def number(least: int, most: int) -> str:
    """Return a regular expression for the numbers from `least` to `most`, without leading zeros."""
    choices = []
    while least <= most:
        free = 0
        while least and least % 10 ** (free + 1) == 0 and least + 10 ** (free + 1) - 1 <= most:
            free += 1
        step = 10**free
        digit = top = least // step % 10
        while top < 9 and least + (top - digit + 2) * step - 1 <= most:
            top += 1
        stem = least // step // 10
        choices.append(f"{stem or ''}{_digits(digit, top)}{_any_digits(free)}")
        least += (top - digit + 1) * step
    return f"(?:{'|'.join(choices)})"


def _digits(least: int, most: int) -> str:
    return str(least) if least == most else f"[{least}-{most}]"


def _any_digits(count: int) -> str:
    return f"[0-9]{{{count}}}" if count > 1 else "[0-9]" * count


@lru_cache(maxsize=256)
def pattern(least: str, most: str) -> str:
    """Return a regular expression for the durations from `least` to `most`, both included."""
    lowest, highest = (parse(text) // _MILLISECOND for text in (least, most))
    choices = ["0(?:d|h|m|s|ms)"] if lowest == 0 else []
    for at in range(len(_UNITS)):
        choices += _from_unit(at, max(lowest, _UNITS[at][1]), highest)
    return "|".join(choices)


def _from_unit(at: int, least: int, most: int) -> Iterator[str]:
    """Yield expressions for what begins with the unit `at`, from `least` to `most` milliseconds."""
    if least > most:
        return
    unit, size = _UNITS[at]
    (first, above), (last, below) = divmod(least, size), divmod(most, size)
    if first == last:
        yield f"{number(first, first)}{unit}{_rest(at, above, below)}"
        return
    if above:
        yield f"{first}{unit}{_rest(at, above, size - 1)}"
        first += 1
    if below < size - 1:
        yield f"{last}{unit}{_rest(at, 0, below)}"
        last -= 1
    if first <= last:
        yield f"{number(first, last)}{unit}{_rest(at, 0, size - 1)}"


def _rest(at: int, least: int, most: int) -> str:
    """Return an expression for what may follow the unit `at`, in units below it."""
    whole = least == 0 and most == _UNITS[at][1] - 1
    if whole:
        sizes = zip(_UNITS[at:], _UNITS[at + 1 :], strict=False)
        return "".join(
            f"(?:{number(1, larger // size - 1)}{unit})?" for (_, larger), (unit, size) in sizes
        )
    choices = [
        choice
        for lower in range(at + 1, len(_UNITS))
        for choice in _from_unit(lower, max(least, _UNITS[lower][1]), _capped(at, lower, most))
    ]
    return f"(?:{'|'.join(choices)}){'?' if least == 0 else ''}" if choices else ""


def _capped(at: int, lower: int, most: int) -> int:
    # What begins with the unit `lower` stays below the next larger one.
    return most if lower == at + 1 else min(most, _UNITS[lower - 1][1] - 1)


_SPELLING = re.compile(
    r"(?=[0-9])" + "".join(rf"(?:(0|[1-9][0-9]{{0,14}}){unit})?" for unit, _ in _UNITS)
)


def parse(value: Any) -> timedelta:
    """Return the duration that a text spells; raises ValueError with what was expected."""
    found = _SPELLING.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected {_EXPECTED}")
    parts = [(at, int(text)) for at, text in enumerate(found.groups()) if text is not None]
    (_, first), *others = parts
    too_large = any(not 0 < count < _UNITS[at - 1][1] // _UNITS[at][1] for at, count in others)
    milliseconds = sum(count * _UNITS[at][1] for at, count in parts)
    if too_large or (first == 0 and others) or milliseconds > 36_500 * _UNITS[0][1]:
        raise ValueError(f"expected {_EXPECTED}")
    return timedelta(milliseconds=milliseconds)


def text(value: timedelta) -> str:
    """Return how a duration is spelled."""
    left, spelled = value // _MILLISECOND, ""
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        spelled += f"{count}{unit}" if count else ""
    return spelled or "0s"
