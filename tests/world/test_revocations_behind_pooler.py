"""Revocations behind a real PgBouncer in transaction mode, through which no notification comes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio

from authsvc.app.build import Parts, open_parts
from authsvc.config import DatabaseSettings, Settings
from authsvc.core.accounts.accounts import Registration
from authsvc.core.lib.clock import elapsed
from authsvc.core.sessions.validation import SessionCheck
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import UserId
from authsvc.models.tokens import Tokens
from authsvc.store.postgres.migrator import migrate
from tests.support.accounts import CALL, EMAIL, PASSWORD, cheap_passwords
from tests.support.databases import kill
from tests.support.jobs import running
from tests.support.pgbouncer import PgBouncer
from tests.support.sessions import CLIENT, METHODS
from tests.world.install import PGBOUNCER

pytestmark = pytest.mark.world

_PATIENCE = 60.0


@dataclass
class Behind:
    """Two replicas behind a pooler."""

    here: Parts
    there: Parts
    user_id: UserId
    pooler: PgBouncer

    async def open(self) -> Tokens:
        """Open a session that the other replica has in its cache."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                with suppress(StoreUnavailable):
                    opening = self.here.use.session_opening
                    tokens = await opening.create(CALL, self.user_id, CLIENT, METHODS)
                    while await self.accepts(tokens):
                        cached = self.there.use.session_validation.find_cached(tokens.session_id)
                        if cached is not None:
                            return tokens
                await asyncio.sleep(0.02)

    async def accepts(self, tokens: Tokens) -> bool:
        """Return whether the other replica takes the session for active."""
        check = SessionCheck(tokens.session_token, CLIENT)
        try:
            return (await self.there.use.session_validation.validate(check)).active
        except StoreUnavailable:
            return False

    async def revoke(self, tokens: Tokens) -> float:
        """Revoke a session; return when that was acknowledged."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                with suppress(StoreUnavailable):
                    await self.here.use.session_ending.revoke(CALL, tokens.session_id)
                    return elapsed()
                await asyncio.sleep(0.02)

    async def watch(self, tokens: Tokens, acknowledged: float, bound: float) -> None:
        """Check for twice the bound that no call that began after it accepts the session."""
        async with asyncio.timeout(_PATIENCE):
            while (begun := elapsed()) <= acknowledged + 2 * bound:
                accepted = await self.accepts(tokens)
                assert not (accepted and begun > acknowledged + bound)
                await asyncio.sleep(0.002)


@pytest_asyncio.fixture
async def behind(settings: Settings, own_server: EmbeddedPostgres) -> AsyncIterator[Behind]:
    await migrate(own_server.dsn())
    async with AsyncExitStack() as stack:
        # By default it waits 15 s before it tries a server again that it did not reach.
        impatient = {"server_login_retry": 1, "server_connect_timeout": 2}
        pooler = await stack.enter_async_context(
            PgBouncer(PGBOUNCER, own_server.dsn(), **impatient)
        )
        database = DatabaseSettings.model_validate({"url": pooler.dsn})
        changes = {"database": database, "passwords": cheap_passwords()}
        replicas = []
        for _ in range(2):
            parts = await stack.enter_async_context(open_parts(settings.model_copy(update=changes)))
            await parts.use.signing_keys.load()
            await stack.enter_async_context(running(parts.revocation_reader, parts.doorbell))
            replicas.append(parts)
        registered = await replicas[0].use.accounts.register(CALL, Registration(EMAIL, PASSWORD))
        here, there = replicas
        yield Behind(here, there, registered.user_id, pooler)


async def test_bound_holds_without_any_listener(
    behind: Behind, settings: Settings, own_server: EmbeddedPostgres
) -> None:
    bound = settings.sessions.cache_staleness.total_seconds()
    for accident in ("none", "pooler restarts", "server crashes"):
        tokens = await behind.open()
        if accident == "pooler restarts":
            behind.pooler.kill()
            behind.pooler.start()
        elif accident == "server crashes":
            kill(own_server)
            await asyncio.to_thread(own_server.start)
        await behind.watch(tokens, await behind.revoke(tokens), bound)
    assert not behind.here.doorbell.is_listening
    assert not behind.there.doorbell.is_listening
