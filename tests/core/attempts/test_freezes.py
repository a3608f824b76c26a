"""Frozen logins: what is refused, when it is known, and what happens when it can't be known."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from authsvc.core.attempts.freezes import LoginFreezes
from authsvc.core.lib.clock import elapsed
from authsvc.errors import FailedPrecondition, StoreUnavailable
from authsvc.models.calls import ClientContext
from authsvc.models.incidents import LoginFreeze, LoginMethod
from authsvc.store import login_freezes as store
from authsvc.store.postgres.database import Connection, Database
from tests.support.databases import opened, until
from tests.support.jobs import running

HERE, THERE = ClientContext("198.51.100.7"), ClientContext("2001:db8:1:2::9")
NOWHERE = ClientContext()


async def freeze(
    database: Database,
    *methods: LoginMethod,
    network: str | None = None,
    duration: timedelta = timedelta(hours=1),
) -> UUID:
    async with database.transaction() as connection:
        made = await store.upsert(
            connection, uuid4(), methods, network, duration, "cli:test", "drill"
        )
    return made.freeze_id


async def refused(freezes: LoginFreezes, client: ClientContext) -> set[LoginMethod]:
    """Return the methods by which this client can't log in."""
    found = set()
    for method in LoginMethod:
        try:
            await freezes.require_open(method, client)
        except FailedPrecondition as error:
            found.add(LoginMethod(error.metadata["method"]))
    return found


EVERY = set(LoginMethod)
PASSWORD, CODE = LoginMethod.PASSWORD, LoginMethod.CODE


@pytest.mark.parametrize(
    ("methods", "network", "here", "there", "nowhere"),
    [
        ((), None, EVERY, EVERY, EVERY),
        ((PASSWORD, CODE), None, {PASSWORD, CODE}, {PASSWORD, CODE}, {PASSWORD, CODE}),
        ((), "198.51.100.0/24", EVERY, set(), set()),
        ((PASSWORD,), "2001:db8:1:2::/64", set(), {PASSWORD}, set()),
        ((), "198.51.100.7/32", EVERY, set(), set()),
        ((), "198.51.100.8/32", set(), set(), set()),
    ],
)
async def test_freeze_refuses_its_methods_from_its_network(
    methods: Sequence[LoginMethod],
    network: str | None,
    here: set[LoginMethod],
    there: set[LoginMethod],
    nowhere: set[LoginMethod],
    database: Database,
) -> None:
    await freeze(database, *methods, network=network)
    freezes = LoginFreezes(database)
    assert await refused(freezes, HERE) == here
    assert await refused(freezes, THERE) == there
    assert await refused(freezes, NOWHERE) == nowhere
    counted = {method: count for (method,), count in freezes.refusals.read().items() if count}
    assert counted == Counter([*here, *there, *nowhere])
    assert freezes.in_force == 1


async def test_same_freeze_again_changes_its_end_and_an_ended_one_refuses_nothing(
    database: Database,
) -> None:
    first = await freeze(database, PASSWORD, CODE, network="198.51.100.0/24")
    assert await freeze(database, CODE, PASSWORD, network="198.51.100.0/24") == first
    assert await freeze(database, PASSWORD) != await freeze(database)
    async with database.transaction() as connection:
        assert len(await store.list_all(connection)) == 3
        await connection.execute("UPDATE login_freezes SET expire_time = now() - interval '1 ms'")
    assert await refused(LoginFreezes(database), HERE) == set()


async def test_replicas_learn_of_freezes_by_reading_without_any_ring(
    database_dsn: str, database: Database
) -> None:
    async with opened(database_dsn) as other:
        freezes = LoginFreezes(other)
        async with running(freezes):
            await freezes.require_open(PASSWORD, HERE)
            made = await freeze(database, PASSWORD)

            async def known() -> bool:
                return freezes.in_force == 1

            await until(known)
            assert await refused(freezes, HERE) == {PASSWORD}
            async with database.transaction() as connection:
                assert [one.freeze_id for one in await store.delete(connection, [made])] == [made]
                assert await store.delete(connection, [made]) == []

            async def lifted() -> bool:
                return freezes.in_force == 0

            await until(lifted)
            assert await refused(freezes, HERE) == set()


async def test_what_may_be_outdated_is_read_again_before_anybody_gets_in(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezes = LoginFreezes(database)
    assert await refused(freezes, HERE) == set()
    await freeze(database, PASSWORD)
    now = elapsed()
    monkeypatch.setattr("authsvc.core.attempts.freezes.elapsed", lambda: now + 2.0)
    assert await refused(freezes, HERE) == {PASSWORD}


async def test_nobody_gets_in_while_freezes_cannot_be_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezes = LoginFreezes(database)
    await freezes.require_open(PASSWORD, HERE)
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE login_freezes RENAME TO gone")
        # What stands in for a database that does not answer, as a missing table is a defect.
        await connection.execute(
            "CREATE VIEW login_freezes AS SELECT * FROM gone"
            " WHERE (SELECT require_primary('ffffffff'))"
        )
    now = elapsed()
    monkeypatch.setattr("authsvc.core.attempts.freezes.elapsed", lambda: now + 2.0)
    with pytest.raises(StoreUnavailable):
        await freezes.require_open(PASSWORD, HERE)


async def test_concurrent_logins_share_the_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    list_all = store.list_all

    async def counted(connection: Connection) -> list[LoginFreeze]:
        nonlocal reads
        reads += 1
        return await list_all(connection)

    monkeypatch.setattr(store, "list_all", counted)
    freezes = LoginFreezes(database)
    await asyncio.gather(*(freezes.require_open(PASSWORD, HERE) for _ in range(50)))
    assert reads <= 2
