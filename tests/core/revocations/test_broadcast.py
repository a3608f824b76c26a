"""The broadcast: a place is found from which nothing is missing, or none."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from authsvc.core.revocations import broadcast as module
from authsvc.core.revocations.broadcast import Broadcast, Sent
from authsvc.store.log_reading import Position

_RUN = UUID(int=1)
_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _at(xmax: int, *in_progress: int, run: UUID = _RUN) -> Position:
    return Position(run, xmax, in_progress, _TIME)


def _filled(*ends: int) -> Broadcast[int]:
    broadcast: Broadcast[int] = Broadcast()
    broadcast.restart(_at(10))
    for end in ends:
        broadcast.append(Sent(end, 1, _at(end), _at(end)))
    return broadcast


def _next(broadcast: Broadcast[int], position: Position) -> list[int] | None:
    """Return the messages that a watcher at a position is sent."""
    number = broadcast.find(position)
    if number is None:
        return None
    return [broadcast.get(each).message for each in range(number, broadcast.end)]


def test_watcher_goes_on_where_nothing_is_missing() -> None:
    broadcast = _filled(20, 30)
    assert _next(broadcast, _at(9)) is None
    assert _next(broadcast, _at(10)) == [20, 30]
    assert _next(broadcast, _at(15)) == [20, 30]
    assert _next(broadcast, _at(20)) == [30]
    assert _next(broadcast, _at(30, 25)) == [30]
    assert _next(broadcast, _at(30)) == []
    assert _next(broadcast, _at(40, 5)) is None
    assert _next(broadcast, _at(20, run=uuid4())) is None
    assert _next(Broadcast(), _at(20)) is None


def test_whoever_has_some_of_several_messages_to_an_end_is_sent_all_again() -> None:
    broadcast = _filled(20)
    for message, reached in ((1, 20), (2, 20), (30, 30)):
        broadcast.append(Sent(message, 1, _at(reached), _at(30)))
    assert _next(broadcast, _at(20)) == [1, 2, 30]
    assert broadcast.position == _at(30)


@pytest.mark.parametrize("limit", ["_MAX_MESSAGES", "_MAX_REVOCATIONS"])
def test_oldest_messages_are_dropped(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(module, limit, 2)
    broadcast = _filled(20, 30, 40)
    assert (broadcast.first, broadcast.end) == (broadcast.end - 2, broadcast.first + 2)
    assert not broadcast.is_gap(broadcast.first - 1)
    assert _next(broadcast, _at(10)) is None
    assert _next(broadcast, _at(20)) == [30, 40]
    # Nobody goes on in the middle of several messages to one end.
    for message, reached in ((1, 40), (2, 40), (50, 50)):
        broadcast.append(Sent(message, 1, _at(reached), _at(50)))
    assert _next(broadcast, _at(40)) is None


def test_places_from_before_a_restart_are_gaps() -> None:
    broadcast = _filled(20)
    waiting = broadcast.end
    broadcast.restart(_at(50))
    assert broadcast.is_gap(waiting)
    assert not broadcast.is_gap(broadcast.end)
    assert _next(broadcast, _at(20)) is None
    assert _next(broadcast, _at(50)) == []
