"""Resealing moves every value to the newest key, and never overwrites what others write."""

import asyncio
from typing import Any

import pytest

from authsvc.core.lib.sealing import Keyring, read_header
from authsvc.core.secrets_at_rest.resealing import Resealing
from authsvc.models.calls import Call
from authsvc.models.sealing import MESSAGES, SEALED_COLUMNS, SEEDS, SealAlgorithm
from authsvc.store import sealed_values
from authsvc.store.postgres.connector import Connection
from authsvc.store.postgres.database import Database
from authsvc.store.sealed_values import Resealed, SealedValue
from tests.core.secrets_at_rest.conftest import Sealed
from tests.support.accounts import key
from tests.support.clock import FakeClock

CALL = Call("", "cli:tester")
OLD = Keyring([key("k1")])
NEW = Keyring([key("k2"), key("k1")])
NEWEST_ONLY = Keyring([key("k2")])


def resealing(database: Database, clock: FakeClock, keyring: Keyring = NEW) -> Resealing:
    return Resealing(database, keyring, clock)


def ignore(_: int) -> None:
    """Show no progress."""


async def test_list_of_sealed_columns_is_that_of_the_schema(database: Database) -> None:
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT c.table_name || '.' || c.column_name AS name, k.column_name AS row,"
            " (SELECT data_type FROM information_schema.columns d WHERE d.table_name = c.table_name"
            "  AND d.column_name = k.column_name) AS row_type"
            " FROM information_schema.columns c"
            " JOIN information_schema.table_constraints t ON t.table_name = c.table_name"
            "  AND constraint_type = 'PRIMARY KEY'"
            " JOIN information_schema.key_column_usage k USING (constraint_name)"
            " WHERE c.table_schema = 'public' AND c.column_name LIKE 'sealed%'"
        )
    found = {(row["name"], row["row"], row["row_type"]) for row in rows}
    assert found == {(str(each), each.row, each.row_type) for each in SEALED_COLUMNS}


async def test_everything_is_moved_to_newest_key(sealed: Sealed, clock: FakeClock) -> None:
    await sealed.add(OLD, 5)
    await sealed.add(NEW, 1)
    work, seen = resealing(sealed.database, clock), list[int]()
    assert dict(await work.count()) == dict.fromkeys(SEALED_COLUMNS, 5)
    fresh = {at: value for at, value in (await sealed.values()).items() if value[3:4] == b"2"}
    counts = await work.run(CALL, batch_size=2, progress=seen.append)
    assert dict(counts.resealed) == dict.fromkeys(SEALED_COLUMNS, 5)
    assert sum(seen) == 25
    assert (await work.count()).total() == 0
    await sealed.assert_readable(NEWEST_ONLY)
    # What was under the newest key already is left alone.
    values = await sealed.values()
    assert {at: values[at] for at in fresh} == fresh
    async with sealed.database.connection() as connection:
        events = await connection.fetch("SELECT type, caller, detail FROM audit_events")
    assert [tuple(event) for event in events] == [("key.reseal", CALL.caller, '{"key_id": "k2"}')]


async def test_messages_that_were_sent_hold_nothing_to_reseal(
    sealed: Sealed, clock: FakeClock
) -> None:
    await sealed.add(OLD, 2)
    async with sealed.database.transaction() as connection:
        await connection.execute("UPDATE outbox SET state = 'sent', sealed_content = ''")
        assert await sealed_values.count_by_header(connection, MESSAGES) == {}
    work = resealing(sealed.database, clock)
    assert (await work.count())[MESSAGES] == 0
    counts = await work.run(CALL, batch_size=10, progress=ignore)
    assert counts.unreadable == {}


async def test_everything_is_moved_to_current_algorithm(sealed: Sealed, clock: FakeClock) -> None:
    chacha = Keyring([key("k1")], SealAlgorithm.CHACHA20_POLY1305)
    await sealed.add(OLD)
    await sealed.add(chacha)
    # Both are readable, whatever the algorithm of the settings is.
    await sealed.assert_readable(OLD)
    await sealed.assert_readable(chacha)
    await resealing(sealed.database, clock, chacha).run(CALL, batch_size=10, progress=ignore)
    headers = {read_header(value) for value in (await sealed.values()).values()}
    assert headers == {chacha.newest}
    await sealed.assert_readable(OLD)


