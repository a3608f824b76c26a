"""Owns the splitting of JSON documents into rows, with at most one row in memory.

A document is an array of objects, or an object whose member `users` (or first member `identities`)
is such an array; its other members are skipped. Any other object is a row by itself. A file may
have several documents.
"""

import re
from collections.abc import Iterator

from authsvc.core.user_transfer.import_sources import NO_USERS_IN_REALM
from authsvc.errors import FieldInvalid

_IN_STRING = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["{}\[\]:]')
_BETWEEN = b' \t\r\n,:"{}[]'
_MAX_NAME = 16
# What stands in for a value that is no row; it is not valid JSON either.
_JUNK = b"?"


class Documents:
    """Splits bytes into the rows of JSON documents.

    Only quotes, brackets and escapes are looked at: a row's own syntax is checked by whoever parses
    it. `line` is the number of the first line.
    """

    unfinished = "is a JSON document that does not end"

    def __init__(self, max_bytes: int, line: int) -> None:
        self._max_bytes = max_bytes
        self._line = line
        self._depth = 0
        self._in_string = False
        self._escaped = False
        # The depth at which rows begin, and of the row being read; 0 is none.
        self._rows_at = 1
        self._row_at = 0
        self._held = bytearray()
        self._too_long = False
        self._name = bytearray()
        self._names = 0
        self._of_realm = False
        self._rows = 0
        self._in_junk = False
        self.start = line

    @property
    def is_open(self) -> bool:
        """Whether a document has begun that has not ended."""
        return self._depth > 0 or self._in_string

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield rows with the numbers of their first lines; one that is too long is None.

        Raises:
            FieldInvalid: The document is an export that has no users.
        """
        at = 0
        while at < len(data):
            if self._escaped:
                end, token = at + 1, b""
            else:
                found = (_IN_STRING if self._in_string else _OUTSIDE).search(data, at)
                end, token = (found.end(), found[0]) if found else (len(data), b"")
            part = data[at:end]
            at = end
            if self._is_junk(part, token) and not self._in_junk:
                self._in_junk = True
                blank = len(part) - len(part.lstrip(_BETWEEN))
                yield self._line + part.count(b"\n", 0, blank), _JUNK
            self._line += part.count(b"\n")
            yield from self._step(part, token)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield nothing: what is left at the end is a document that is open."""
        yield from ()

    def _is_junk(self, part: bytes, token: bytes) -> bool:
        """Return whether there is something other than rows where rows are."""
        if self._row_at or self._in_string or self._depth != self._rows_at - 1:
            return False
        is_list = token == b"[" and self._depth > 0
        return is_list or token in {b'"', b":"} or bool(part.strip(_BETWEEN))

    def _step(self, part: bytes, token: bytes) -> Iterator[tuple[int, bytes | None]]:
        if self._in_string and self._depth == 1 and len(self._name) <= _MAX_NAME:
            self._name += part
        if token in {b"{", b"["} and not self._in_string:
            self._open(token)
            # Without what stands before it.
            part = token
        if self._row_at:
            self._hold(part)
        if self._escaped or token == b"\\":
            self._escaped = not self._escaped
        elif token == b'"':
            self._in_string = not self._in_string
            if self._in_string:
                self._name.clear()
        elif token == b":" and self._depth == 1:
            self._names += 1
            self._of_realm = self._of_realm or self._name == b'realm"'
        elif token in {b"}", b"]"}:
            yield from self._close()

    def _open(self, token: bytes) -> None:
        self._depth += 1
        if self._depth == 1:
            self.start = self._line
            self._names = self._rows = 0
            self._of_realm = False
            self._rows_at = 1 if token == b"{" else 2
        elif token == b"[" and self._depth == 2 and self._row_at == 1 and self._lists_rows():
            # The object is not a row itself.
            self._row_at, self._rows_at = 0, 3
            self._held.clear()
            self._too_long = False
        if token == b"{" and self._depth == self._rows_at and not self._row_at:
            self._row_at = self._depth
            self._in_junk = False
            self.start = self._line

    def _lists_rows(self) -> bool:
        return self._name == b'users"' or (self._name == b'identities"' and self._names == 1)

    def _close(self) -> Iterator[tuple[int, bytes | None]]:
        self._depth = max(0, self._depth - 1)
        if self._row_at and self._depth < self._row_at:
            is_whole = self._row_at == 1
            self._row_at = 0
            record = None if self._too_long else bytes(self._held)
            self._held.clear()
            self._too_long = False
            if is_whole and self._of_realm:
                raise FieldInvalid("", NO_USERS_IN_REALM)
            self._rows += 1
            yield self.start, record
        elif self._rows_at == 3 and self._depth == 1:
            # The array has ended, and the rest of the object is skipped.
            self._rows_at = 0
            if self._of_realm and not self._rows:
                raise FieldInvalid("", NO_USERS_IN_REALM)
        if self._depth == 0:
            self._rows_at = 1

    def _hold(self, part: bytes) -> None:
        if self._too_long or len(self._held) + len(part) > self._max_bytes:
            self._too_long = True
            self._held.clear()
        else:
            self._held += part
