"""How long statements take: more for more rows, and nothing for what touches no rows."""

from dataclasses import replace

import pytest

from authsvc.core.upgrades.estimates import (
    NO_TIME,
    Seconds,
    bytes_for,
    seconds_for,
)
from authsvc.models.upgrades import Lock, TableEffect, TableSize, Work

_LARGE = TableSize(rows=10_000_000, bytes=4_000_000_000, indexes=2)
_SMALL = TableSize(rows=10, bytes=8_192, indexes=2)


def _effect(work: Work) -> TableEffect:
    return TableEffect(Lock.ACCESS_EXCLUSIVE, work)


@pytest.mark.parametrize("work", [each for each in Work if each is not Work.NONE])
def test_work_on_rows_takes_longer_the_more_there_are(work: Work) -> None:
    large, small = seconds_for(_effect(work), _LARGE), seconds_for(_effect(work), _SMALL)
    assert large.least > 1 > small.most
    assert large.least < large.most


@pytest.mark.parametrize("work", [Work.ROWS, Work.REWRITE])
def test_each_index_makes_new_rows_dearer(work: Work) -> None:
    more = replace(_LARGE, indexes=20)
    assert seconds_for(_effect(work), more).least > 5 * seconds_for(_effect(work), _LARGE).least


def test_work_on_the_catalog_alone_takes_the_same_at_any_size() -> None:
    assert seconds_for(_effect(Work.NONE), _LARGE) == seconds_for(_effect(Work.NONE), _SMALL)


def test_times_add_up() -> None:
    assert Seconds(1, 10) + Seconds(2, 20) + NO_TIME == Seconds(3, 30)


def test_disk_is_needed_for_copies_and_indexes_only() -> None:
    needed = {work: bytes_for(_effect(work), _LARGE) for work in Work}
    assert needed[Work.REWRITE] == needed[Work.ROWS] > _LARGE.bytes
    assert 0 < needed[Work.INDEX] < _LARGE.bytes
    assert needed[Work.NONE] == needed[Work.SCAN] == 0
