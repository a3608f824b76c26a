"""Owns the view that the guards of ASGI and WSGI have of a request."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A request over HTTP.

    Attributes:
        method: In capitals; GET for a web socket.
        path: The decoded path that the application routes by.
        headers: Names in lower case, and values.
        is_websocket: Whether it opens a web socket.
        raw: The scope of ASGI, or the environ of WSGI.
    """

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    is_websocket: bool
    raw: Any

    def all(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """Return the value of a header, or ""; repeated values are joined as RFC 9110 says."""
        return ", ".join(self.all(name))

    def cookies(self) -> Iterator[tuple[str, str]]:
        """Return the names and values of the cookies."""
        for line in self.all("cookie"):
            for pair in line.split(";"):
                name, _, value = pair.partition("=")
                yield name.strip(" \t"), value.strip(" \t")
