"""Rates and quantiles come from the increases between two scrapes, whatever happens in between."""

import math

import pytest

from authsvc.cli.scraping import Scrape, parse
from authsvc.cli.top.increases import Interval, quantile, quantiles, rates


def scraped(at: float, **lines: float) -> Scrape:
    """Return a scrape of counters without labels, such as `uptime=3` and `calls=7`."""
    names = {"uptime": "authsvc_uptime_seconds"}
    text = "".join(f"{names.get(name, name)} {value}\n" for name, value in lines.items())
    return parse(text, at)


def test_rate_goes_by_the_clock_of_the_replica() -> None:
    """It answers the same for a second, so that scrapes lie closer together, or further apart."""
    interval = Interval(scraped(10, uptime=100, calls=5), scraped(12, uptime=104, calls=25))
    assert interval.seconds == 4
    assert rates([interval], "calls", lambda _: None) == {None: 5}


def test_same_answer_again_is_no_increase() -> None:
    interval = Interval(scraped(10, uptime=100, calls=5), scraped(12, uptime=100, calls=5))
    assert interval.seconds == 2
    assert rates([interval], "calls", lambda _: None) == {None: 0}


@pytest.mark.parametrize("after", [3, 5, 50])
def test_restarted_replica_has_counted_what_it_shows(after: int) -> None:
    """Also if it counts more than before by now."""
    interval = Interval(scraped(10, uptime=100, calls=5), scraped(20, uptime=5, calls=after))
    assert interval.is_restarted
    assert rates([interval], "calls", lambda _: None) == {None: after / 5}


def test_counter_that_is_new_began_at_zero() -> None:
    interval = Interval(scraped(10, uptime=100), scraped(12, uptime=102, calls=8))
    assert rates([interval], "calls", lambda _: None) == {None: 4}
    assert rates([interval], "unknown", lambda _: None) == {}


def test_counter_that_decreases_without_a_restart_counts_for_nothing() -> None:
    interval = Interval(scraped(10, uptime=100, calls=9), scraped(12, uptime=102, calls=8))
    assert rates([interval], "calls", lambda _: None) == {None: 0}


def test_labels_in_another_order_are_the_same() -> None:
    before = parse('calls{method="a",code="x"} 2\n', 0)
    after = parse('calls{code="x",method="a"} 4\n', 2)
    assert rates([Interval(before, after)], "calls", lambda _: None) == {None: 1}


def test_replicas_and_labels_are_summed_by_group() -> None:
    before = parse("", 0)
    after = parse('calls{method="a",code="x"} 2\ncalls{method="a",code="y"} 4\n', 2)
    other = parse('calls{method="a",code="x"} 8\ncalls{method="b",code="x"} 2\n', 1)
    found = rates(
        [Interval(before, after), Interval(before, other)], "calls", lambda labels: labels["method"]
    )
    assert found == {"a": 3 + 8, "b": 2}


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, {1.0: 10, 2.0: 10, math.inf: 10}, 0.5),
        (0.5, {1.0: 0, 2.0: 10, math.inf: 10}, 1.5),
        (0.99, {1.0: 50, 2.0: 100, math.inf: 100}, 1.98),
        # Beyond the last bound, it is that bound.
        (0.99, {1.0: 1, 2.0: 1, math.inf: 10}, 2.0),
        (1.0, {1.0: 10, math.inf: 10}, 1.0),
        (0.5, {1.0: 0, math.inf: 0}, None),
        (0.5, {}, None),
    ],
)
def test_quantile_is_that_of_prometheus(
    share: float, counts: dict[float, float], expected: float | None
) -> None:
    assert quantile(share, counts) == pytest.approx(expected)


def test_quantiles_are_of_the_interval_and_of_all_replicas() -> None:
    def histogram(fast: int, slow: int) -> Scrape:
        return parse(
            f'x_bucket{{method="a",le="1.0"}} {fast}\n'
            f'x_bucket{{method="a",le="2.0"}} {fast + slow}\n'
            f'x_bucket{{method="a",le="+Inf"}} {fast + slow}\n',
            0,
        )

    intervals = [
        Interval(histogram(1_000, 0), histogram(1_000, 10)),
        Interval(histogram(0, 0), histogram(10, 0)),
    ]
    found = quantiles(intervals, "x", lambda labels: labels["method"], 0.5, 0.75)
    assert list(found) == ["a"]
    assert found["a"] == pytest.approx([1.0, 1.5])
    idle = [Interval(histogram(5, 5), histogram(5, 5))]
    assert quantiles(idle, "x", lambda labels: labels["method"], 0.5) == {"a": [None]}
