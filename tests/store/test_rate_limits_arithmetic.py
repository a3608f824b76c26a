"""The database's arithmetic against the reference, and its promises against a plain log."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.store import rate_limits as store
from authsvc.store.connector import Connection
from authsvc.store.rate_limits import Kind, Rule
from tests.rate_limit_reference import Answer, Key

_Result = TypeVar("_Result")
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_START = 1_900_000_000 * _SECOND
_ALGORITHMS = ("token_bucket", "sliding_window", "fixed_window")


class Sql:
    """The store's functions as plain calls, each key used once."""

    def __init__(self, runner: asyncio.Runner, connection: Connection) -> None:
        self._runner = runner
        self._connection = connection
        self._numbers = itertools.count()

    def new_key(self) -> str:
        return f"key {next(self._numbers)}"

    def run(
        self, call: Callable[[Connection], Coroutine[Any, Any, _Result]]
    ) -> _Result:
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
        # It never fits, and the store's number means no more than that.
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
    """What is done: (what, cost, times, microseconds since the step before)."""
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


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_database_reckons_as_the_reference(sql: Sql, data: st.DataObject) -> None:
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
