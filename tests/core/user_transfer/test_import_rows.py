"""A file of users is read row by row, whatever it is cut into, and never more than one row held."""

import json
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from authsvc.core.user_transfer.import_rows import Format, Row, RowFailure, RowReader
from authsvc.errors import FieldInvalid

MAX = 1_024
ADA = {"email": "ada@example.test"}
JSONL = b"".join(json.dumps(ADA | {"display_name": name}).encode() + b"\n" for name in "abc")
CSV = b'email,display_name\r\na@x.test,"Ada ""A"", of\r\nLondon"\r\nb@x.test,\r\n'


def read(parts: bytes | Iterable[bytes], file_format: Format = Format.AUTO) -> list[Any]:
    """Return what a file is read as: the values of its rows, and failures as (line, why)."""
    reader = RowReader(MAX, file_format)
    parts = [parts] if isinstance(parts, bytes) else parts
    rows = [row for part in parts for row in reader.feed(part)] + list(reader.end())
    return [
        dict(row.values) if isinstance(row, Row) else (row.line, row.description) for row in rows
    ]


def lines_of(data: bytes) -> list[int]:
    reader = RowReader(MAX)
    return [row.line for row in (*reader.feed(data), *reader.end())]


def test_json_lines() -> None:
    assert read(JSONL) == [ADA | {"display_name": name} for name in "abc"]


def test_csv() -> None:
    assert read(CSV) == [
        {"email": "a@x.test", "display_name": 'Ada "A", of\r\nLondon'},
        {"email": "b@x.test"},
    ]
    assert lines_of(CSV) == [2, 4]


def test_csv_names_may_stand_in_any_order_and_case() -> None:
    assert read(b"Roles, EMAIL ,disabled,email_verified\nuser;admin,a@x.test,TRUE,0\n") == [
        {
            "email": "a@x.test",
            "roles": ["user", "admin"],
            "disabled": True,
            "email_verified": False,
        }
    ]


@pytest.mark.parametrize("data", [JSONL, CSV])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n\r\n \n"])
def test_how_it_is_cut_makes_no_difference(data: bytes, mark: bytes, before: bytes) -> None:
    whole = mark + before + data
    expected = read(data)
    assert read(whole) == expected
    assert read(bytes([byte]) for byte in whole) == expected
    source = random.Random(1)
    for _ in range(20):
        cuts = sorted(source.choices(range(len(whole)), k=5))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert read(parts) == expected
    shift = before.count(b"\n")
    assert lines_of(whole) == [line + shift for line in lines_of(data)]


@pytest.mark.parametrize("data", [JSONL, CSV])
def test_ends_of_lines_and_blank_lines_make_no_difference(data: bytes) -> None:
    expected = read(data)
    assert read(data.rstrip(b"\r\n")) == expected
    assert read(data + b"\r\n\n  \n"[: 3 if data is CSV else None]) == expected
    assert read(JSONL.replace(b"\n", b"\r\n\r\n")) == read(JSONL)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n", b"email\n"])
