"""The cache of sessions: what it keeps, what it forgets, what it must never keep."""

from dataclasses import replace
from datetime import timedelta

import pytest

from authsvc.core.lib.ids import uuid7
from authsvc.core.sessions.cache import CachedSession, SessionCache
from authsvc.models.ids import SessionId, UserId
from tests.support.clock import FakeClock
from tests.support.tokens import make_session


def _entry(clock: FakeClock, user_id: UserId | None = None) -> CachedSession:
    session_id = SessionId(uuid7(clock.now()))
    session = make_session(clock)
    session = replace(session, session_id=session_id, user_id=user_id or UserId(session_id))
    return CachedSession(session, session_id.bytes, clock.now(), clock.now() + timedelta(days=1))


def _put(cache: SessionCache, *entries: CachedSession) -> None:
    with cache.loading() as loading:
        for entry in entries:
            loading.keep(entry)


def test_the_least_recently_used_is_forgotten(clock: FakeClock) -> None:
    cache = SessionCache(3)
    first, second, third, fourth = (_entry(clock) for _ in range(4))
    _put(cache, first, second, third)
    assert cache.by_token(first.token_hash) is first
    assert cache.by_id(second.session.session_id) is second
    _put(cache, fourth)
    assert len(cache) == 3
    assert cache.by_token(third.token_hash) is None
    assert cache.by_id(third.session.session_id) is None
    assert cache.by_token(first.token_hash) is first


def test_it_stays_bounded_in_every_index(clock: FakeClock) -> None:
    cache = SessionCache(10)
    for _ in range(100):
        _put(cache, _entry(clock))
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 10
    cache.drop_all()
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 0


def test_a_newer_reading_takes_the_place_of_the_older(clock: FakeClock) -> None:
    cache = SessionCache(10)
    old = _entry(clock)
    new = CachedSession(old.session, old.token_hash, old.touch_time, old.slide_time)
    _put(cache, old, new)
    assert cache.by_token(old.token_hash) is new
    assert cache.by_id(old.session.session_id) is new
    assert len(cache) == 1


def test_size_0_keeps_nothing(clock: FakeClock) -> None:
    cache = SessionCache(0)
    entry = _entry(clock)
    _put(cache, entry)
    assert cache.by_token(entry.token_hash) is None
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 0


def test_all_sessions_of_a_user_are_dropped_and_no_others(clock: FakeClock) -> None:
    cache = SessionCache(10)
    user_id = UserId(uuid7(clock.now()))
    own, other = [_entry(clock, user_id) for _ in range(2)], _entry(clock)
    _put(cache, *own, other)
    cache.drop_user(user_id)
    assert [cache.by_token(entry.token_hash) for entry in own] == [None, None]
    assert cache.by_token(other.token_hash) is other


def test_a_reading_that_ended_is_not_remembered(clock: FakeClock) -> None:
    cache = SessionCache(10)
    _put(cache, _entry(clock))
    with pytest.raises(RuntimeError), cache.loading():
        raise RuntimeError
    assert cache._loadings == set()
