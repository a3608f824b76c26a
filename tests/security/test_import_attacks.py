"""Attacks by somebody who writes a file of users, or controls one of its fields, fail."""

import csv
import io
import json
import random
from typing import Any

import pytest
from structlog.testing import capture_logs

from authsvc.core.user_transfer.import_rows import Row, RowFailure, RowReader
from authsvc.core.user_transfer.importing import ImportOptions
from authsvc.errors import FieldInvalid, ServiceError
from tests.core.passwords.test_foreign_forms import STRONG
from tests.core.passwords.test_foreign_hashes import BEYOND, HASHES, MALFORMED
from tests.support.accounts import PASSWORD, Service, unlimited
from tests.support.importing import Importer
from tests.support.logins import Replicas

SMUGGLED = (
    'x"\nevil@example.test,admin,"',
    "\nevil@example.test,admin,\n",
    '\r\nevil@example.test,admin,\r\n"',
    '"',
    '""",admin,"',
    "\n" * 50 + "evil@example.test,admin,",
    'x","y\nevil@example.test,admin,z',
    "\\",
    '\\"',
    '\\"\nevil@example.test,admin,',
    '=cmd|" /C calc"!A0',
    '{"email": "evil@example.test", "roles": ["admin"]}',
    '\n{"email": "evil@example.test", "roles": ["admin"]}\n',
    '", "roles": ["admin"], "x": "',
    "\0\nevil@example.test,admin,",
    "\u2028evil@example.test,admin,\u2028",
    "\x85evil@example.test,admin,\x0b\x0c\x1c\x1d\x1e",
    "\x1a" * 10,
    "\ufeff",
)


def as_csv(names: tuple[str, ...]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["email", "roles", "display_name"])
    writer.writerows([f"u{n}@example.test", "user", name] for n, name in enumerate(names))
    return stream.getvalue().encode()


def as_json(names: tuple[str, ...]) -> bytes:
    rows = ({"email": f"u{n}@example.test", "display_name": name} for n, name in enumerate(names))
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("written", [as_csv, as_json])
async def test_field_content_cannot_inject_rows(importer: Importer, written: Any) -> None:
    counts = await importer.read(written(SMUGGLED), ImportOptions())
    stored = await importer.fetch("SELECT email, roles, display_name FROM users")
    assert {tuple(row["roles"]) for row in stored} == {("user",)}
    assert {row["display_name"] for row in stored} == {
        name for name in SMUGGLED if "\0" not in name
    }
    assert (counts.imported, counts.failed) == (len(SMUGGLED) - 1, 1)


async def test_oversized_content_cannot_inject_rows(importer: Importer) -> None:
    rest = '\nevil@example.test,admin,x\n{"email": "evil@example.test"}\n'
    for written in (as_csv, as_json):
        for name in ("x" * 20_000 + rest, (rest * 500), '"' * 20_001 + rest):
            counts = await importer.read(written((name, "ok")), ImportOptions())
            assert (counts.imported + counts.skipped, counts.failed) == (1, 1)
    assert [row["email"] for row in await importer.fetch("SELECT email FROM users")] == [
        "u1@example.test"
    ]


@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_rejected_without_other_errors(seed: int) -> None:
    source = random.Random(seed)
    pieces = [b'"', b",", b"\n", b"\r", b"\0", b"{", b"}", b"[", b'"email":', b"email", b"\xff"]
    pieces += [b"\xef\xbb\xbf", "é\u2028".encode(), b"a@b.test", b"9" * 400, b" ", b"x" * 600]
    for _ in range(50):
        head = source.choice([b"", b"{", b"email,roles\n", b"email\n"])
        data = head + b"".join(source.choices(pieces, k=source.randint(0, 60)))
        reader = RowReader(1_024)
        cut = source.randint(0, len(data))
        try:
            found = [*reader.feed(data[:cut]), *reader.feed(data[cut:]), *reader.end()]
        except FieldInvalid:
            continue
        assert all(isinstance(row, Row | RowFailure) for row in found)


