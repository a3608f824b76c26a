"""The one spelling of durations: what is read, what is written, and the patterns for it."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.config import durations

_LONGEST = timedelta(days=36_500)
_MILLISECOND = timedelta(milliseconds=1)
_ANY = st.integers(0, _LONGEST // _MILLISECOND).map(lambda count: count * _MILLISECOND)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0s", timedelta()),
        ("250ms", timedelta(milliseconds=250)),
        ("90m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1d1ms", timedelta(days=1, milliseconds=1)),
        ("36500d", _LONGEST),
    ],
)
def test_durations_are_read(text: str, value: timedelta) -> None:
    assert durations.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        5,
        None,
        True,
        "1.5h",
        "-1s",
        "1 h",
        "1H",
        "PT1H",
        "2.592e+06s",
        "30m1h",
        "1h90m",
        "01s",
        "0h1m",
        "1h0m",
        "36500d1ms",
        "36501d",
        "9" * 30 + "d",
        "1s\n",
        "٣s",
    ],
)
def test_other_spellings_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        durations.parse(text)


@given(value=_ANY)
def test_what_is_written_is_read_again(value: timedelta) -> None:
    assert durations.parse(durations.text(value)) == value


@given(bounds=st.tuples(_ANY, _ANY).map(sorted), value=_ANY, offset=st.integers(-2, 2))
def test_pattern_matches_what_is_between_its_bounds(
    bounds: list[timedelta], value: timedelta, offset: int
) -> None:
    least, most = bounds
    expression = re.compile(durations.pattern(durations.text(least), durations.text(most)))
    near = [bound + offset * _MILLISECOND for bound in bounds]
    for each in (value, *near):
        if timedelta() <= each <= _LONGEST:
            found = expression.fullmatch(durations.text(each))
            assert bool(found) == (least <= each <= most)


@given(
    numbers=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(sorted),
    other=st.integers(0, 10**6),
)
def test_numbers_match_between_their_bounds(numbers: list[int], other: int) -> None:
    least, most = numbers
    expression = re.compile(durations.number(least, most))
    for each in (other, least - 1, least, most, most + 1):
        assert bool(expression.fullmatch(str(each))) == (least <= each <= most)
