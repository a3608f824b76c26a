"""Owns how commands read times, spans of time, and networks from their options."""

from datetime import UTC, datetime

from authsvc.cli.output import fail
from authsvc.config import durations
from authsvc.core.lib.networks import parse_network


def time_of(text: str, option: str, now: datetime | None) -> datetime:
    """Return a time as in RFC 3339 or, given `now`, that of a duration before it, in UTC."""
    try:
        time = datetime.fromisoformat(text)
        # Of a time at the edge of the calendar, UTC may be beyond it.
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    if now is None:
        fail(f"{option}: expected a time such as 2026-01-31T12:00:00Z")
    try:
        return now - durations.parse(text)
    except (ValueError, OverflowError):
        fail(f"{option}: expected a time such as 2026-01-31T12:00:00Z, or a duration such as 2h")


def span_of(
    start: tuple[str, str | None], end: tuple[str, str | None], now: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """Return the times of two options, each given by its name and its value, if it has one.

    The command ends if nothing lies between them: whoever turned them round should be told, and
    not that nothing was found.
    """
    (first, since), (last, until) = start, end
    begins = None if since is None else time_of(since, first, now)
    ends = None if until is None else time_of(until, last, now)
    if begins is not None and ends is not None and begins >= ends:
        fail(f"{first} is not before {last}")
    return begins, ends


def network_of(text: str | None, option: str = "--network") -> str | None:
    """Return a network, or an address as a network of one; end the command if it is neither."""
    if text is None:
        return None
    try:
        return parse_network(text)
    except ValueError:
        fail(f"{option}: expected an address or a network without bits beyond its prefix")
