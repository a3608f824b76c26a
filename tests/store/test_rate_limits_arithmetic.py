"""The database's arithmetic compared with a reference, and its limits with a plain log."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.store import rate_limits as store
from authsvc.store.postgres.connector import Connection
from authsvc.store.rate_limits import Kind, Rule
from tests.support.rate_limit_reference import Answer, Key

_Result = TypeVar("_Result")
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_START = 1_900_000_000 * _SECOND
_ALGORITHMS = ("token_bucket", "sliding_window", "fixed_window")


class Sql:
    """The store's functions as plain calls; each key is used only once in the worker's database."""

    def __init__(self, runner: asyncio.Runner, connection: Connection) -> None:
        self._runner = runner
        self._connection = connection

    def new_key(self) -> str:
        return str(uuid4())

    def run(self, call: Callable[[Connection], Coroutine[Any, Any, _Result]]) -> _Result:
        return self._runner.run(call(self._connection))

    def charge(self, rule: Rule, key: str, cost: int, times: int, now: int) -> Answer:
        kinds = [Kind(rule, cost, times)]
        (row,) = self.run(lambda c: store.charge(c, kinds, [0], [key], now))
        return _answer(rule, cost, row)

    def look(self, rule: Rule, key: str, cost: int, now: int) -> Answer:
        (row,) = self.run(lambda c: store.look(c, [rule], [key], [cost], now))
        return _answer(rule, cost, row)

    def refund(self, rule: Rule, key: str, cost: int, now: int) -> Answer:
        (row,) = self.run(lambda c: store.refund(c, [rule], [key], [cost], now))
        return _answer(rule, 1, row)


def _answer(rule: Rule, cost: int, row: store.Row) -> Answer:
    granted, remaining, retry_us, reset_us = row
    if cost > rule.requests or 0 < rule.burst < cost:
        # The cost never fits, and the store's number means no more than that.
        assert retry_us > 0
        retry_us = None
    return Answer(granted, remaining, retry_us, reset_us)


@pytest.fixture(scope="module")
def sql(worker_dsn: str) -> Iterator[Sql]:
    with asyncio.Runner() as runner:
        connection: Connection = runner.run(asyncpg.connect(worker_dsn))
        yield Sql(runner, connection)
        runner.run(connection.close())


@st.composite
def rules(draw: st.DrawFn, algorithms: tuple[str, ...] = _ALGORITHMS) -> Rule:
    small = draw(st.booleans())
    requests = draw(st.integers(1, 12) if small else st.integers(1, 1_000_000_000))
    window = draw(
        st.sampled_from([_SECOND, _SECOND + 1, 7 * _SECOND, 300 * _SECOND, _DAY, 366 * _DAY])
        | st.integers(_SECOND, 366 * _DAY)
    )
    burst = draw(st.just(0) | st.integers(1, 2 * requests))
    return Rule("property", draw(st.sampled_from(algorithms)), requests, window, burst)


@st.composite
def steps(draw: st.DrawFn, rule: Rule) -> list[tuple[str, int, int, int]]:
    """Steps to perform: (action, cost, times, microseconds since the previous step)."""
    slot, interval = -(-rule.window_us // 16), rule.window_us // rule.requests
    near = [0, 1, interval, slot, rule.window_us, rule.window_us + slot, 2 * rule.window_us]
    near += [62_500, 17 * 62_500, _SECOND]
    wait = st.builds(
        lambda base, more: max(base + more, 0), st.sampled_from(near), st.integers(-1, 1)
    ) | st.integers(0, 2 * rule.window_us)
    cost = st.integers(1, min(rule.requests + 1, 1_000_000)) | st.just(1)
    times = st.integers(1, 4) if rule.requests > 12 else st.integers(1, 15)
    what = st.sampled_from(["charge", "charge", "charge", "look", "refund"])
    return draw(st.lists(st.tuples(what, cost, times, wait), min_size=1, max_size=12))


@pytest.mark.slow
@settings(max_examples=200)
@given(data=st.data())
def test_database_matches_reference_implementation(sql: Sql, data: st.DataObject) -> None:
    rule = data.draw(rules())
    name, key, now = sql.new_key(), Key(rule), _START + data.draw(st.integers(0, _DAY))
    for what, cost, times, wait in data.draw(steps(rule)):
        now += wait
        if what == "charge":
            assert sql.charge(rule, name, cost, times, now) == key.charge(cost, times, now)
        elif what == "look":
            assert sql.look(rule, name, cost, now) == key.look(cost, now)
        else:
            assert sql.refund(rule, name, cost, now) == key.refund(cost, now)


@st.composite
def attempts(draw: st.DrawFn, rule: Rule) -> list[tuple[int, int, bool]]:
    """A burst of traffic: (microseconds since the previous attempt, cost, whether it is refunded).

    The clock is sometimes set back.
    """
    step = st.integers(0, rule.window_us // 4) | st.integers(-rule.window_us // 8, 0)
    cost = st.integers(1, rule.requests)
    return draw(st.lists(st.tuples(step, cost, st.booleans()), min_size=5, max_size=25))


_small_rules = st.builds(
    Rule,
    st.just("promise"),
    st.sampled_from(_ALGORITHMS),
    st.integers(1, 20),
    st.sampled_from([_SECOND, _SECOND + 7, 3 * _SECOND]),
    st.just(0) | st.integers(1, 20),
)


@pytest.mark.slow
@settings(max_examples=200)
@given(data=st.data())
def test_no_interval_exceeds_promised_limit(sql: Sql, data: st.DataObject) -> None:
    rule = data.draw(_small_rules)
    name, now, latest = sql.new_key(), _START, 0
    log: list[tuple[int, int]] = []
    for step, cost, give_back in data.draw(attempts(rule)):
        now += step
        latest = max(latest, now)
        if sql.charge(rule, name, cost, 1, now).granted:
            if give_back and not rule.burst:
                sql.refund(rule, name, cost, now)
            else:
                log.append((latest, cost))
    for number, (end, _) in enumerate(log):
        for start, _ in log[: number + 1]:
            used = sum(cost for time, cost in log if start <= time <= end)
            passed = end - start
            if rule.algorithm == "sliding_window" and passed < rule.window_us:
                assert used <= rule.requests
            if rule.algorithm == "token_bucket":
                assert used <= rule.requests + passed * rule.requests // rule.window_us
            if rule.algorithm == "fixed_window" and (
                start // rule.window_us == end // rule.window_us
            ):
                assert used <= rule.requests
            if rule.burst and passed < _SECOND:
                assert used <= rule.burst


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data())
def test_sliding_window_is_too_strict_by_at_most_one_slot(sql: Sql, data: st.DataObject) -> None:
    requests = data.draw(st.integers(1, 10))
    rule = Rule("strict", "sliding_window", requests, 16 * _SECOND, 0)
    name, now = sql.new_key(), _START + data.draw(st.integers(0, _SECOND))
    log: list[tuple[int, int]] = []
    steps = st.tuples(st.integers(0, 8 * _SECOND), st.integers(1, requests))
    for step, cost in data.draw(st.lists(steps, min_size=5, max_size=20)):
        now += step
        within = sum(used for time, used in log if now - time < 17 * _SECOND)
        granted = sql.charge(rule, name, cost, 1, now).granted
        if within + cost <= requests:
            assert granted
        if granted:
            log.append((now, cost))


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data())
def test_policy_of_existing_key_may_change(sql: Sql, data: st.DataObject) -> None:
    name, now = sql.new_key(), _START
    steps = st.tuples(rules(), st.integers(0, 2 * 366 * _DAY) | st.integers(0, _SECOND))
    for rule, step in data.draw(st.lists(steps, min_size=2, max_size=6)):
        now += step
        answer = sql.charge(rule, name, 1, data.draw(st.integers(1, 20)), now)
        assert answer.granted >= 0
        assert 0 <= answer.remaining <= rule.requests
        # Two windows, if more was used under larger numbers; or the slots of a burst.
        longest = max(2 * rule.window_us, 17 * 62_500)
        assert 0 <= answer.reset_us <= longest
        assert answer.retry_us is not None
        assert 0 <= answer.retry_us <= longest
        assert sql.look(rule, name, 1, now + answer.retry_us).retry_us == 0
        now += answer.retry_us
        assert sql.charge(rule, name, 1, 1, now).granted == 1


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_smaller_limit_applies_at_once_and_larger_one_keeps_usage(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("changed", algorithm, 10, 10 * _SECOND, 0)
    assert sql.charge(rule, name, 1, 6, _START).granted == 6
    smaller = replace(rule, requests=5)
    assert sql.charge(smaller, name, 1, 1, _START).granted == 0
    larger = replace(rule, requests=20)
    assert sql.charge(larger, name, 1, 30, _START).granted == 14


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
@pytest.mark.parametrize("requests", [1_000_000_000, 999_999_937])
def test_largest_numbers_are_exact(sql: Sql, algorithm: str, requests: int) -> None:
    rule = Rule("large", algorithm, requests, 366 * _DAY, 0)
    name, key, now = sql.new_key(), Key(rule), _START
    assert sql.charge(rule, name, 1_000_000, 2_000, now).granted == requests // 1_000_000
    key.charge(1_000_000, 2_000, now)
    for step in (0, 1, 31_622_399, 31_622_400, 5 * _DAY, 365 * _DAY, 366 * _DAY):
        now += step
        for cost in (999_983, 1):
            assert sql.look(rule, name, cost, now) == key.look(cost, now)
            assert sql.charge(rule, name, cost, 3, now) == key.charge(cost, 3, now)
        assert sql.refund(rule, name, 5, now) == key.refund(5, now)


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_clock_set_back_grants_nothing_extra(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("back", algorithm, 4, 100 * _SECOND, 3)
    assert sql.charge(rule, name, 1, 9, _START).granted == 3
    assert sql.charge(rule, name, 1, 9, _START - 500_000).granted == 0
    assert sql.charge(rule, name, 1, 9, _START - 50 * _SECOND).granted == 1
    assert sql.charge(rule, name, 1, 9, _START - 20 * _SECOND).granted == 0
    assert sql.charge(rule, name, 1, 9, _START + 10 * _SECOND).granted == 0


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_clock_far_ahead_locks_no_key(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("ahead", algorithm, 4, 100 * _SECOND, 3)
    assert sql.charge(rule, name, 1, 9, _START + 3650 * _DAY).granted == 3
    assert sql.charge(rule, name, 1, 9, _START).granted == 3


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_refund_never_exceeds_limit(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("refund", algorithm, 5, 100 * _SECOND, 0)
    assert sql.refund(rule, name, 1_000_000, _START).remaining == 5
    assert sql.charge(rule, name, 2, 1, _START).remaining == 3
    assert sql.refund(rule, name, 1_000_000, _START).remaining == 5
    assert sql.charge(rule, name, 1, 9, _START).granted == 5


def test_refund_does_not_restore_burst_of_last_second(sql: Sql) -> None:
    name = sql.new_key()
    rule = Rule("refund", "token_bucket", 100, 100 * _SECOND, 5)
    assert sql.charge(rule, name, 5, 1, _START).remaining == 0
    assert sql.refund(rule, name, 5, _START).remaining == 0
    later = _START + 17 * 62_500
    assert sql.look(rule, name, 5, later) == Answer(0, 5, 0, 0)


def test_fixed_window_is_aligned_with_calendar(sql: Sql) -> None:
    name = sql.new_key()
    rule = Rule("day", "fixed_window", 3, _DAY, 0)
    midnight = _START // _DAY * _DAY
    last = sql.charge(rule, name, 3, 1, midnight - 1)
    assert last.reset_us == 1
    assert sql.charge(rule, name, 1, 9, midnight).granted == 3
    assert sql.charge(rule, name, 1, 1, midnight).retry_us == _DAY


_SCENARIO_WAITS = [
    *(0, 1, 62_500, 800_000, 1_000_000, 1_062_499, 1_062_500, 1_600_000, 2_500_000),
    *(15_999_999, 16_000_000, 17_000_000, 33_000_000),
]


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
@pytest.mark.parametrize("burst", [0, 6])
def test_fixed_scenario_matches_reference(sql: Sql, algorithm: str, burst: int) -> None:
    rule = Rule("scenario", algorithm, 10, 16 * _SECOND, burst)
    name, key, now = sql.new_key(), Key(rule), _START
    choose = Random(1)
    for _ in range(80):
        now += choose.choice(_SCENARIO_WAITS)
        cost = choose.choice((1, 1, 2, 3, 6))
        if choose.random() < 0.8:
            times = choose.choice((1, 1, 2, 9))
            assert sql.charge(rule, name, cost, times, now) == key.charge(cost, times, now)
        else:
            assert sql.refund(rule, name, cost, now) == key.refund(cost, now)
        for cost in (1, 5, 10, 11):
            assert sql.look(rule, name, cost, now) == key.look(cost, now)


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(_ALGORITHMS, 2)))
def test_usage_is_kept_when_algorithm_changes(sql: Sql, before: str, after: str) -> None:
    name = sql.new_key()
    assert sql.charge(Rule("kept", before, 10, 100 * _SECOND, 0), name, 1, 6, _START).granted == 6
    rule = Rule("kept", after, 10, 100 * _SECOND, 0)
    assert sql.charge(rule, name, 1, 9, _START).granted == 4
    assert sql.charge(rule, name, 1, 9, _START + 2 * _SECOND).granted == 0


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
@pytest.mark.parametrize(("requests", "burst", "back"), [(4, 0, 90.0), (100, 4, 0.9)])
def test_clock_going_back_and_forth_grants_nothing_extra(
    sql: Sql, algorithm: str, requests: int, burst: int, back: float
) -> None:
    name = sql.new_key()
    rule = Rule("jumping", algorithm, requests, 100 * _SECOND, burst)
    assert sql.charge(rule, name, 1, 9, _START).granted == 4
    for _ in range(3):
        for now in (_START - round(back * _SECOND), _START):
            assert sql.charge(rule, name, 1, 9, now).granted == 0


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_clock_may_be_set_back_by_one_window(sql: Sql, algorithm: str) -> None:
    window = 100 * _SECOND
    rule = Rule("back", algorithm, 4, window, 0)
    for back, granted in ((window, 0), (window + 1, 4)):
        name = sql.new_key()
        assert sql.charge(rule, name, 1, 9, _START).granted == 4
        assert sql.charge(rule, name, 1, 9, _START - back).granted == granted


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window"])
def test_refund_after_limit_was_lowered_makes_room(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("lowered", algorithm, 10, 100 * _SECOND, 0)
    assert sql.charge(rule, name, 1, 6, _START).granted == 6
    smaller = replace(rule, requests=5)
    assert sql.refund(smaller, name, 1, _START).remaining == 0
    assert sql.refund(smaller, name, 2, _START).remaining == 2


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_clock_far_ahead_does_not_suspend_the_limit(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("ahead", algorithm, 4, 100 * _SECOND, 0)
    assert sql.charge(rule, name, 1, 9, _START + 3650 * _DAY).granted == 4
    for granted in (4, 0, 0):
        assert sql.charge(rule, name, 1, 9, _START).granted == granted


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_steady_use_matches_reference(sql: Sql, algorithm: str) -> None:
    rule = Rule("steady", algorithm, 10, 16 * _SECOND, 0)
    name, key, now = sql.new_key(), Key(rule), _START
    assert sql.charge(rule, name, 5, 1, now) == key.charge(5, 1, now)
    for _ in range(25):
        now += 1_600_000
        assert sql.charge(rule, name, 1, 1, now) == key.charge(1, 1, now)
        assert sql.look(rule, name, 6, now) == key.look(6, now)


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_refunded_key_gains_nothing_from_clock_set_back(sql: Sql, algorithm: str) -> None:
    name = sql.new_key()
    rule = Rule("back", algorithm, 4, 100 * _SECOND, 0)
    assert sql.charge(rule, name, 4, 1, _START).granted == 1
    sql.refund(rule, name, 4, _START)
    assert sql.charge(rule, name, 1, 9, _START - 50 * _SECOND).granted == 4
    assert sql.charge(rule, name, 1, 9, _START).granted == 0


def test_bucket_may_drain_for_more_than_a_window(sql: Sql) -> None:
    rule = Rule("long", "token_bucket", 10, 16 * _SECOND, 0)
    name, key = sql.new_key(), Key(rule)
    for passed in (0, 14_400_000, 24_000_000):
        now = _START + passed
        assert sql.charge(rule, name, 1, 20, now) == key.charge(1, 20, now)


@st.composite
def changing_rules(draw: st.DrawFn) -> list[Rule]:
    """Rules of one policy whose requests change, and nothing else."""
    algorithm = draw(st.sampled_from(_ALGORITHMS))
    window = draw(st.sampled_from([_SECOND, 16 * _SECOND, 300 * _SECOND]))
    requests = draw(st.lists(st.integers(1, 20), min_size=2, max_size=4, unique=True))
    return [Rule("changing", algorithm, number, window, 0) for number in requests]


@pytest.mark.slow
@settings(max_examples=200)
@given(data=st.data())
def test_changes_never_grant_more_than_larger_numbers(sql: Sql, data: st.DataObject) -> None:
    rules_in_turn = data.draw(changing_rules())
    most = max(rule.requests for rule in rules_in_turn)
    # At one time: nothing drains, whatever changes.
    name, granted = sql.new_key(), 0
    charges = st.tuples(st.sampled_from(rules_in_turn), st.integers(1, 4), st.integers(1, 5))
    for rule, cost, times in data.draw(st.lists(charges, min_size=3, max_size=12)):
        granted += cost * sql.charge(rule, name, cost, times, _START).granted
        assert granted <= most
        # What is left is what the present numbers leave of it.
        left = sql.look(rule, name, 1, _START).remaining
        assert left == max(rule.requests - granted, 0)


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data())
def test_changing_key_matches_reference(sql: Sql, data: st.DataObject) -> None:
    rules_in_turn = data.draw(changing_rules())
    name, key, now = sql.new_key(), Key(rules_in_turn[0]), _START
    # A bucket drains at the rate of the present numbers: compared while nothing has drained.
    longest = 0 if rules_in_turn[0].algorithm == "token_bucket" else 2 * rules_in_turn[0].window_us
    steps = st.tuples(st.sampled_from(rules_in_turn), st.integers(1, 6), st.integers(0, longest))
    for rule, times, wait in data.draw(st.lists(steps, min_size=3, max_size=10)):
        now += wait
        key.change(rule, now)
        answer, expected = sql.charge(rule, name, 1, times, now), key.charge(1, times, now)
        assert (answer.granted, answer.remaining) == (expected.granted, expected.remaining)


@pytest.mark.parametrize("small", [1, 5, 9])
def test_bucket_that_is_too_full_waits_until_it_has_drained(sql: Sql, small: int) -> None:
    name, window = sql.new_key(), 100 * _SECOND
    large = Rule("lowered", "token_bucket", 10, window, 0)
    assert sql.charge(large, name, 10, 1, _START).granted == 1
    rule = replace(large, requests=small)
    refused = sql.charge(rule, name, 1, 1, _START + 1)
    assert (refused.granted, refused.remaining, refused.retry_us) == (0, 0, window - 1)
    # Back again, it has what the larger numbers left of it, no more.
    assert sql.charge(large, name, 1, 9, _START + 10 * _SECOND).granted == 1
    assert sql.charge(rule, name, 1, 20, _START + 2 * window).granted == small


def test_bucket_that_is_too_full_waits_for_two_new_windows_at_most(sql: Sql) -> None:
    name = sql.new_key()
    assert sql.charge(Rule("daily", "token_bucket", 10, _DAY, 0), name, 10, 1, _START).granted == 1
    rule = Rule("daily", "token_bucket", 5, 10 * _SECOND, 0)
    assert sql.charge(rule, name, 1, 9, _START + 1).retry_us == 20 * _SECOND - 1
    assert sql.charge(rule, name, 1, 9, _START + 20 * _SECOND).granted == 5


def test_shadow_charge_prevents_no_other_of_its_check(sql: Sql) -> None:
    rules_of_check = [
        Rule("enforced", "token_bucket", 2, _DAY, 0),
        Rule("shade", "token_bucket", 1, _DAY, 0, shadow=True),
    ]
    name = sql.new_key()

    def check() -> list[int]:
        rows = sql.run(
            lambda connection: store.charge_together(
                connection, rules_of_check, [name, name], [1, 1], [2], _START
            )
        )
        return [row["granted"] for row in rows]

    assert [check() for _ in range(3)] == [[1, 1], [1, 0], [0, 0]]