def test_a_file_without_rows_has_none(data: bytes) -> None:
    assert read(data) == []
    assert read([data[:1], data[1:]]) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"email": "a@x.test"', "is not valid JSON from character 21 on"),
        (b'{"email": NaN}', "is not valid JSON"),
        (b'{"email": "a\0b"}', "is not valid JSON from character 13 on"),
        (b'{"email": ' + b"9" * 900 + b"}" * 100, "is not valid JSON from character 912 on"),
        (b"[" * 1_000, "is not valid JSON"),
        (b'["a@x.test"]', "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'"a@x.test"', "is not a JSON object"),
        (b'{"email": "a", "email": "b"}', "has a field twice"),
        (b'{"firebase": {"rounds": 1, "rounds": 2}}', "has a field twice"),
        (b'{"email": "\xff"}', "is not valid UTF-8"),
        (b'{"email": "\xed\xa0\x80"}', "is not valid UTF-8"),
        (b'{"email": "\xc0\x80"}', "is not valid UTF-8"),
        (b"\0", "is not valid JSON from character 1 on"),
        (b'{"email": "' + b"x" * MAX + b'"}', "is longer than 1024 bytes"),
    ],
)
def test_a_line_of_json_that_cannot_be_read_is_one_failure(line: bytes, why: str) -> None:
    found = read(JSONL + line + b"\n" + JSONL)
    assert found[3][0] == 4
    assert found[3][1].startswith(why)
    assert found[:3] == found[4:]
    assert len(found) == 7


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"c@x.test", "has 1 fields, and the first line 2"),
        (b"c@x.test,C,3", "has 3 fields, and the first line 2"),
        (b'c@x.test,"C"x', "is not valid CSV"),
        (b'c@x.test,C "C" "\nd@x.test,D"', "has a quote or an end of line in a field that is not"),
        (b"c@x.test,C\rD", "has a quote or an end of line in a field that is not"),
        (b"c@x.test,\xff", "is not valid UTF-8"),
        (b"c@x.test," + b"x" * MAX, "is longer than 1024 bytes"),
        (b'c@x.test,"' + b"x\n" * MAX + b'"', "is longer than 1024 bytes"),
    ],
)
def test_a_row_of_csv_that_cannot_be_read_is_one_failure(line: bytes, why: str) -> None:
    found = read(CSV + line + b"\n" + b"e@x.test,E\n")
    assert found[2][0] == 5
    assert found[2][1].startswith(why)
    assert found[3:] == [{"email": "e@x.test", "display_name": "E"}]


def test_an_open_quote_makes_no_rows_of_what_follows() -> None:
    smuggled = b"evil@x.test,Evil\n" * 200
    assert read(CSV + b'c@x.test,"' + smuggled)[2:] == [(5, "has a quote that is never closed")]
    assert read(CSV + b'c@x.test,"' + smuggled + b'"\n')[2:] == [(5, "is longer than 1024 bytes")]


@pytest.mark.parametrize(
    "head",
    [
        b"ada@example.test,Ada",
        b"email,password",
        b"email,email",
        b"display_name",
        b"email;roles",
        b"email,",
        b"email,firebase",
        b'"email,roles"',
        b"[",
        b'[{"email": "ada@example.test"}]',
        b"\xff\xfee\0m\0a\0i\0l\0",
        b"\xfe\xff\0e\0m\0a\0i\0l",
    ],
)
def test_a_file_that_names_no_fields_is_refused_as_a_whole(head: bytes) -> None:
    with pytest.raises(FieldInvalid) as refused:
        read(head + b"\nada@example.test,Ada\n")
    assert "ada@" not in str(refused.value)


def test_a_format_that_is_named_is_not_guessed() -> None:
    assert read(b"email\na@x.test\n", Format.JSONL) == [
        (1, "is not valid JSON from character 1 on"),
        (2, "is not valid JSON from character 1 on"),
    ]
    with pytest.raises(FieldInvalid):
        read(JSONL, Format.CSV)


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"{", b"x"),
        (b"email\n", b"x"),
        (b'email\n"', b"x"),
        (b'email\n"', b"x\n"),
        (b"\n", b" "),
        (b"\n", b"\n"),
    ],
)
def test_a_row_without_end_takes_no_memory(head: bytes, part: bytes) -> None:
    reader = RowReader(MAX)
    block = part * (65_536 // len(part))

    def parts() -> Iterator[bytes]:
        yield head
        for _ in range(40):
            yield block

    tracemalloc.start()
    try:
        found = [row for data in parts() for row in reader.feed(data)]
        found += list(reader.end())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert all(isinstance(row, RowFailure) for row in found)
    assert len(found) == (part.strip() != b"")


def test_nothing_read_is_shown() -> None:
    reader = RowReader(MAX)
    assert "ada@" not in repr(list(reader.feed(JSONL)))
