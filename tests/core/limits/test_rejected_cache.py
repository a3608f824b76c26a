"""Which rejected charges are cached, and for how long."""

from collections.abc import Sequence

import pytest

from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.models.limits import Charge, Verdict


class Stopwatch:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def rejections(watch: Stopwatch) -> RejectedCache:
    return RejectedCache(3, watch)


def _verdict(key: str, retry_after: float | None, *, allowed: bool = False) -> Verdict:
    return Verdict("api", key, allowed, 10, 2, 0.0 if allowed else retry_after, 30.0)


def _learn(rejections: RejectedCache, charges: Sequence[Charge], *verdicts: Verdict) -> None:
    with rejections.query() as flight:
        rejections.remember(flight, [(charges, verdicts)])


def _reject(rejections: RejectedCache, key: str, cost: int = 3, retry_after: float = 0.5) -> None:
    _learn(rejections, [Charge("api", key, cost)], _verdict(key, retry_after))


def test_rejection_is_cached_until_retry_after(rejections: RejectedCache, watch: Stopwatch) -> None:
    _reject(rejections, "k", retry_after=0.5)
    watch.seconds += 0.25
    result = rejections.find([Charge("api", "k", 3)])
    assert result is not None
    assert not result.allowed
    assert result.verdicts == [Verdict("api", "k", False, 10, 2, 0.25, 29.75)]
    watch.seconds += 0.25
    assert rejections.find([Charge("api", "k", 3)]) is None


def test_rejection_is_cached_for_one_second_at_most(
    rejections: RejectedCache, watch: Stopwatch
) -> None:
    _reject(rejections, "k", retry_after=3600)
    watch.seconds += 0.999
    assert rejections.find([Charge("api", "k", 3)]) is not None
    watch.seconds += 0.001
    assert rejections.find([Charge("api", "k", 3)]) is None


def test_cache_lifetime_starts_when_query_is_sent(
    rejections: RejectedCache, watch: Stopwatch
) -> None:
    charges = [Charge("api", "k", 3)]
    with rejections.query() as flight:
        watch.seconds += 0.4
        rejections.remember(flight, [(charges, [_verdict("k", 0.5)])])
    # The database decided some time in between: it may grant 0.5 s after the query was sent.
    watch.seconds += 0.1
    assert rejections.find(charges) is None


def test_cost_above_limit_is_cached_too(rejections: RejectedCache, watch: Stopwatch) -> None:
    _learn(rejections, [Charge("api", "k", 11)], _verdict("k", None))
    watch.seconds += 0.9
    result = rejections.find([Charge("api", "k", 11)])
    assert result is not None
    assert result.verdicts[0].retry_after is None
    watch.seconds += 0.1
    assert rejections.find([Charge("api", "k", 11)]) is None


@pytest.mark.parametrize(("cost", "known"), [(2, False), (3, True), (4, True)])
def test_smaller_cost_is_not_rejected_from_cache(
    rejections: RejectedCache, cost: int, known: bool
) -> None:
    _reject(rejections, "k", cost=3)
    assert (rejections.find([Charge("api", "k", cost)]) is not None) == known


def test_other_keys_and_policies_are_not_rejected(rejections: RejectedCache) -> None:
    _reject(rejections, "k")
    assert rejections.find([Charge("api", "l", 3)]) is None
    assert rejections.find([Charge("apj", "k", 3)]) is None


def test_multi_key_check_is_cached_only_if_all_verdicts_are(rejections: RejectedCache) -> None:
    user, ip = Charge("api", "user", 3), Charge("api", "ip", 5)
    _learn(rejections, [user, ip], _verdict("user", 0.5), _verdict("ip", 0, allowed=True))
    result = rejections.find([ip, user])
    assert result is not None
    assert not result.allowed
    assert [verdict.allowed for verdict in result.verdicts] == [True, False]
    assert rejections.find([ip]) is None
    assert rejections.find([user, Charge("api", "tenant")]) is None
    # A charge that fitted says nothing about a costlier one.
    assert rejections.find([user, Charge("api", "ip", 6)]) is None


def test_forget_discards_verdict_of_pending_query(rejections: RejectedCache) -> None:
    charges = [Charge("api", "k"), Charge("api", "l")]
    _reject(rejections, "k", cost=1)
    with rejections.query() as flight:
        rejections.forget("api", "k")
        assert rejections.find(charges[:1]) is None
        rejections.remember(flight, [(charges, [_verdict("k", 0.5), _verdict("l", 0.5)])])
    assert rejections.find(charges[:1]) is None
    assert rejections.find(charges[1:]) is not None


def test_clear_removes_everything(rejections: RejectedCache) -> None:
    _reject(rejections, "k")
    rejections.clear()
    assert not rejections


def test_full_cache_evicts_oldest_entry(rejections: RejectedCache) -> None:
    for key in "abcabd":
        _reject(rejections, key)
    known = [key for key in "abcd" if rejections.find([Charge("api", key, 3)])]
    assert known == ["a", "b", "d"]


def test_expired_entries_are_removed(rejections: RejectedCache, watch: Stopwatch) -> None:
    _reject(rejections, "a", retry_after=0.1)
    watch.seconds += 1
    _reject(rejections, "b")
    assert len(rejections._verdicts) == 1


def test_size_zero_disables_cache(watch: Stopwatch) -> None:
    rejections = RejectedCache(0, watch)
    _reject(rejections, "k")
    assert not rejections


def test_entry_is_removed_as_soon_as_it_expires(
    rejections: RejectedCache, watch: Stopwatch
) -> None:
    _reject(rejections, "a", retry_after=0.5)
    watch.seconds += 0.5
    _reject(rejections, "b")
    assert len(rejections._verdicts) == 1


def test_times_count_down_to_zero_while_cached(rejections: RejectedCache, watch: Stopwatch) -> None:
    charges = [Charge("api", "k"), Charge("api", "l")]
    allowed = Verdict("api", "l", True, 10, 9, 0.0, 0.25)
    _learn(rejections, charges, Verdict("api", "k", False, 10, 0, 0.75, 0.75), allowed)
    watch.seconds += 0.5
    result = rejections.find(charges)
    assert result is not None
    assert [verdict.retry_after for verdict in result.verdicts] == [0.25, 0.0]
    assert [verdict.reset_after for verdict in result.verdicts] == [0.25, 0.0]


def test_finished_query_is_not_kept(rejections: RejectedCache) -> None:
    with rejections.query():
        assert len(rejections._queries) == 1
    assert not rejections._queries
