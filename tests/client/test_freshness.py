"""How much a watcher knows, whatever the two clocks show and however late responses are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.client.freshness import KnownUntil

NEVER = float("-inf")


def test_nothing_is_known_before_a_complete_response() -> None:
    known = KnownUntil()
    assert known.time == NEVER
    known.open(10.0)
    known.receive(5000.0, is_complete=False, now=10.5)
    assert known.time == NEVER


def test_first_response_tells_what_was_known_at_the_request() -> None:
    known = KnownUntil()
    known.open(10.0)
    known.receive(5000.0, is_complete=True, now=12.0)
    assert known.time == 10.0


def test_later_responses_are_dated_by_the_databases_clock() -> None:
    known = KnownUntil()
    known.open(10.0)
    known.receive(5000.0, is_complete=False, now=10.1)
    known.receive(5000.5, is_complete=True, now=10.6)
    assert known.time == 10.5
    # Late: sent at 10.75, on its way for five seconds.
    known.receive(5000.75, is_complete=True, now=15.75)
    assert known.time == 10.75


def test_new_stream_is_dated_anew_and_knowledge_never_shrinks() -> None:
    known = KnownUntil()
    known.open(10.0)
    known.receive(5000.0, is_complete=True, now=10.1)
    known.receive(5003.0, is_complete=True, now=13.1)
    known.open(20.0)
    assert known.time == 13.0
    # The database's clock was set back meanwhile.
    known.receive(3000.0, is_complete=True, now=20.2)
    assert known.time == 20.0


def test_clock_set_forward_is_noticed_and_nothing_is_known_from_the_future() -> None:
    known = KnownUntil()
    known.open(10.0)
    assert known.receive(5000.0, is_complete=True, now=10.1)
    assert not known.receive(5060.0, is_complete=True, now=10.4)
    assert known.time == 10.4


def test_clock_set_back_ages_what_is_known() -> None:
    known = KnownUntil()
    known.open(10.0)
    known.receive(5000.0, is_complete=True, now=10.1)
    known.receive(4990.0, is_complete=True, now=10.4)
    assert known.time == 10.0


@pytest.mark.parametrize("until", [float("nan"), float("-inf"), -1e18])
def test_absurd_times_add_nothing(until: float) -> None:
    known = KnownUntil()
    known.open(10.0)
    known.receive(5000.0, is_complete=True, now=10.1)
    known.receive(until, is_complete=True, now=10.4)
    assert known.time == 10.0


@given(
    offset=st.floats(-1e9, 1e9),
    sent=st.floats(0, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=20),
)
def test_it_never_claims_more_than_was_sent(
    offset: float, sent: float, steps: list[tuple[float, float]]
) -> None:
    known = KnownUntil()
    known.open(sent)
    read = sent
    arrived = sent
    for pause, delay in steps:
        # The service reads its log at `read`, and the response arrives later, in order.
        read += pause
        arrived = max(arrived, read + delay)
        known.receive(read + offset, is_complete=True, now=arrived)
        assert known.time <= read + 1e-3
