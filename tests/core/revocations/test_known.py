"""What a process knows of the revocation log: exactly the transactions that it has read."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from authsvc.core.revocations.known import KnownRevocations
from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position

_RUN = UUID(int=7)


def _position(xmax: int, *in_progress: int, partial: tuple[int, int] | None = None) -> Position:
    return Position(_RUN, xmax, in_progress, datetime(2030, 1, 1, tzinfo=UTC), partial)


def test_nothing_is_known_before_the_first_read_but_no_cursor_needs_nothing() -> None:
    known = KnownRevocations()
    assert not known.lack(None)
    assert known.lack(RevocationCursor(_RUN, 5))


def test_transactions_that_the_snapshot_shows_as_ended_are_known() -> None:
    known = KnownRevocations()
    known.advance(_position(10, 4, 8))
    found = {number for number in range(12) if not known.lack(RevocationCursor(_RUN, number))}
    assert found == {0, 1, 2, 3, 5, 6, 7, 9}
    known.advance(_position(12, 8))
    assert not known.lack(RevocationCursor(_RUN, 4))
    assert known.lack(RevocationCursor(_RUN, 8))


def test_cursor_of_another_run_is_unknown_however_small() -> None:
    known = KnownRevocations()
    known.advance(_position(10))
    assert known.lack(RevocationCursor(uuid4(), 1))