async def test_hostile_hashes_fail_individually_without_being_shown(
    importer: Importer,
) -> None:
    hostile = [text for text in (BEYOND | MALFORMED).values() if text]
    rows = [
        {"email": f"u{n}@example.test", "password_hash": text} for n, text in enumerate(hostile)
    ]
    with capture_logs() as logs:
        assert await importer.run(*rows, {"email": "ok@example.test"}) == (1, 0, len(rows))
    assert {failure.field for failure in importer.failures} == {"", "password_hash"}
    said = str(importer.failures) + str(logs)
    assert PASSWORD not in said
    assert not any(text[:40] in said for text in hostile if len(text) > 8)


async def test_import_cannot_replace_existing_hash(replicas: Replicas) -> None:
    service = await replicas.start(unlimited())
    await service.register("ada@example.test")
    importer = Importer(service.database, service.hasher, service.clock)
    mine = HASHES["bcrypt 2b"]
    for email in ("ada@example.test", "ADA@EXAMPLE.TEST", "ada@example.tes\uff54"):
        assert (await importer.run({"email": email, "password_hash": mine}))[0] == 0
    assert await service.login(email="ada@example.test") == "OK"


async def imported(replicas: Replicas, **row: Any) -> Service:
    """Return a service with one imported user."""
    service = await replicas.start(unlimited())
    importer = Importer(service.database, service.hasher, service.clock)
    row = {"email": "ada@example.test"} | row
    assert await importer.run(row, accept_weak_hashes=True) == (1, 0, 0)
    return service


RAW = "Пароль ﬁ – 1843"


@pytest.mark.parametrize("text", HASHES.values(), ids=HASHES)
async def test_first_login_replaces_imported_hash(replicas: Replicas, text: str) -> None:
    service = await imported(replicas, password_hash=text)
    assert await service.login(RAW + "x", email="ada@example.test") == "CREDENTIALS_INVALID"
    assert await service.login(RAW, email="ada@example.test") == "OK"
    async with service.database.connection() as connection:
        row = await connection.fetchrow("SELECT password_hash, pepper_id FROM users")
    assert row is not None
    assert row["password_hash"].startswith("v1$argon2id$")
    assert row["pepper_id"] == "p1"
    assert await service.login(RAW, email="ada@example.test") == "OK"
    assert await service.login(RAW + "x", email="ada@example.test") == "CREDENTIALS_INVALID"


@pytest.mark.parametrize(
    ("row", "password"),
    [
        ({"password_hash": HASHES["bcrypt 2b"], "disabled": True}, RAW),
        ({}, RAW),
        ({"password_hash": HASHES["scrypt"]}, RAW + "x"),
    ],
)
async def test_rejected_imported_user_gets_same_response_as_unknown_one(
    replicas: Replicas, row: dict[str, Any], password: str
) -> None:
    service = await imported(replicas, **row)
    assert await service.login(password, email="ada@example.test") == "CREDENTIALS_INVALID"
    assert await service.login(password, email="nobody@example.test") == "CREDENTIALS_INVALID"


async def test_guesses_at_imported_password_are_counted(replicas: Replicas) -> None:
    service = await replicas.start(unlimited(max_consecutive_failures=6))
    importer = Importer(service.database, service.hasher, service.clock)
    await importer.run({"email": "ada@example.test", "password_hash": STRONG["Laravel, bcrypt"]})
    for _ in range(3):
        assert await service.login(email="ada@example.test") == "CREDENTIALS_INVALID"
    assert await service.login(RAW, email="ada@example.test") == "CREDENTIALS_INVALID"


async def test_too_costly_stored_hash_matches_nothing(
    replicas: Replicas,
) -> None:
    service = await imported(replicas, password_hash=STRONG["Laravel, bcrypt"])
    for text in BEYOND.values():
        async with service.database.connection() as connection:
            await connection.execute("UPDATE users SET password_hash = $1", "foreign:" + text)
        assert await service.login(RAW, email="ada@example.test") == "CREDENTIALS_INVALID"


async def test_endless_file_is_rejected(importer: Importer) -> None:
    importer.settings = importer.settings.model_copy(update={"max_file_bytes": 1_000_000})
    for data in (b"\n" * 1_000_001, b"email\n" + b'"' + b"\n" * 1_000_000, b"{" * 1_000_001):
        with pytest.raises(ServiceError, match="At most 1000000"):
            await importer.read(data, ImportOptions())
