"""Owns the pages of lists: their sizes, and the tokens by which they continue."""

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.errors import FieldInvalid

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1_000

_UUID_BYTES = 16

Item = TypeVar("Item")


def page_size(wanted: int) -> int:
    """Return how many items a page holds: 1 to 1000, and 50 for 0.

    Raises:
        FieldInvalid: It is out of bounds.
    """
    if not 0 <= wanted <= MAX_PAGE_SIZE:
        raise FieldInvalid("page_size", f"must be from 0 to {MAX_PAGE_SIZE}")
    return wanted or DEFAULT_PAGE_SIZE


def cut(
    found: Sequence[Item], size: int, token_after: Callable[[Item], str]
) -> tuple[Sequence[Item], str]:
    """Return a page and the token of the next one, "" if it is the last.

    `found` are up to `size` + 1 items, and `token_after` returns the token for a page's last item.
    """
    page = found[:size]
    return page, token_after(page[-1]) if len(found) > size else ""


def page_token(owner: UUID, last: UUID) -> str:
    """Return the token for the page that follows `last` in `owner`'s list."""
    return base64url.encode(owner.bytes + last.bytes)


def parse_page_token(owner: UUID, token: str) -> UUID:
    """Return the last id of the previous page.

    Raises:
        FieldInvalid: It is not a page token of a list of this owner.
    """
    try:
        content = base64url.decode(token)
    except ValueError:
        content = b""
    if len(content) != 2 * _UUID_BYTES or content[:_UUID_BYTES] != owner.bytes:
        raise FieldInvalid("page_token", "Not a page token of this list.")
    return UUID(bytes=content[_UUID_BYTES:])
