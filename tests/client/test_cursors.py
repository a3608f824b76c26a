"""Cursors as the client reads them: the same as the service writes, and compared as a snapshot."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from authsvc.client import cursors
from authsvc.core.revocations import cursors as theirs
from authsvc.models.revocations import RevocationCursor
from authsvc.store.log_reading import Position

RUN = uuid4()


def watched(xmax: int, *in_progress: int, run: UUID = RUN) -> cursors.WatchCursor:
    position = Position(
        run_id=run,
        xmax=xmax,
        in_progress=in_progress,
        read_time=datetime(2026, 11, 27, tzinfo=UTC),
        partial=None,
    )
    return cursors.read_watch_cursor(theirs.write_watch_cursor(theirs.WatchCursor(position)))


def revoked(transaction: int, run: UUID = RUN) -> cursors.RevocationCursor:
    text = theirs.write_revocation_cursor(RevocationCursor(run, transaction))
    return cursors.read_revocation_cursor(text)


def test_cursors_of_the_service_are_read() -> None:
    assert watched(2**63, 5, 7) == cursors.WatchCursor(RUN.bytes, 2**63, frozenset({5, 7}))
    assert revoked(2**40) == cursors.RevocationCursor(RUN.bytes, 2**40)


def test_finished_transactions_are_known() -> None:
    known = watched(100, 40, 90)
    assert [known.knows(revoked(number)) for number in (1, 39, 41, 99)] == [True] * 4
    assert [known.knows(revoked(number)) for number in (40, 90, 100, 101)] == [False] * 4


def test_nothing_of_another_run_is_known() -> None:
    assert not watched(100).knows(revoked(1, run=uuid4()))


@pytest.mark.parametrize("text", ["", "A", "AA==", "é", "AQ", "Ag", "A" * 34, "Ag" + "A" * 100])
def test_other_texts_are_not_cursors(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cursors.read_revocation_cursor(text)
    with pytest.raises(ValueError, match=r"."):
        cursors.read_watch_cursor(text)


def test_kinds_of_cursors_are_not_confused() -> None:
    with pytest.raises(ValueError, match="watcher"):
        cursors.read_watch_cursor(theirs.write_revocation_cursor(RevocationCursor(RUN, 1)))
