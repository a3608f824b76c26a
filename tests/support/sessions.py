"""Sessions built from real parts: any number of replicas on one database."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import pytest_asyncio

from authsvc.config import SessionSettings, TokenSettings
from authsvc.core.lib.ids import uuid7
from authsvc.core.lib.last_use import LastUse
from authsvc.core.lib.sealing import Keyring
from authsvc.core.lib.slices import Slices
from authsvc.core.revocations.known import KnownRevocations
from authsvc.core.roles.permissions import Permissions
from authsvc.core.sessions.cache import SessionCache
from authsvc.core.sessions.ending import SessionEnding
from authsvc.core.sessions.listing import SessionListing
from authsvc.core.sessions.opening import SessionOpening
from authsvc.core.sessions.reading import SessionReader
from authsvc.core.sessions.refresh import SessionRefresh
from authsvc.core.sessions.refresh_tokens import RefreshTokenCodec
from authsvc.core.sessions.token_issuing import SessionCookies, TokenIssuer
from authsvc.core.sessions.validation import SessionCheck, SessionResult, SessionValidation
from authsvc.core.signing.access_tokens import AccessTokens
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.core.tokens.validation import TokenValidation
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Tokens
from authsvc.store import sessions as store
from authsvc.store.postgres.database import Connection, Database
from tests.support.clock import FakeClock
from tests.support.tokens import PERMISSIONS, keyring, load_keys, token_settings

CALL = Call("request-1", "spiffe://authsvc.dev/app")
CLIENT = ClientContext("192.0.2.1", "Browser/1", "phone")
METHODS = ("pwd",)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


class HeldDatabase(Database):
    """The real database, which can hold back a caller that has finished reading.

    `has_read` is set when a caller is held back, `go_on` releases it and all later ones; `borrowed`
    counts them.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database._pool)
        self.has_read = asyncio.Event()
        self.go_on = asyncio.Event()
        self.borrowed = 0

    @asynccontextmanager
    async def connection(self, key: Hashable = None) -> AsyncIterator[Connection]:
        self.borrowed += 1
        async with super().connection(key) as connection:
            yield connection
        self.has_read.set()
        await self.go_on.wait()


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """One replica's session use cases, on one cache."""

    opening: SessionOpening
    validation: SessionValidation
    refreshing: SessionRefresh
    ending: SessionEnding
    listing: SessionListing
    cache: SessionCache
    last_use: LastUse[SessionId]


def build_sessions(
    access_tokens: AccessTokens,
    database: Database,
    clock: FakeClock,
    *,
    ring: Keyring,
    settings: SessionSettings,
    tokens: TokenSettings,
    permissions: Permissions = PERMISSIONS,
    is_fresh: Callable[[], bool] = lambda: True,
    slices: Slices | None = None,
) -> Sessions:
    """Return the use cases of a replica, which is not notified of revocations."""
    codec = RefreshTokenCodec(ring.derive("refresh-token"))
    issuer = TokenIssuer(access_tokens, codec, SessionCookies(settings.cookie, clock))
    cache = SessionCache(settings.cache_size)
    last_use = LastUse(database, store.touch, settings.last_use_interval)
    return Sessions(
        opening=SessionOpening(
            database=database,
            issuer=issuer,
            settings=settings,
            tokens=tokens,
            permissions=permissions,
            clock=clock,
        ),
        validation=SessionValidation(
            reader=SessionReader(
                database=database, cache=cache, settings=settings, tokens=tokens, clock=clock
            ),
            cache=cache,
            last_use=last_use,
            settings=settings,
            clock=clock,
            is_fresh=is_fresh,
            revocations=KnownRevocations(),
            slices=slices or Slices(),
        ),
        refreshing=SessionRefresh(
            database=database,
            cache=cache,
            codec=codec,
            issuer=issuer,
            sessions=settings,
            tokens=tokens,
            clock=clock,
        ),
        ending=SessionEnding(database=database, cache=cache, codec=codec, clock=clock),
        listing=SessionListing(database, clock),
        cache=cache,
        last_use=last_use,
    )


