"""UUIDv7: the layout of RFC 9562, ordering and uniqueness."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.lib.ids import uuid7

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = st.timedeltas(timedelta(0), timedelta(days=365 * 8_000)).map(lambda age: _EPOCH + age)


@pytest.mark.slow
@given(_TIMES)
def test_id_encodes_time_in_milliseconds(now: datetime) -> None:
    made = uuid7(now)
    assert made.int >> 80 == (now - _EPOCH) // timedelta(milliseconds=1)
    assert (made.version, made.variant) == (7, RFC_4122)


@given(st.lists(_TIMES, min_size=2, max_size=50))
def test_ids_sort_by_time(times: list[datetime]) -> None:
    made = [uuid7(time) for time in sorted(times)]
    milliseconds = [identifier.int >> 80 for identifier in made]
    assert milliseconds == sorted(milliseconds)


def test_ids_within_one_millisecond_are_unique_and_ascending() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    made = [uuid7(now) for _ in range(10_000)]
    assert made == sorted(set(made))
    assert {identifier.version for identifier in made} == {7}
    assert {identifier.variant for identifier in made} == {RFC_4122}


def test_threads_never_generate_same_id() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    made: list[list[UUID]] = [[] for _ in range(4)]

    def make(own: list[UUID]) -> None:
        own.extend(uuid7(now) for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(own,)) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identifier for own in made for identifier in own}) == 20_000


def test_id_is_not_predictable_from_another() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    tails = {uuid7(start + timedelta(milliseconds=n)).int & ((1 << 62) - 1) for n in range(1_000)}
    assert len(tails) == 1_000
