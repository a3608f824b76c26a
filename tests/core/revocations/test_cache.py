"""The cache of sessions: what it keeps, what it evicts, and what it must never keep."""

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
    return CachedSession(
        session=session,
        token_hash=session_id.bytes,
        touch_time=clock.now(),
        slide_time=clock.now() + timedelta(days=1),
    )


def _put(cache: SessionCache, *entries: CachedSession) -> None:
    with cache.loading() as loading:
        for entry in entries:
            loading.keep(entry)


def test_least_recently_used_entry_is_evicted(clock: FakeClock) -> None:
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


def test_every_index_stays_bounded(clock: FakeClock) -> None:
    cache = SessionCache(10)
    for _ in range(100):
        _put(cache, _entry(clock))
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 10
    cache.drop_all()
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 0


def test_newer_reading_replaces_older_one(clock: FakeClock) -> None:
    cache = SessionCache(10)
    old = _entry(clock)
    new = CachedSession(
        session=old.session,
        token_hash=old.token_hash,
        touch_time=old.touch_time,
        slide_time=old.slide_time,
    )
    _put(cache, old, new)
    assert cache.by_token(old.token_hash) is new
    assert cache.by_id(old.session.session_id) is new
    assert len(cache) == 1


def test_size_zero_disables_cache(clock: FakeClock) -> None:
    cache = SessionCache(0)
    entry = _entry(clock)
    _put(cache, entry)
    assert cache.by_token(entry.token_hash) is None
    assert len(cache) == len(cache._by_id) == len(cache._ids_of_user) == 0


def test_user_eviction_drops_only_their_sessions(clock: FakeClock) -> None:
    cache = SessionCache(10)
    user_id = UserId(uuid7(clock.now()))
    own, other = [_entry(clock, user_id) for _ in range(2)], _entry(clock)
    _put(cache, *own, other)
    cache.drop_user(user_id)
    assert [cache.by_token(entry.token_hash) for entry in own] == [None, None]
    assert cache.by_token(other.token_hash) is other


def test_finished_reading_is_not_tracked(clock: FakeClock) -> None:
    cache = SessionCache(10)
    _put(cache, _entry(clock))
    with pytest.raises(RuntimeError), cache.loading():
        raise RuntimeError
    assert cache._loadings == set()
