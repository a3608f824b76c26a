"""An export contains all users, in constant memory, and an import of it restores them."""

import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import closing

import pytest

from authsvc.core.passwords.hashing import PasswordHasher
from authsvc.core.user_transfer.exporting import UserExport
from authsvc.core.user_transfer.importing import ImportOptions, UserImport
from authsvc.store.postgres.database import Database
from tests.core.passwords.test_foreign_forms import STRONG
from tests.core.passwords.test_foreign_hashes import HASHES
from tests.support.accounts import CLI, PASSWORD, PEPPERS, cheap_passwords, key
from tests.support.clock import FakeClock
from tests.support.importing import ROLES, Importer


@pytest.mark.slow
async def test_export_can_be_imported_unchanged(importer: Importer) -> None:
    own = await importer.hasher.hash(PASSWORD)
    rows = [
        {"email": f"{n}@example.test", "password_hash": text}
        for n, text in enumerate(HASHES.values())
    ]
    rows.append({"email": "own@x.test", "password_hash": own.portable, "pepper_id": "p1"})
    more = [
        {"email": "Ünï@exämple.test", "display_name": 'Ä "quoted"\n\u2028name', "roles": []},
        {"email": "off@x.test", "disabled": True, "email_verified": True, "roles": ["a", "b"]},
    ]
    assert await importer.run(*rows, *more, accept_weak_hashes=True) == (len(rows) + 2, 0, 0)
    before = await importer.fetch("SELECT * FROM users ORDER BY user_id")
    exported = await importer.export()
    assert len(exported) == len(rows) + 2
    async with importer.database.connection() as connection:
        await connection.execute("DELETE FROM users")
    assert await importer.run(*exported) == (len(rows) + 2, 0, 0)
    assert await importer.fetch("SELECT * FROM users ORDER BY user_id") == before
    assert await importer.export() == exported


async def test_export_without_passwords_contains_none(importer: Importer) -> None:
    await importer.run({"email": "a@x.test", "password_hash": STRONG["Django, bcrypt"]})
    assert "password_hash" in str(await importer.export())
    (row,) = await importer.export(with_passwords=False)
    assert not {"password_hash", "pepper_id"} & row.keys()
    assert "$2b$" not in str(row)


async def test_own_hashes_require_their_pepper(importer: Importer, database: Database) -> None:
    own = await importer.hasher.hash(PASSWORD)
    await importer.run({"email": "a@x.test", "password_hash": own.portable, "pepper_id": "p1"})
    (row,) = await importer.export()
    row["email"] = "b@x.test"
    del row["user_id"]
    with closing(PasswordHasher(cheap_passwords(), [key("p2")])) as elsewhere:
        other = Importer(database, elsewhere, importer.clock)
        assert await other.run(row) == (0, 0, 1)
    assert [failure.field for failure in other.failures] == ["password_hash"]
    with closing(PasswordHasher(cheap_passwords(), [key("p2"), *PEPPERS])) as renewed:
        assert await Importer(database, renewed, importer.clock).run(row) == (1, 0, 0)


@pytest.mark.slow
async def test_batches_have_no_gaps_or_overlaps(importer: Importer) -> None:
    await importer.run(*({"email": f"u{n}@example.test"} for n in range(2_000)))
    exported = await importer.export()
    assert len({row["email"] for row in exported}) == 2_000
    assert [row["user_id"] for row in exported] == sorted(row["user_id"] for row in exported)


@pytest.mark.slow
@pytest.mark.parametrize("with_passwords", [False, True])
async def test_export_is_recorded_before_first_line(
    importer: Importer, with_passwords: bool
) -> None:
    await importer.run({"email": "a@x.test"})
    users = UserExport(importer.database, importer.clock).run(CLI, with_passwords=with_passwords)
    await anext(users)
    (event,) = await importer.fetch("SELECT * FROM audit_events WHERE type = 'users.export'")
    assert json.loads(event["detail"]) == {"with_passwords": with_passwords}
    assert event["caller"] == CLI.caller


async def _peak_of_import(importer: Importer, rows: int) -> int:
    """Return the peak memory of an import of this many rows."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, rows, 100):
            yield b"".join(
                b'{"email": "u%d-%d@example.test", "password_hash": "%s"}\n'
                % (rows, n, STRONG["Django, bcrypt"].encode())
                for n in range(start, start + 100)
            )

    work = UserImport(
        database=importer.database,
        hasher=importer.hasher,
        permissions=ROLES,
        settings=importer.settings,
        clock=importer.clock,
    )
    return await _peak(work.run(CLI, parts(), ImportOptions(), importer.failures.append))


async def _peak(work: object) -> int:
    tracemalloc.start()
    try:
        await work  # type: ignore[misc]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def _drain(importer: Importer) -> None:
    clock: FakeClock = importer.clock
    async for _ in UserExport(importer.database, clock).run(CLI, with_passwords=True):
        pass


@pytest.mark.slow
async def test_memory_use_is_independent_of_number_of_users(importer: Importer) -> None:
    await _peak_of_import(importer, 1_000)
    few, many = await _peak_of_import(importer, 1_000), await _peak_of_import(importer, 6_000)
    assert many < 1.5 * few + 500_000
    await _drain(importer)
    assert await _peak(_drain(importer)) < 8_000_000
