"""The revocation log: what is appended, and that each reader reads each revocation once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.lib.ids import uuid7
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import ApiKeyId, SessionId, UserId
from authsvc.models.revocations import LoggedRevocation, RevocationCursor
from authsvc.store import revocations
from authsvc.store.log_reading import LogConnection, LogRead, Position
from authsvc.store.postgres.connector import Connection, Server
from authsvc.store.postgres.database import Database
from authsvc.store.postgres.migrator import migrate
from tests.support.clock import FakeClock
from tests.support.databases import kill, opened, settings_for
from tests.support.proxy import Proxy

_LIMIT = 1_000
_PATIENCE = 60.0
# Rows in a page, of each of the readers whose steps are arranged.
_LIMITS = (_LIMIT, 1, 3)


class Reader:
    """Reads the log as a replica does, from read to read."""

    def __init__(self, connection: LogConnection, limit: int = _LIMIT) -> None:
        self.connection = connection
        self.limit = limit
        self.position: Position | None = None

    async def read(self) -> LogRead[LoggedRevocation]:
        read = await self.connection.read(revocations.LOG, self.position, self.limit, _PATIENCE)
        self.position = read.position
        return read

    async def page(self) -> tuple[list[str], bool]:
        """Return the ids of a page, and whether it is the last."""
        read = await self.read()
        assert read.rows is not None
        assert len(read.rows) <= self.limit
        return [revocation.id for revocation in read.rows], read.is_complete

    async def keys(self) -> list[str]:
        """Return the ids that are new, from as many pages as there are."""
        keys: list[str] = []
        is_complete = False
        while not is_complete:
            page, is_complete = await self.page()
            keys += page
        return keys


@asynccontextmanager
async def _reading(database: Database) -> AsyncIterator[Reader]:
    connection = await LogConnection.open(database)
    try:
        yield Reader(connection)
    finally:
        connection.close()


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[Reader]:
    async with _reading(database) as reader:
        await reader.read()
        yield reader


async def _append(database: Database, key_id: str) -> None:
    async with database.connection() as connection:
        await revocations.append(connection, datetime.now(UTC), key_id=key_id)


async def test_all_kinds_of_a_transaction_are_read_once(
    database: Database, clock: FakeClock, reader: Reader
) -> None:
    sessions = [SessionId(uuid7(clock.now())) for _ in range(100)]
    user, api_key = UserId(uuid7(clock.now())), ApiKeyId(uuid7(clock.now()))
    async with database.transaction() as connection:
        await revocations.append(
            connection,
            clock.now(),
            session_ids=sessions,
            user_id=user,
            key_id="key-1",
            api_key_id=api_key,
        )
        assert (await reader.read()).rows == []
    found = (await reader.read()).rows
    assert found is not None
    assert len(found) == 103
    assert set(found) == {
        *(LoggedRevocation("session", str(session), clock.now()) for session in sessions),
        LoggedRevocation("user", str(user), clock.now()),
        LoggedRevocation("key", "key-1", clock.now()),
        LoggedRevocation("api_key", str(api_key), clock.now()),
    }
    assert (await reader.read()).rows == []


async def test_log_keeps_revocations(database: Database, clock: FakeClock) -> None:
    session, user = SessionId(uuid7(clock.now())), UserId(uuid7(clock.now()))
    async with database.transaction() as connection:
        await revocations.append(connection, clock.now(), session_ids=[session], user_id=user)
        await revocations.append(connection, clock.now(), key_id="key-1")
        await revocations.append(connection, clock.now())
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT session_id, user_id, key_id, revoke_time FROM revocations "
            "ORDER BY revocation_id"
        )
    assert [tuple(row) for row in rows] == [
        (session, None, None, clock.now()),
        (None, user, None, clock.now()),
        (None, None, "key-1", clock.now()),
    ]


async def test_row_has_exactly_one_subject(database: Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "INSERT INTO revocations (user_id, key_id, revoke_time) VALUES ($1, 'k', now())",
                UUID(int=1),
            )


async def test_commit_after_later_ones_were_read_is_not_missed(
    database: Database, reader: Reader
) -> None:
    async with database.transaction() as late:
        await revocations.append(late, datetime.now(UTC), key_id="late")
        await _append(database, "early")
        assert await reader.keys() == ["early"]
        assert await reader.keys() == []
    assert await reader.keys() == ["late"]
    assert await reader.keys() == []


async def test_transaction_that_stays_open_costs_one_entry(
    database: Database, reader: Reader
) -> None:
    async with database.transaction() as endless:
        await revocations.append(endless, datetime.now(UTC), key_id="at last")
        for number in range(300):
            await _append(database, str(number))
            assert await reader.keys() == [str(number)]
        assert reader.position
        assert len(reader.position.in_progress) == 1
    assert await reader.keys() == ["at last"]


@dataclass
class _Writer:
    connection: Connection
    is_open: bool = False
    pending: set[str] = field(default_factory=set)


class _Log:
    """Writers and readers whose steps hypothesis arranges."""

    def __init__(self, runner: asyncio.Runner, stack: AsyncExitStack, dsn: str) -> None:
        self._runner = runner
        self._stack = stack
        self._dsn = dsn
        self.writers: list[_Writer] = []
        self.readers: list[Reader] = []
        runner.run(self._open())

    async def _open(self) -> None:
        database = await self._stack.enter_async_context(opened(self._dsn))
        for _ in range(3):
            connection = await asyncpg.connect(self._dsn)
            self._stack.push_async_callback(connection.close)
            self.writers.append(_Writer(connection))
        for limit in _LIMITS:
            self.readers.append(Reader(await LogConnection.open(database), limit))
            self._stack.callback(self.readers[-1].connection.close)

    def replay(self, steps: list[tuple[str, int]]) -> None:
        self._runner.run(self._replay(steps))

    async def _replay(self, steps: list[tuple[str, int]]) -> None:
        committed: list[set[str]] = [set() for _ in self.readers]
        for reader in self.readers:
            reader.position = None
            await reader.read()
        for step, number in steps:
            writer = self.writers[number]
            if step == "read":
                keys = await self.readers[number].keys()
                assert len(keys) == len(set(keys))
                assert set(keys) == committed[number]
                committed[number] = set()
            elif step == "read a page":
                page, is_complete = await self.readers[number].page()
                assert len(page) == len(set(page))
                assert set(page) <= committed[number]
                committed[number] -= set(page)
                assert not (is_complete and committed[number])
            elif step in {"commit", "roll back"}:
                await self._end(writer, commit=step == "commit", committed=committed)
            else:
                await self._append(writer, in_savepoint=step == "append in savepoint")
        for writer in self.writers:
            await self._end(writer, commit=False, committed=committed)

    async def _append(self, writer: _Writer, *, in_savepoint: bool) -> None:
        if not writer.is_open:
            await writer.connection.execute("BEGIN")
            writer.is_open = True
        key = str(uuid4())
        if in_savepoint:
            await writer.connection.execute("SAVEPOINT inner_one")
        await revocations.append(writer.connection, datetime.now(UTC), key_id=key)
        if in_savepoint:
            await writer.connection.execute("RELEASE SAVEPOINT inner_one")
        writer.pending.add(key)

    async def _end(self, writer: _Writer, *, commit: bool, committed: list[set[str]]) -> None:
        if writer.is_open:
            await writer.connection.execute("COMMIT" if commit else "ROLLBACK")
            if commit:
                for unread in committed:
                    unread.update(writer.pending)
        writer.is_open, writer.pending = False, set()


@pytest.fixture(scope="module")
def log(worker_dsn: str) -> Iterator[_Log]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield _Log(runner, stack, worker_dsn)
        runner.run(stack.aclose())


_STEPS = st.tuples(
    st.sampled_from(
        ["append", "append in savepoint", "commit", "roll back", "read", "read a page"]
    ),
    st.integers(0, 2),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(steps=st.lists(_STEPS, max_size=30))
def test_every_interleaving_is_read_exactly_once(log: _Log, steps: list[tuple[str, int]]) -> None:
    log.replay(steps)


async def test_first_read_takes_only_the_position(database: Database) -> None:
    await _append(database, "old")
    async with _reading(database) as reader:
        assert (await reader.read()).rows is None
        assert await reader.keys() == []


async def test_rows_of_another_cluster_are_left_out(database: Database, reader: Reader) -> None:
    """A restored dump keeps transaction ids that this cluster has not given out yet."""
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO revocations (transaction_id, key_id, revoke_time)"
            " VALUES ('9000000000', 'future', now())"
        )
    assert await reader.keys() == []
    await _append(database, "present")
    assert await reader.keys() == ["present"]


async def test_transaction_ids_that_went_back_are_a_gap(database: Database, reader: Reader) -> None:
    assert reader.position
    reader.position = replace(reader.position, xmax=reader.position.xmax + 1_000_000)
    await _append(database, "missed otherwise")
    assert (await reader.read()).rows is None


@pytest.mark.slow
async def test_crash_ends_the_run_of_the_server(own_server: EmbeddedPostgres) -> None:
    """The ids of transactions that were not flushed are given out again after a crash."""
    await migrate(own_server.dsn())
    positions = []
    for _ in range(2):
        async with opened(own_server.dsn()) as database, _reading(database) as reader:
            await reader.read()
            positions.append(reader.position)
            assert (await reader.read()).rows == []
            kill(own_server)
            with pytest.raises(StoreUnavailable):
                await reader.read()
        await asyncio.to_thread(own_server.start)
    async with opened(own_server.dsn()) as database, _reading(database) as reader:
        reader.position = positions[-1]
        assert (await reader.read()).rows is None
    assert len({position.run_id for position in positions if position}) == 2


async def test_read_tells_the_database_time(database: Database, reader: Reader) -> None:
    async with database.connection() as connection:
        before = await connection.fetchval("SELECT clock_timestamp()")
    first, second = (await reader.read()).database_time, (await reader.read()).database_time
    assert before < first < second


async def test_server_that_became_read_only_is_left_by_the_pool(
    database: Database, reader: Reader
) -> None:
    left: list[str] = []
    database.on_leave(lambda: left.append("left"))
    # As ALTER SYSTEM does, without disturbing the other tests of this server.
    await reader.connection._connection.execute("SET default_transaction_read_only = on")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await reader.read()
    # Once: the second read met a server that had been left.
    assert left == ["left"]


async def test_server_on_another_timeline_is_left_by_the_pool(
    database: Database, reader: Reader
) -> None:
    left: list[str] = []
    database.on_leave(lambda: left.append("left"))
    connection = reader.connection._connection
    assert connection.server
    # Behind a pooler, the server changes under an open connection.
    connection.server = Server(connection.server.system, "000000FF")
    with pytest.raises(StoreUnavailable):
        await reader.read()
    assert left == ["left"]


async def test_unreachable_server_is_an_outage(database: Database, database_dsn: str) -> None:
    async with (
        Proxy(database_dsn) as proxy,
        opened(proxy.dsn) as through,
        _reading(through) as reader,
    ):
        await reader.read()
        proxy.hold()
        with pytest.raises(StoreUnavailable):
            await reader.connection.read(revocations.LOG, reader.position, _LIMIT, 0.1)
        proxy.release()
    with pytest.raises(StoreUnavailable):
        await Database.open(settings_for(proxy.dsn))


async def test_reader_that_knows_a_transaction_knows_all_that_were_acknowledged_before_it_ended(
    database_dsn: str,
) -> None:
    """So the cursor of a transaction names what all those before it revoked, too."""
    chains = list[list[RevocationCursor]]()
    now = datetime(2030, 1, 1, tzinfo=UTC)

    async def write(database: Database) -> None:
        for _ in range(15):
            chain = []
            for _ in range(3):
                async with database.transaction() as connection:
                    await revocations.append(connection, now, session_ids=[SessionId(uuid4())])
                    chain.append(await revocations.cursor_of_now(connection))
            async with database.connection() as connection:
                # Of a statement that writes nothing.
                chain.append(await revocations.cursor_of_now(connection))
            chains.append(chain)

    async def read(positions: list[Position], writing: asyncio.Task[None]) -> None:
        connection = await LogConnection.open(database)
        reader = Reader(connection)
        while not writing.done():
            positions.append((await reader.read()).end)
        connection.close()

    async with opened(database_dsn, pool_max=8) as database:
        works = _all([write(database) for _ in range(6)])
        writing = asyncio.create_task(works)
        seen = list[Position]()
        await _all([read(seen, writing) for _ in range(2)])
        await writing
    assert {cursor.run_id for chain in chains for cursor in chain} == {seen[0].run_id}
    for position in seen:
        for chain in chains:
            known = [position.knows(cursor.transaction) for cursor in chain]
            assert known == sorted(known, reverse=True)
    # Some were read half-way.
    assert any(
        0 < sum(position.knows(cursor.transaction) for cursor in chain) < len(chain)
        for position in seen
        for chain in chains
    )


async def _all(works: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*works)
