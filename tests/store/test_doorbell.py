"""The doorbell's channels: what rings them, when, and how they are listened to."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

import authsvc.store
from authsvc.errors import StoreUnavailable
from authsvc.store import doorbell, outbox, revocations
from authsvc.store.doorbell import Channel, PoolerError, Subscription
from authsvc.store.outbox import NewMessage
from authsvc.store.postgres.database import Connection, Database
from tests.support.databases import settings_for
from tests.support.proxy import Proxy

_NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Heard:
    """What a subscription received, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Channel, str]] = asyncio.Queue()

    def receive(self, channel: Channel, sender: str) -> None:
        self._queue.put_nowait((channel, sender))

    def all(self) -> list[tuple[Channel, str]]:
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def subscription(database_dsn: str, heard: Heard) -> AsyncIterator[Subscription]:
    opened = await Subscription.open(settings_for(database_dsn), heard.receive, _ignore)
    yield opened
    opened.close()


@pytest.fixture
def rung(database: Database) -> list[frozenset[str]]:
    """The channels that the database rings, commit by commit."""
    rung: list[frozenset[str]] = []
    database.on_commit(rung.append)
    return rung


def _ignore() -> None:
    """Ignore that the connection ended."""


async def _append(connection: Connection) -> None:
    await revocations.append(connection, _NOW, key_id="key")


async def _enqueue(connection: Connection, *, decoy: bool = False) -> None:
    row = NewMessage(uuid4(), "kind", None, b"", _NOW, _NOW + timedelta(hours=1), decoy=decoy)
    assert await outbox.insert(connection, row)


async def _enqueue_decoy(connection: Connection) -> None:
    await _enqueue(connection, decoy=True)


async def _revive(connection: Connection) -> None:
    await outbox.revive(connection, uuid4(), _NOW, _NOW)


@pytest.mark.parametrize(
    ("write", "channel"),
    [
        (_append, Channel.REVOCATIONS),
        (_enqueue, Channel.OUTBOX),
        (_enqueue_decoy, Channel.OUTBOX),
        (_revive, Channel.OUTBOX),
    ],
)
async def test_commit_rings(
    database: Database,
    rung: list[frozenset[str]],
    write: Callable[[Connection], Awaitable[None]],
    channel: Channel,
) -> None:
    async with database.transaction() as connection:
        await write(connection)
        assert rung == []
    assert rung == [{channel}]
    async with database.connection() as connection:
        await write(connection)
    assert rung == [{channel}] * 2
    async with database.transaction() as connection:
        await connection.execute("SELECT 1")
    assert len(rung) == 2


async def test_commit_rings_all_its_channels(
    database: Database, rung: list[frozenset[str]]
) -> None:
    async with database.transaction() as connection:
        await _append(connection)
        await _enqueue(connection)
        await _append(connection)
    assert rung == [{Channel.REVOCATIONS, Channel.OUTBOX}]


async def test_transaction_itself_notifies_nobody(
    database: Database, subscription: Subscription, heard: Heard
) -> None:
    async with database.transaction() as connection:
        await _append(connection)
        await _enqueue(connection)
        await _revive(connection)
    await subscription.confirm()
    assert heard.all() == []


async def test_every_statement_that_has_to_ring_is_known() -> None:
    """Whoever writes a new one has to ring, and to show it as above (or in the topic's tests)."""
    found = set()
    for path in Path(authsvc.store.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and re.search(
                r"INSERT INTO (revocations|outbox)\b|UPDATE outbox SET state = 'pending'",
                str(node.value),
            ):
                assert re.search(
                    r"(ring_after_commit|revocations\.note)\(connection", path.read_text()
                )
                found.add(path.stem)
    assert found == {"revocations", "session_opening", "session_selection", "roles", "outbox"}


async def test_notification_names_channel_and_sender(
    database: Database, subscription: Subscription, heard: Heard
) -> None:
    async with database.connection() as connection:
        await doorbell.notify(connection, [Channel.OUTBOX, Channel.REVOCATIONS], "me")
        await connection.execute("SELECT pg_notify('another_channel', 'x')")
    await subscription.confirm()
    assert heard.all() == [(Channel.OUTBOX, "me"), (Channel.REVOCATIONS, "me")]


async def test_unreachable_server_is_an_outage(heard: Heard) -> None:
    settings = settings_for("postgresql://user@nowhere.invalid/none")
    with pytest.raises(StoreUnavailable):
        await Subscription.open(settings, heard.receive, _ignore)


async def test_terminated_subscription_is_an_outage(
    database: Database, database_dsn: str, heard: Heard
) -> None:
    lost = asyncio.Event()
    subscription = await Subscription.open(settings_for(database_dsn), heard.receive, lost.set)
    async with database.connection() as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    async with asyncio.timeout(30):
        await lost.wait()
    with pytest.raises(StoreUnavailable):
        await subscription.confirm()


@pytest.mark.slow
async def test_silent_server_is_an_outage(database_dsn: str, heard: Heard) -> None:
    async with Proxy(database_dsn) as proxy:
        settings = settings_for(proxy.dsn, command_timeout="1s")
        opened = await Subscription.open(settings, heard.receive, _ignore)
        proxy.hold()
        with pytest.raises(StoreUnavailable):
            await opened.confirm()
        opened.close()


async def test_pooler_is_noticed_before_it_keeps_listening(
    database: Database, database_dsn: str, heard: Heard
) -> None:
    async with Proxy(database_dsn, process_id=4711) as proxy:
        with pytest.raises(PoolerError):
            await Subscription.open(settings_for(proxy.dsn), heard.receive, _ignore)
        async with database.connection() as connection:
            listening = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
    assert listening == 0


async def test_listener_url_takes_precedence(database_dsn: str, heard: Heard) -> None:
    settings = settings_for("postgresql://user@nowhere.invalid/none", listener_url=database_dsn)
    opened = await Subscription.open(settings, heard.receive, _ignore)
    await opened.confirm()
    opened.close()