async def test_interrupted_run_is_continued(sealed: Sealed, clock: FakeClock) -> None:
    await sealed.add(OLD, 4)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    work = resealing(sealed.database, clock)
    with pytest.raises(KeyboardInterrupt):
        await work.run(CALL, batch_size=3, progress=interrupt)
    assert (await work.count()).total() == 4 * len(SEALED_COLUMNS) - 3
    counts = await work.run(CALL, batch_size=3, progress=ignore)
    assert counts.resealed.total() == 4 * len(SEALED_COLUMNS) - 3
    await sealed.assert_readable(NEWEST_ONLY)


async def test_value_that_cannot_be_opened_stays_and_is_reported(
    sealed: Sealed, clock: FakeClock
) -> None:
    await sealed.add(Keyring([key("lost")]), 2, to=SEEDS)
    await sealed.add(OLD, to=SEEDS)
    before = await sealed.values()
    counts = await resealing(sealed.database, clock).run(CALL, batch_size=1, progress=ignore)
    assert dict(counts.resealed) == {SEEDS: 1}
    assert dict(counts.unreadable) == {(SEEDS, "lost"): 2}
    assert len(set(before.values()) & set((await sealed.values()).values())) == 2
    assert (await resealing(sealed.database, clock).count()).total() == 2


async def test_value_changed_since_it_was_read_is_not_overwritten(sealed: Sealed) -> None:
    [(column, row)] = await sealed.add(OLD, to=SEEDS)
    read = (await sealed.values())[column, row]
    fresh = NEW.seal(b"new seed", **column.place(row))
    async with sealed.database.transaction() as connection:
        await connection.execute("UPDATE factors SET sealed_seed = $1", fresh)
    late = Resealed(SealedValue(row, read), NEW.seal(b"old seed", **column.place(row)))
    async with sealed.database.transaction() as connection:
        assert await sealed_values.replace(connection, column, [late]) == 0
    assert (await sealed.values())[column, row] == fresh


async def test_value_changed_while_it_is_replaced_is_not_overwritten(
    sealed: Sealed, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction changes a value between the reading and the replacing of a batch."""
    [(column, row), *_] = await sealed.add(OLD, 3, to=SEEDS)
    original, changed = sealed_values.list_others, asyncio.Event()

    async def list_then_change(connection: Connection, *arguments: Any) -> object:
        found = await original(connection, *arguments)
        if not changed.is_set():
            changed.set()
            fresh = OLD.seal(b"new seed", **column.place(row))
            await connection.execute(
                "UPDATE factors SET sealed_seed = $1 WHERE factor_id = $2", fresh, row
            )
            sealed.plaintexts[column, row] = b"new seed"
        return found

    monkeypatch.setattr(sealed_values, "list_others", list_then_change)
    counts = await resealing(sealed.database, clock).run(CALL, batch_size=10, progress=ignore)
    # The second pass moves the new value.
    assert dict(counts.resealed) == {SEEDS: 3}
    await sealed.assert_readable(NEWEST_ONLY)


async def test_row_that_somebody_holds_is_left_for_the_next_run(
    sealed: Sealed, clock: FakeClock
) -> None:
    [(_, row), *_] = await sealed.add(OLD, 3, to=SEEDS)
    work = resealing(sealed.database, clock)
    async with sealed.database.transaction() as holder:
        await holder.execute("SELECT FROM factors WHERE factor_id = $1 FOR UPDATE", row)
        counts = await work.run(CALL, batch_size=2, progress=ignore)
        assert dict(counts.resealed) == {SEEDS: 2}
    assert (await work.count()).total() == 1
    assert dict((await work.run(CALL, batch_size=2, progress=ignore)).resealed) == {SEEDS: 1}
    await sealed.assert_readable(NEWEST_ONLY)


async def test_runs_at_the_same_time_lose_nothing(sealed: Sealed, clock: FakeClock) -> None:
    await sealed.add(OLD, 30)
    runs = [resealing(sealed.database, clock) for _ in range(4)]
    await asyncio.gather(*(each.run(CALL, batch_size=7, progress=ignore) for each in runs))
    await runs[0].run(CALL, batch_size=50, progress=ignore)
    await sealed.assert_readable(NEWEST_ONLY)
