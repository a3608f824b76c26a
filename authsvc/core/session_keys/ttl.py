"""Owns the bounds of the lifetimes that callers ask for."""

from datetime import timedelta

from authsvc.errors import FieldInvalid

_SHORTEST = timedelta(seconds=1)


def bounded_ttl(requested: timedelta | None, longest: timedelta) -> timedelta:
    """Return the requested lifetime, or the longest if none is.

    Raises:
        FieldInvalid: It is shorter than a second, or longer than the longest.
    """
    if requested is None:
        return longest
    if not _SHORTEST <= requested <= longest:
        raise FieldInvalid("ttl", f"must be from 1 to {int(longest.total_seconds())} seconds")
    return requested
