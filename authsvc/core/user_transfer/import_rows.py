"""Owns the reading of user files: bytes in, rows out, and never more than one row in memory.

A file is UTF-8, with or without a byte order mark, and its lines end with LF or CRLF. Blank lines
are ignored. There are three formats, told apart by how they begin:

- JSON Lines: one object per line, which starts with a brace.
- JSON: an array of objects, or an export as `import_documents` describes.
- CSV (RFC 4180): commas, semicolons or tabs, double quotes, field names in the first line, in any
  order. An empty field counts as missing; roles are separated by spaces or semicolons.

The users in exports of other systems are described in `import_sources`. The fields of all other
rows, all but the first optional:

| field          | value                                                                         |
|----------------|-------------------------------------------------------------------------------|
| email          | the address; an account that already has it is left unchanged                 |
| display_name   | at most 256 bytes                                                             |
| email_verified | true or false                                                                 |
| roles          | a list of names, each of a role that is defined; default: user                |
| password_hash  | a hash in one of the forms of `foreign_forms`; default: no password           |
| pepper_id      | for hashes exported by this service: the pepper of that hash                  |
| salt           | for Firebase: the salt; it and password_hash are in base64                    |
| firebase       | for Firebase, in JSON: base64_signer_key, base64_salt_separator, rounds and   |
|                | mem_cost of the project, if they are not given for the whole file             |
| disabled       | true or false                                                                 |
| create_time    | RFC 3339, such as 2024-05-01T12:00:00Z; default: now                          |
| user_id        | a UUID in lower case; default: a new one                                      |
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from authsvc.core.user_transfer.import_documents import Documents
from authsvc.errors import FieldInvalid, quoted_names

FIELDS = frozenset(
    {
        *("email", "display_name", "email_verified", "roles", "disabled", "create_time"),
        *("user_id", "password_hash", "pepper_id", "salt", "firebase"),
    }
)
_COLUMNS = FIELDS - {"firebase"}

_BOM = b"\xef\xbb\xbf"
_BOMS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SPACE = b" \t\r\n"
# How a document begins; its first lines are not rows by themselves.
_DOCUMENT = re.compile(
    rb"""\[ | \{[ \t\r]*\n
        | \{\s* (?:"id"\s*:\s*"[^"]{0,64}"\s*,\s*)? "(?:users|realm)"\s*:
        | \{\s* "identities"\s*:\s*\[\s*\{\s* "(?:id|created_at|credentials|schema_id)"\s*: """,
    re.VERBOSE,
)
_DOCUMENT_HEAD_BYTES = 256
# Files that are something else, by how they begin, and what to do with them.
_DUMP = (
    "The file is a dump of a database; export the table of users as CSV instead, or from Kratos"
    " with GET /admin/identities?include_credential=password."
)
_LDIF = (
    "The file is LDIF; export mail and userPassword as CSV, with the columns email and"
    " password_hash."
)
_OTHER_FILES = [
    (re.compile(pattern, re.IGNORECASE), step)
    for pattern, step in (
        (rb"PK\x03\x04", "The file is a spreadsheet or an archive; save it as CSV, or unpack it."),
        (rb"\x1f\x8b", "The file is compressed; unpack it with gunzip."),
        (rb"PGDMP|--|/\*|SET\s|INSERT\s|CREATE\s|COPY\s", _DUMP),
        (rb"dn:|version:\s*1", _LDIF),
        (rb"<", "The file is XML; export the users as JSON or CSV."),
    )
]
# Firebase's command line writes this many columns or more, without their names.
_FIREBASE_COLUMNS = 26
_EXCEL_DELIMITER = re.compile(r"sep=([,;\t])", re.ASCII)
_DELIMITERS = (",", ";", "\t")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Format(StrEnum):
    """The format of a file."""

    AUTO = "auto"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read: the number of its first line, starting at 1, and its fields."""

    line: int
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RowFailure:
    """Why a row is invalid, without any value; `field` is "" if it is the row as a whole."""

    line: int
    field: str
    description: str


class RowReader:
    """Reads one file, whose bytes come in parts that may be split anywhere.

    A row longer than `max_row_bytes` is a failure and, however long, costs no more memory.
    """

    def __init__(self, max_row_bytes: int, file_format: Format = Format.AUTO) -> None:
        self._max_row_bytes = max_row_bytes
        self._format = file_format
        self._head = b""
        self._line = 1
        self._records: _Records | Documents | None = None
        self._read: Callable[[str], Mapping[str, Any] | None] = _read_json

    def feed(self, data: bytes) -> Iterator[Row | RowFailure]:
        """Yield the rows that the file's next bytes complete.

        Raises:
            FieldInvalid: The file as a whole is invalid.
        """
        if self._records is None:
            data = self._begin(data, last=False)
        if self._records is not None:
            for line, record in self._records.feed(data):
                yield from self._row(line, record)

    def end(self) -> Iterator[Row | RowFailure]:
        """Yield the remaining rows at the end of the file; raises the same errors as `feed`."""
        data = self._begin(b"", last=True) if self._records is None else b""
        if self._records is None:
            return
        for line, record in (*self._records.feed(data), *self._records.end()):
            yield from self._row(line, record)
        if self._records.is_open:
            yield RowFailure(self._records.start, "", self._records.unfinished)

    def _begin(self, data: bytes, *, last: bool) -> bytes:
        """Detect the file's format; return the bytes to parse once it is known."""
        head = self._head + data
        if len(head) < len(_BOM) and not last:
            self._head = head
            return b""
        if head.startswith(_BOMS_OF_UTF_16):
            raise FieldInvalid("", "The file is UTF-16; it has to be UTF-8.")
        head = head.removeprefix(_BOM)
        text = head.lstrip(_SPACE)
        self._line += head.count(b"\n", 0, len(head) - len(text))
        # Non-empty from now on, so that a byte order mark counts only at the very beginning.
        self._head = b"" if text else b"   "
        if text:
            if not last and self._is_undecided(text):
                self._head = text
                return b""
            self._read, self._records = self._reader_of(text)
        return text

    def _is_undecided(self, text: bytes) -> bool:
        """Return whether the format shows only in what follows."""
        return (
            self._format is Format.AUTO and len(text) < _DOCUMENT_HEAD_BYTES and b"\n" not in text
        )

    def _reader_of(
        self, text: bytes
    ) -> tuple[Callable[[str], Mapping[str, Any] | None], "_Records | Documents"]:
        found = self._format
        if found is Format.AUTO:
            for pattern, step in _OTHER_FILES:
                if pattern.match(text):
                    raise FieldInvalid("", step)
            found = Format.JSONL if text.startswith(b"{") else Format.CSV
            found = Format.JSON if _DOCUMENT.match(text) else found
        if found is Format.JSON:
            return _read_json, Documents(self._max_row_bytes, self._line)
        is_csv = found is Format.CSV
        records = _Records(self._max_row_bytes, self._line, quoted=is_csv)
        return _CsvRows().read if is_csv else _read_json, records

    def _row(self, line: int, record: bytes | None) -> Iterator[Row | RowFailure]:
        if record is None:
            yield RowFailure(line, "", f"is longer than {self._max_row_bytes} bytes")
            return
        try:
            values = self._read(record.decode().rstrip("\r\n"))
        except UnicodeDecodeError:
            yield RowFailure(line, "", "is not valid UTF-8")
        except _Malformed as error:
            yield RowFailure(line, "", str(error))
        else:
            if values is not None:
                yield Row(line, values)


class _Malformed(Exception):
    """A record can't be parsed; the message says why, without quoting it."""


class _Records:
    """Splits bytes into records: lines, which, if `quoted`, continue within double quotes.

    Everything up to the closing quote is one record, however long: resuming at the next line would
    turn what somebody wrote into a field into rows.
    """

    unfinished = "has a quote that is never closed"

    def __init__(self, max_bytes: int, line: int, *, quoted: bool) -> None:
        self._max_bytes = max_bytes
        self._quoted = quoted
        self._held = bytearray()
        self._too_long = False
        self._line = line
        self.start = line
        self.is_open = False

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield records with the numbers of their first lines; one that is too long is None."""
        at = 0
        while at < len(data):
            closes = self.is_open
            end = data.find(b'"' if closes else b"\n", at) + 1
            part = data[at : end or len(data)]
            at += len(part)
            self._line += part.count(b"\n") if closes else end > 0
            self._hold(part)
            if end and not closes and not self.is_open:
                yield self._take()

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last record if no line ending follows it."""
        if (self._held or self._too_long) and not self.is_open:
            yield self._take()

    def _hold(self, part: bytes) -> None:
        if self._quoted and part.count(b'"') % 2:
            self.is_open = not self.is_open
        if self._too_long or len(self._held) + len(part.rstrip(b"\r\n")) > self._max_bytes:
            self._too_long = True
            self._held.clear()
        else:
            self._held += part

    def _take(self) -> tuple[int, bytes | None]:
        record = (self.start, None if self._too_long else bytes(self._held))
        self._held.clear()
        self._too_long = False
        self.start = self._line
        return record


def _read_json(text: str) -> Mapping[str, Any] | None:
    if not text.strip():
        return None
    try:
        values = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _Malformed(f"is not valid JSON from character {error.pos + 1} on") from None
    except (ValueError, RecursionError):
        raise _Malformed("is not valid JSON") from None
    if not isinstance(values, dict):
        raise _Malformed("is not a JSON object")
    return values


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _Malformed("has a duplicate field")
    return values


def _no_constant(_: str) -> None:
    raise _Malformed("is not valid JSON")


class _CsvRows:
    """Reads the rows of a CSV file, the first of which names the columns."""

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._delimiter = ""

    def read(self, text: str) -> Mapping[str, Any] | None:
        if not self._delimiter:
            # Names contain none of these, so the first that occurs separates them.
            self._delimiter = next((one for one in _DELIMITERS if one in text), ",")
            if match := _EXCEL_DELIMITER.fullmatch(text):
                self._delimiter = match[1]
                return None
        cells = _cells(text, self._delimiter)
        if cells is None:
            return None
        if not self._names:
            self._names = _names(cells)
            return None
        if len(cells) != len(self._names):
            raise _Malformed(f"has {len(cells)} fields, but the first line has {len(self._names)}")
        return {
            name: _typed(name, cell) for name, cell in zip(self._names, cells, strict=True) if cell
        }


def _cells(text: str, delimiter: str) -> list[str] | None:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error:
        raise _Malformed("is not valid CSV") from None
    if len(rows) > 1:
        raise _Malformed("has a quote or a line ending in an unquoted field")
    return rows[0] if rows else None


def _names(cells: Sequence[str]) -> Sequence[str]:
    names = [cell.strip().lower() for cell in cells]
    if "email" not in names:
        # Its text is not shown: if the line of names is missing, it is an address or a hash.
        if len(names) >= _FIREBASE_COLUMNS:
            raise FieldInvalid(
                "", "The first line names no fields: export JSON (firebase auth:export users.json)."
            )
        raise FieldInvalid("", "The first line does not name the fields, as it lacks email.")
    if unknown := [cell for cell, name in zip(cells, names, strict=True) if name not in _COLUMNS]:
        raise FieldInvalid(
            "", f"The first line has names that are not of fields: {quoted_names(unknown)}"
        )
    if len(set(names)) != len(names):
        raise FieldInvalid("", "The first line names a field twice.")
    return names


def _typed(name: str, cell: str) -> Any:
    if name in {"email_verified", "disabled"}:
        return _BOOLEANS.get(cell.strip().lower(), cell)
    if name == "roles":
        return [role for role in re.split("[ ;]+", cell) if role]
    return cell
