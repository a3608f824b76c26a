"""When a stream is given up, and how long the next one waits."""

from datetime import timedelta

import pytest

from authsvc.client.errors import CursorTooOld, Overloaded, ServiceUnavailable
from authsvc.client.following import Following
from authsvc.client.knowledge import Knowledge
from authsvc.v1.session_service_pb2 import WatchRevocationsResponse


@pytest.fixture
def knowledge() -> Knowledge:
    return Knowledge()


@pytest.fixture
def following(knowledge: Knowledge) -> Following:
    return Following(knowledge)


def response(
    known_until: float, *, complete: bool = True, cursor: str = "c"
) -> WatchRevocationsResponse:
    answer = WatchRevocationsResponse(cursor=cursor, complete=complete)
    answer.known_until_time.FromNanoseconds(round(known_until * 1_000) * 1_000_000)
    return answer


def test_stream_continues_at_the_last_cursor(following: Following) -> None:
    assert following.open(10.0).cursor == ""
    assert following.receive(response(500.0, complete=False, cursor="one"), 10.1)
    assert following.receive(response(500.2, cursor="two"), 10.3)
    following.end(ServiceUnavailable(), 10.4)
    assert following.open(11.0).cursor == "two"


def test_outdated_cursor_begins_anew(following: Following, knowledge: Knowledge) -> None:
    following.open(10.0)
    following.receive(response(500.0), 10.1)
    following.end(None, 10.2)
    following.open(10.3)
    following.end(CursorTooOld(), 10.4)
    assert knowledge.known_until.time == float("-inf")
    assert following.open(10.5).cursor == ""


def test_silence_ends_a_stream_after_a_second(following: Following) -> None:
    following.open(10.0)
    assert following.silent_at() == 13.0
    following.receive(response(500.0), 10.1)
    assert following.silent_at() == 11.1


def test_stream_that_lags_for_two_seconds_is_given_up(following: Following) -> None:
    following.open(10.0)
    assert following.receive(response(500.0), 10.1)
    # The database's clock was set back by a minute.
    assert following.receive(response(440.3), 11.2)
    assert following.receive(response(441.3), 12.2)
    assert not following.receive(response(442.3), 13.2)


def test_stream_that_catches_up_in_time_is_kept(following: Following) -> None:
    following.open(10.0)
    assert following.receive(response(500.0), 10.1)
    assert following.receive(response(500.1), 11.2)
    assert following.receive(response(502.0), 12.2)
    assert following.receive(response(502.1), 13.3)
    assert following.receive(response(504.9), 15.2)


def test_long_list_does_not_count_as_lagging(following: Following) -> None:
    following.open(10.0)
    for second in range(1, 30):
        assert following.receive(response(500.0, complete=False), 10.0 + second)


def test_stream_whose_clock_was_set_forward_is_given_up(following: Following) -> None:
    following.open(10.0)
    assert following.receive(response(500.0), 10.1)
    assert not following.receive(response(560.0), 10.3)


def test_stream_is_renewed_within_five_minutes(following: Following) -> None:
    following.open(10.0)
    assert following.receive(response(500.0), 10.1)
    assert following.receive(response(730.0), 240.1)
    assert not following.receive(response(800.0), 310.1)


def waits(following: Following, error: Exception | None, count: int) -> list[float]:
    """Return the waits after streams that bring nothing."""
    found = []
    for _ in range(count):
        following.open(10.0)
        found.append(following.end(error, 10.1))
    return found


def test_waits_grow_to_five_seconds_and_differ() -> None:
    firsts, lasts = [], []
    for _ in range(200):
        found = waits(Following(Knowledge()), ServiceUnavailable(), 12)
        firsts.append(found[0])
        lasts.append(found[-1])
    assert max(firsts) <= 0.1
    assert 4.5 < max(lasts) <= 5.0
    # A thousand verifiers come back over the whole span.
    assert min(lasts) < 0.5
    assert len(set(lasts)) == 200


def test_wait_of_the_service_is_respected(following: Following) -> None:
    error = Overloaded()
    error.retry_after = timedelta(seconds=7)
    assert all(wait >= 7 for wait in waits(following, error, 3))


def test_good_stream_resets_the_waits_and_short_ones_do_not() -> None:
    good, flapping = [], []
    for _ in range(100):
        following = Following(Knowledge())
        waits(following, ServiceUnavailable(), 12)
        following.open(10.0)
        following.receive(response(500.0), 10.1)
        good.append(following.end(None, 16.0))
        following = Following(Knowledge())
        for _ in range(12):
            following.open(10.0)
            following.receive(response(500.0), 10.1)
            last = following.end(None, 10.2)
        flapping.append(last)
    assert max(good) <= 0.1
    assert max(flapping) > 2
