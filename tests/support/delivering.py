"""Replicas that deliver messages, over a channel that a test observes and interferes with."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg

from authsvc.config import DeliverySettings
from authsvc.core.messages.delivery import Deliverer, Transport
from authsvc.core.messages.outbox import Message, MessageKind, Outbox
from authsvc.core.messages.templates import MessageBody, RenderedMessage, TemplateContext
from authsvc.models.ids import UserId
from authsvc.store.postgres.database import Database
from tests.support.accounts import KEYRING
from tests.support.clock import FakeClock

ADDRESS = "ada@example.test"
CODE = "83120476"


class PlainRenderer:
    """Renders everything that it is given in one line."""

    def render(self, view: TemplateContext) -> MessageBody:
        return MessageBody(
            f"{view.kind.value} of {view.product}", f"{view.code}|{view.link}", "<p>"
        )


@dataclass
class TestChannel:
    """Records each message that it is given, after `before` returns."""

    __test__ = False

    name: str = "test"
    limit: timedelta = timedelta(seconds=10)
    before: Callable[[RenderedMessage], Awaitable[object]] | None = None
    sent: list[RenderedMessage] = field(default_factory=list)
    tried: int = 0
    closed: bool = False

    async def check(self) -> None:
        pass

    async def send(self, rendered: RenderedMessage) -> None:
        self.tried += 1
        if self.before:
            await self.before(rendered)
        self.sent.append(rendered)

    async def close(self) -> None:
        self.closed = True


class Mail:
    """An outbox on `database` and any number of deliverers of it."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.channel = TestChannel()
        self._deliverers: list[Deliverer] = []
        self.outbox = Outbox(KEYRING, timedelta(hours=24), clock)

    def deliverer(
        self, channel: TestChannel | None = None, *, no_channel: bool = False, **settings: object
    ) -> Deliverer:
        transport = None if no_channel else Transport(channel or self.channel, PlainRenderer())
        made = DeliverySettings.model_validate(settings)
        deliverer = Deliverer(
            database=self.database,
            keyring=KEYRING,
            transport=transport,
            settings=made,
            clock=self.clock,
        )
        self._deliverers.append(deliverer)
        return deliverer

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many attempts of all deliverers had each outcome."""
        outcomes = Counter[str]()
        for deliverer in self._deliverers:
            outcomes.update({name: n for (name,), n in deliverer.outcomes.read().items()})
        return +outcomes

    async def write(
        self, kind: MessageKind = MessageKind.PASSWORD_CHANGED, user_id: UserId | None = None
    ) -> None:
        async with self.database.transaction() as connection:
            await self.outbox.enqueue(connection, Message(kind, ADDRESS, user_id))

    async def write_code(self, lifetime: timedelta = timedelta(minutes=10)) -> None:
        expire_time = self.clock.now() + lifetime
        message = Message(MessageKind.LOGIN_CODE, ADDRESS, None, CODE, expire_time)
        async with self.database.transaction() as connection:
            await self.outbox.enqueue(connection, message)

    async def rows(self, query: str = "SELECT * FROM outbox ORDER BY message_id") -> list[Any]:
        async with self.database.connection() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(query)
        return rows

    async def states(self) -> list[tuple[str, str]]:
        return [(row["state"], row["last_error"]) for row in await self.rows()]


async def forever(_: RenderedMessage) -> None:
    """Hang like a server that neither answers nor disconnects."""
    await asyncio.Event().wait()