class Replica:
    """One replica's sessions and the validation of their access tokens."""

    def __init__(self, sessions: Sessions, tokens: TokenValidation) -> None:
        self.sessions = sessions
        self.tokens = tokens

    async def validate(
        self,
        session_token: str,
        client: ClientContext = CLIENT,
        csrf_token: str = "",
        *,
        strict: bool = False,
    ) -> SessionResult:
        return await self.sessions.validation.validate(
            SessionCheck(session_token, client, csrf_token, strict)
        )

    async def refresh(self, refresh_token: str, client: ClientContext = CLIENT) -> Tokens:
        return await self.sessions.refreshing.refresh(CALL, refresh_token, client)


class World:
    """A database with users, on which replicas are started."""

    def __init__(self, database: Database, clock: FakeClock, keys: SigningKeys) -> None:
        self.database = database
        self.clock = clock
        self._keys = keys
        self._users = 0

    def replica(
        self,
        *,
        database: Database | None = None,
        is_fresh: Callable[[], bool] = lambda: True,
        tokens: TokenSettings | None = None,
        slices: Slices | None = None,
        **settings: object,
    ) -> Replica:
        """Return a replica with these session settings, which is not notified of revocations."""
        tokens = tokens or token_settings()
        access_tokens = AccessTokens(
            keys=self._keys, settings=tokens, permissions=PERMISSIONS, clock=self.clock
        )
        sessions = build_sessions(
            access_tokens,
            database or self.database,
            self.clock,
            ring=keyring(),
            settings=SessionSettings.model_validate(settings),
            tokens=tokens,
            is_fresh=is_fresh,
            slices=slices,
        )
        return Replica(
            sessions,
            TokenValidation(
                access_tokens=access_tokens,
                sessions=sessions.validation,
                permissions=PERMISSIONS,
                revocations=KnownRevocations(),
                slices=slices or Slices(),
            ),
        )

    async def add_user(self, roles: Sequence[str] = ("user",)) -> UserId:
        self._users += 1
        user_id = UserId(uuid7(self.clock.now()))
        email = f"user{self._users}@example.test"
        await self.execute(
            "INSERT INTO users (user_id, email, email_canonical, roles, create_time, update_time)"
            " VALUES ($1, $2, $2, $3, $4, $4)",
            user_id,
            email,
            list(roles),
            self.clock.now(),
        )
        return user_id

    async def open(self, replica: Replica, user_id: UserId | None = None) -> Tokens:
        """Open a session, for a new user if none is given."""
        owner = user_id or await self.add_user()
        return await replica.sessions.opening.create(CALL, owner, CLIENT, METHODS)

    async def disable(self, user_id: UserId) -> None:
        """Disable a user directly in the database: no session is revoked."""
        await self.execute("UPDATE users SET status = 'disabled' WHERE user_id = $1", user_id)

    async def row(self, session_id: SessionId) -> asyncpg.Record:
        rows = await self.fetch("SELECT * FROM sessions WHERE session_id = $1", session_id)
        return rows[0]

    async def active(self, user_id: UserId) -> list[SessionId]:
        """Return a user's sessions that were not revoked, oldest first."""
        rows = await self.fetch(
            "SELECT session_id FROM sessions WHERE user_id = $1 AND revoke_time IS NULL"
            " ORDER BY session_id",
            user_id,
        )
        return [row["session_id"] for row in rows]

    async def revoked(self) -> list[SessionId]:
        """Return the revoked sessions in the revocation log, in order."""
        rows = await self.fetch("SELECT session_id FROM revocations ORDER BY revocation_id")
        return [row["session_id"] for row in rows]

    async def events(self, *types: str) -> list[asyncpg.Record]:
        """Return the audit events of these types, in order."""
        return await self.fetch(
            "SELECT * FROM audit_events WHERE type = any($1) ORDER BY event_id", types
        )

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.database.connection() as connection:
            return await connection.fetch(statement, *arguments)

    async def execute(self, statement: str, *arguments: Any) -> None:
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)


@pytest_asyncio.fixture
async def world(database: Database, clock: FakeClock) -> World:
    """A new database and the keys of access tokens."""
    return World(database, clock, await load_keys(database, clock))
