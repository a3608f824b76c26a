"""The bounds of lifetimes."""

from datetime import timedelta

import pytest

from authsvc.core.session_keys.ttl import bounded_ttl
from authsvc.errors import FieldInvalid

_HOUR, _TICK, _SECOND = timedelta(hours=1), timedelta(microseconds=1), timedelta(seconds=1)


def test_none_is_the_longest() -> None:
    assert bounded_ttl(None, _HOUR) == _HOUR


def test_both_bounds_are_included() -> None:
    assert bounded_ttl(_SECOND, _HOUR) == _SECOND
    assert bounded_ttl(_HOUR, _HOUR) == _HOUR


@pytest.mark.parametrize("ttl", [timedelta(), _SECOND - _TICK, _HOUR + _TICK])
def test_beyond_them_is_refused(ttl: timedelta) -> None:
    with pytest.raises(FieldInvalid, match="ttl: must be from 1 to 3600 seconds"):
        bounded_ttl(ttl, _HOUR)
