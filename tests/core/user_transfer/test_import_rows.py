"""A user file is read row by row, however it is chunked, with at most one row in memory."""

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
    """Return the rows of a file: their values, or their failures as (line, reason)."""
    reader = RowReader(MAX, file_format)
    parts = [parts] if isinstance(parts, bytes) else parts
    rows = [row for part in parts for row in reader.feed(part)] + list(reader.end())
    return [
        dict(row.values) if isinstance(row, Row) else (row.line, row.description) for row in rows
    ]


def lines_of(data: bytes) -> list[int]:
    reader = RowReader(MAX)
    return [row.line for row in (*reader.feed(data), *reader.end())]


def test_jsonl_is_parsed() -> None:
    assert read(JSONL) == [ADA | {"display_name": name} for name in "abc"]


def test_csv_is_parsed() -> None:
    assert read(CSV) == [
        {"email": "a@x.test", "display_name": 'Ada "A", of\r\nLondon'},
        {"email": "b@x.test"},
    ]
    assert lines_of(CSV) == [2, 4]


def test_csv_header_accepts_any_order_and_case() -> None:
    assert read(b"Roles, EMAIL ,disabled,email_verified\nuser;admin,a@x.test,TRUE,0\n") == [
        {
            "email": "a@x.test",
            "roles": ["user", "admin"],
            "disabled": True,
            "email_verified": False,
        }
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("head", ["", "sep={}\r\n"])
def test_csv_of_other_delimiters_is_parsed(delimiter: str, head: str) -> None:
    rows = ["email;roles;display_name", 'a@x.test;"user;admin";"Ada; Countess, of"', "b@x.test;;"]
    data = "\r\n".join(rows)
    if delimiter == "\t":
        data = data.replace("l;r", "l\tr").replace("s;d", "s\td").replace(";;", "\t\t")
        data = data.replace('";"', '"\t"').replace('t;"', 't\t"')
    assert read(b"\xef\xbb\xbf" + (head.format(delimiter) + data).encode()) == [
        {"email": "a@x.test", "roles": ["user", "admin"], "display_name": "Ada; Countess, of"},
        {"email": "b@x.test"},
    ]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"email,Phone,shoe size", '"Phone", "shoe size"'),
        (b"email;password", '"password"'),
        (b"email," + b"x" * 100, '"' + "x" * 40 + "…" + '"'),
        (b"email,b@x.test", "one that looks like a value"),
        (b"email," + b",".join(b"f%d" % n for n in range(20)), "and 12 more"),
        (b"email,a\x1b[31m", "a\\u001b[31m"),
        (b"hunter2,display_name", "lacks email"),
        (b"email,email", "twice"),
    ],
)
def test_names_of_unknown_columns_are_shown(head: bytes, message: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        read(head + b"\n")
    shown = refused.value.message
    assert message.replace("\u2026", "\\u2026") in shown or message in shown
    assert "hunter2" not in shown
    assert shown.isprintable()


@pytest.mark.parametrize("data", [JSONL, CSV])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n\r\n \n"])
def test_chunk_boundaries_do_not_matter(data: bytes, mark: bytes, before: bytes) -> None:
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
def test_line_endings_and_blank_lines_do_not_matter(data: bytes) -> None:
    expected = read(data)
    assert read(data.rstrip(b"\r\n")) == expected
    assert read(data + b"\r\n\n  \n"[: 3 if data is CSV else None]) == expected
    assert read(JSONL.replace(b"\n", b"\r\n\r\n")) == read(JSONL)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n", b"email\n"])
def test_empty_file_has_no_rows(data: bytes) -> None:
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
        (b'{"email": "a", "email": "b"}', "has a duplicate field"),
        (b'{"firebase": {"rounds": 1, "rounds": 2}}', "has a duplicate field"),
        (b'{"email": "\xff"}', "is not valid UTF-8"),
        (b'{"email": "\xed\xa0\x80"}', "is not valid UTF-8"),
        (b'{"email": "\xc0\x80"}', "is not valid UTF-8"),
        (b"\0", "is not valid JSON from character 1 on"),
        (b'{"email": "' + b"x" * MAX + b'"}', "is longer than 1024 bytes"),
    ],
)
def test_unreadable_json_line_is_one_failure(line: bytes, why: str) -> None:
    found = read(JSONL + line + b"\n" + JSONL)
    assert found[3][0] == 4
    assert found[3][1].startswith(why)
    assert found[:3] == found[4:]
    assert len(found) == 7


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"c@x.test", "has 1 fields, but the first line has 2"),
        (b"c@x.test,C,3", "has 3 fields, but the first line has 2"),
        (b'c@x.test,"C"x', "is not valid CSV"),
        (b'c@x.test,C "C" "\nd@x.test,D"', "has a quote or a line ending in an unquoted field"),
        (b"c@x.test,C\rD", "has a quote or a line ending in an unquoted field"),
        (b"c@x.test,\xff", "is not valid UTF-8"),
        (b"c@x.test," + b"x" * MAX, "is longer than 1024 bytes"),
        (b'c@x.test,"' + b"x\n" * MAX + b'"', "is longer than 1024 bytes"),
    ],
)
def test_unreadable_csv_row_is_one_failure(line: bytes, why: str) -> None:
    found = read(CSV + line + b"\n" + b"e@x.test,E\n")
    assert found[2][0] == 5
    assert found[2][1].startswith(why)
    assert found[3:] == [{"email": "e@x.test", "display_name": "E"}]


def test_unclosed_quote_does_not_yield_rows() -> None:
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
        b"email,",
        b"email,firebase",
        b'"email,roles"',
        b"\xff\xfee\0m\0a\0i\0l\0",
        b"\xfe\xff\0e\0m\0a\0i\0l",
    ],
)
def test_file_without_valid_header_is_rejected(head: bytes) -> None:
    with pytest.raises(FieldInvalid) as refused:
        read(head + b"\nada@example.test,Ada\n")
    assert "ada@" not in str(refused.value)


def test_explicit_format_overrides_detection() -> None:
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
def test_endless_row_uses_bounded_memory(head: bytes, part: bytes) -> None:
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


def test_repr_of_parsed_rows_hides_content() -> None:
    reader = RowReader(MAX)
    assert "ada@" not in repr(list(reader.feed(JSONL)))
