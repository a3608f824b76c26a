"""Paging of lists: page sizes, and tokens for the next page."""

from uuid import UUID

import pytest

from authsvc.core.lib.paging import cut, page_size, page_token, parse_page_token
from authsvc.errors import FieldInvalid

OWNER, OTHER, LAST = (UUID(int=number) for number in (1, 2, 3))


def test_page_size_defaults_to_fifty() -> None:
    assert [page_size(size) for size in (0, 1, 50, 1_000)] == [50, 1, 50, 1_000]


@pytest.mark.parametrize("size", [-1, 1_001, 2**31 - 1, -(2**31)])
def test_page_size_out_of_bounds_is_rejected(size: int) -> None:
    with pytest.raises(FieldInvalid) as caught:
        page_size(size)
    (violation,) = caught.value.violations
    assert violation.field == "page_size"
    assert violation.description


def test_page_token_encodes_last_item() -> None:
    assert parse_page_token(OWNER, page_token(OWNER, LAST)) == LAST


@pytest.mark.parametrize("token", ["", "A", "AAAA", "?" * 43, page_token(OTHER, LAST)])
def test_malformed_or_foreign_page_token_is_rejected(token: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        parse_page_token(OWNER, token)
    assert [found.field for found in caught.value.violations] == ["page_token"]


@pytest.mark.parametrize(
    ("found", "page"), [([], ([], "")), ([1, 2], ([1, 2], "")), ([1, 2, 3], ([1, 2], "after 2"))]
)
def test_only_page_before_further_items_has_token(
    found: list[int], page: tuple[list[int], str]
) -> None:
    assert cut(found, 2, lambda last: f"after {last}") == page
