"""Plain counts and histograms."""

import pytest

from authsvc.measures import Counts, Histogram


def test_known_counts_are_there_before_they_occur() -> None:
    counts = Counts(("password", "failed"), ("code", "failed"))
    counts.add("code", "failed")
    counts.add("new", "kind", count=3)
    read = counts.read()
    counts.add("code", "failed")
    assert read == {("password", "failed"): 0, ("code", "failed"): 1, ("new", "kind"): 3}


def test_histogram_counts_up_to_each_bound() -> None:
    waits = Histogram((0.1, 1.0))
    for seconds in (-5.0, 0.0, 0.1, 0.2, 1.0, 7.0):
        waits.record(seconds)
    buckets, total = waits.read()
    assert list(buckets) == [("0.1", 3), ("1.0", 5), ("+Inf", 6)]
    assert total == pytest.approx(8.3)
