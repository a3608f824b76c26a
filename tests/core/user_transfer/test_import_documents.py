"""JSON documents are split into rows, however they are chunked, with at most one row in memory."""

import json
import random
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.user_transfer.import_rows import Format, Row, RowFailure, RowReader
from authsvc.errors import FieldInvalid

MAX = 1_024
ROWS: list[Any] = [
    {"email": "a@x.test", "display_name": 'Ada "{[\\" \u2028 ]}'},
    {"email": "b@x.test", "roles": ["a", "b"], "users": [{"email": "evil@x.test"}]},
    {},
]


def read(parts: bytes | Iterable[bytes], file_format: Format = Format.AUTO) -> list[Any]:
    """Return the rows of a file: their values, or their failures as (line, reason)."""
    reader = RowReader(MAX, file_format)
    parts = [parts] if isinstance(parts, bytes) else parts
    rows = [row for part in parts for row in reader.feed(part)] + list(reader.end())
    return [
        dict(row.values) if isinstance(row, Row) else (row.line, row.description) for row in rows
    ]


def documents() -> Iterator[tuple[str, object]]:
    yield "array", ROWS
    yield "users", {"users": ROWS}
    yield "users after others", {"id": "x", "realm": "r", "roles": {"users": [1]}, "users": ROWS}
    yield "users before others", {"realm": "r", "users": ROWS, "clients": [{"email": "c@x.test"}]}


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("document", dict(documents()).values(), ids=dict(documents()))
def test_rows_of_a_document_are_found_in_any_chunks(document: object, indent: int | None) -> None:
    data = b"\xef\xbb\xbf\n" + json.dumps(document, indent=indent).encode()
    assert read(data) == ROWS
    assert read(bytes([byte]) for byte in data) == ROWS
    source = random.Random(1)
    for _ in range(20):
        cuts = sorted(source.choices(range(len(data)), k=5))
        assert read(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)) == ROWS


def test_identities_of_kratos_are_found() -> None:
    rows = [{"id": "1", "traits": {}}]
    assert read(json.dumps({"identities": rows, "next_page_token": "x"}).encode()) == rows


def test_objects_over_several_lines_are_rows() -> None:
    data = b"".join(json.dumps(row, indent=2).encode() + b"\n" for row in ROWS[::2])
    assert read(data) == ROWS[::2]


def test_lines_of_rows_are_counted() -> None:
    reader = RowReader(MAX)
    found = list(reader.feed(json.dumps({"users": ROWS}, indent=1).encode()))
    assert [row.line for row in found] == [3, 7, 19]


def test_line_that_begins_like_other_rows_stays_a_line() -> None:
    # Auth0's users have identities too, and are rows themselves.
    row = {"identities": [{"provider": "auth0"}], "email": "a@x.test"}
    line = json.dumps(row).encode() + b"\n"
    assert read(line * 2) == [row, row]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[]", []),
        (b'{"users": []}', []),
        (b"[1, 2]", [(1, "is not valid JSON from character 1 on")]),
        (b'["a@x.test"]', [(1, "is not valid JSON from character 1 on")]),
        (b"[[1], {}]", [(1, "is not valid JSON from character 1 on"), {}]),
        (b"[{}]\nada@x.test,Ada", [{}, (2, "is not valid JSON from character 1 on")]),
        (b"[{}\n, {'a': 1}]", [{}, (2, "is not valid JSON from character 2 on")]),
        (b"[{}", [{}, (1, "is a JSON document that does not end")]),
        (b'[{}, {"a": "', [{}, (1, "is a JSON document that does not end")]),
        (b'[{"a": "' + b"x" * MAX + b'"}, {}]', [(1, "is longer than 1024 bytes"), {}]),
    ],
)
def test_what_is_no_row_is_a_failure(data: bytes, found: list[Any]) -> None:
    assert read(data, Format.JSON) == found
    assert read((bytes([byte]) for byte in data), Format.JSON) == found


@pytest.mark.parametrize(
    "realm",
    [
        {"realm": "r"},
        {"realm": "r", "users": []},
        {"id": "x", "realm": "r", "clients": [{"description": "y" * 3_000}]},
    ],
)
def test_realm_without_users_names_the_step(realm: dict[str, Any]) -> None:
    for indent in (None, 2):
        with pytest.raises(FieldInvalid, match="has no users: export it with"):
            read(json.dumps(realm, indent=indent).encode())


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_rows_or_failures(data: bytes, cut: int) -> None:
    for head in (b"[", b'{"users":[', b"{\n"):
        whole = head + data
        try:
            found = read([whole[:cut], whole[cut:]])
        except FieldInvalid:
            continue
        assert all(isinstance(row, dict | tuple) for row in found)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_content_of_a_field_is_never_a_row(text: str) -> None:
    rows = [{"email": "a@x.test", "display_name": text}, {"email": "b@x.test"}]
    for escaped in (True, False):
        try:
            data = json.dumps({"users": rows}, ensure_ascii=escaped).encode()
        except UnicodeEncodeError:
            continue
        assert read(data) == rows


@pytest.mark.parametrize(
    ("head", "part"), [(b"[", b"{"), (b'[{"', b"x"), (b"[", b"1,"), (b"{\n", b"[")]
)
def test_endless_document_uses_bounded_memory(head: bytes, part: bytes) -> None:
    reader = RowReader(MAX)
    block = part * (16_384 // len(part))
    tracemalloc.start()
    try:
        found = list(reader.feed(head))
        for _ in range(16 if part == b"x" else 1):
            found += reader.feed(block)
        found += reader.end()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert all(isinstance(row, RowFailure) for row in found)
    assert len(found) <= 2
