"""Owns page tokens: where a list continues, bound to the owner of the list."""

from uuid import UUID

from authsvc.core.lib import base64url
from authsvc.errors import FieldInvalid

_UUID_BYTES = 16


def page_token(owner: UUID, last: UUID) -> str:
    """Return the token for the page that follows `last` in `owner`'s list."""
    return base64url.encode(owner.bytes + last.bytes)


def parse_page_token(owner: UUID, token: str) -> UUID:
    """Return the last id of the previous page.

    Raises:
        FieldInvalid: It is not a page token of a list of `owner`'s.
    """
    try:
        content = base64url.decode(token)
    except ValueError:
        content = b""
    if len(content) != 2 * _UUID_BYTES or content[:_UUID_BYTES] != owner.bytes:
        raise FieldInvalid("page_token", "Not a page token of this list.")
    return UUID(bytes=content[_UUID_BYTES:])
