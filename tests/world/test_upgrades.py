"""Version 0.1.0 and this one on one database under load: in turns, side by side, there and back.

A call fails if the Python client raises an error for it, or if its answer is wrong. None may fail.
The client repeats by itself what may be repeated, and what this version refuses when it stops
(docs/clients/python.md, Retries). 0.1.0 does not say that a call which it refused was not begun, so
while it stops the callers here repeat the others; and any time if the machine of the tests is too
busy to hash a password. How often they did is printed.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import pytest

from authsvc.client import (
    AsyncClient,
    AsyncVerifier,
    NotDecidable,
    ServiceUnavailable,
    TokenRejected,
)
from authsvc.client.errors import EmailTaken, Overloaded, ServiceStopping
from authsvc.dev.ports import reserve
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrations import Schema, read_migrations, shipped_schema
from authsvc.store.postgres.migrator import migrate
from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import common_pb2 as common
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.account_service_pb2 import GetAccountRequest
from tests.support.accounts import PASSWORD
from tests.support.processes import Process
from tests.world.released import ReleasedVersion, released

pytestmark = [pytest.mark.world, pytest.mark.alone]

_ISSUER = "https://auth.test"
_USERS = 2
# How many times each caller goes through all calls between two steps of an upgrade.
_ROUNDS = 2
_PATIENCE = 120.0
_PAUSE = 0.02
# `upload` grants 10 an hour, and 14 try.
_GRANTED, _TRIES = 10, 14
_PREPARE = "import sys, pathlib; from authsvc.dev.workspace import Workspace; "
_PREPARE += "Workspace(pathlib.Path(sys.argv[1])).prepare()"
# What a later version may do to the tables that every call uses.
_LATER = (
    b"ALTER TABLE users ADD COLUMN later text;",
    b"ALTER TABLE sessions ADD COLUMN later integer NOT NULL DEFAULT 0;",
    b"CREATE INDEX CONCURRENTLY sessions_later ON sessions (later, session_id);",
    b"CREATE INDEX CONCURRENTLY audit_events_later ON audit_events (caller, occur_time);",
    b"""-- authsvc: repeat
UPDATE users SET later = '' WHERE user_id IN
    (SELECT user_id FROM users WHERE later IS NULL LIMIT 5 FOR UPDATE SKIP LOCKED);""",
    b"DROP INDEX CONCURRENTLY sessions_later;",
)

_Answer = TypeVar("_Answer")


@dataclass
class Deployment:
    """Two replicas behind fixed addresses, each of either version, on one database."""

    old: ReleasedVersion
    workspace: Workspace
    database_url: str
    addresses: tuple[str, str]
    replicas: dict[int, Process] = field(default_factory=dict)
    versions: dict[int, str] = field(default_factory=dict)
    old_stops: bool = False

    def client(self, role: str) -> AsyncClient:
        """Return the client that holds a role, with its defaults."""
        own = self.workspace.certificates / "clients" / role
        return AsyncClient(
            "ipv4:" + ",".join(self.addresses),
            ca=self.workspace.certificates / "ca.crt",
            cert=own.with_suffix(".crt"),
            key=own.with_suffix(".key"),
            server_name="localhost",
        )

    def command(self, version: str, *arguments: str, grpc: str = "127.0.0.1:0") -> Process:
        """Start a command of a version, "old" or "new"."""
        environment = {
            "AUTHSVC_GRPC__ADDRESS": grpc,
            "AUTHSVC_DATABASE__URL": self.database_url,
            "AUTHSVC_TOKENS__ISSUER": _ISSUER,
        }
        of_version = self.old.environment if version == "old" else {}
        return Process(
            *arguments,
            *("-c", str(self.workspace.config), "--secrets", str(self.workspace.secrets)),
            python=self.old.python if version == "old" else sys.executable,
            **environment,
            **of_version,
        )

    async def migrate(self, version: str) -> None:
        """Run a version's `authsvc migrate`, which has to succeed."""
        process = self.command(version, "migrate")
        assert await asyncio.to_thread(process.end) == 0, process.output

    async def serve(self, slot: int, version: str) -> None:
        """Replace the replica of a slot: the former one drains, then this one starts."""
        former = self.replicas.get(slot)
        self.old_stops = self.versions.get(slot) == "old"
        if former is not None:
            former.send(signal.SIGTERM)
            assert await asyncio.to_thread(former.end) == 0, former.output
        process = self.command(version, "serve", grpc=self.addresses[slot])
        self.replicas[slot] = process
        self.versions[slot] = version
        await asyncio.to_thread(process.wait_for, r'"serving"|serving.*"grpc"')
        self.old_stops = False

    def kill(self) -> None:
        for process in self.replicas.values():
            process.kill()


@dataclass
class Load:
    """Callers that go through all main RPCs for as long as the load lasts."""

    deployment: Deployment
    app: AsyncClient
    edge: AsyncClient
    verifier: AsyncVerifier
    calls: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _tasks: "list[asyncio.Task[None]]" = field(default_factory=list)
    _stopped: bool = False

    async def rounds_of_all(self) -> None:
        """Return when every caller has gone through everything `_ROUNDS` more times."""
        wanted = {name: count + _ROUNDS for name, count in self.rounds.items()}
        async with asyncio.timeout(_PATIENCE):
            while any(self.rounds[name] < count for name, count in wanted.items()):
                assert not any(task.done() for task in self._tasks), self.failures
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        callers: dict[str, Callable[[], Any]] = {
            **{f"user {number}": self._user for number in range(_USERS)},
            "long session": self._long_session,
            "limits": self._limits,
        }
        self.rounds.update(dict.fromkeys(callers, 0))
        self._tasks = [
            asyncio.create_task(self._repeat(name, use)) for name, use in callers.items()
        ]
        try:
            yield self
        finally:
            self._stopped = True
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, name: str, use: Callable[[], Any]) -> None:
        state = use()
        while not self._stopped:
            await anext(state)
            self.rounds[name] += 1

    async def _count(self, name: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Make a call; repeat it while 0.1.0 stops, or a replica is overloaded."""
        self.calls[name] += 1
        while True:
            try:
                return await call()
            except Exception as error:
                is_old = isinstance(error, ServiceStopping | ServiceUnavailable)
                if not (isinstance(error, Overloaded) or (is_old and self.deployment.old_stops)):
                    self.failures.append(f"{name}: {error!r}")
                    raise
                self.repeated[name] += 1
                await asyncio.sleep(_PAUSE)

    def _expect(self, name: str, right: object) -> None:
        if not right:
            self.failures.append(f"{name}: a wrong answer")

    async def _user(self) -> AsyncIterator[None]:
        """Register, log in, validate, refresh, revoke, log out: a new account each time."""
        count, auth, sessions = self._count, self.app.auth, self.app.sessions
        while True:
            email, client = f"{uuid4().hex}@example.test", _client()
            await count("Register", partial(self._register, email, client))
            login = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client)
            first = (await count("Login", partial(auth.Login, login))).tokens
            second = (await count("Login", partial(auth.Login, login))).tokens
            for tokens in (first, second):
                await self._validate(tokens, active=True)
            refresh = auth_pb.RefreshTokensRequest(refresh_token=first.refresh_token, client=client)
            first = _with_session(
                (await count("RefreshTokens", partial(auth.RefreshTokens, refresh))).tokens, first
            )
            await self._validate(first, active=True)
            account = await count(
                "GetAccount",
                partial(self.app.as_user(first.access_token).GetAccount, GetAccountRequest()),
            )
            self._expect("GetAccount", account.account.email == email)
            revoke = session_pb.RevokeSessionRequest(session_id=second.session_id)
            await count("RevokeSession", partial(sessions.RevokeSession, revoke))
            await self._validate(second, active=False)
            await self._validate(first, active=True)
            logout = auth_pb.LogoutRequest(refresh_token=first.refresh_token)
            await count("Logout", partial(auth.Logout, logout))
            await self._validate(first, active=False)
            yield

    async def _validate(self, tokens: common.Tokens, *, active: bool) -> None:
        """Ask both replicas' databases, and let the verifier judge from what it has watched."""
        token = auth_pb.ValidateTokenRequest(access_token=tokens.access_token, strict=not active)
        answer = await self._count("ValidateToken", partial(self.edge.auth.ValidateToken, token))
        self._expect("ValidateToken", answer.active == active)
        session = session_pb.ValidateSessionRequest(
            session_token=tokens.session_token, strict=not active
        )
        checked = await self._count(
            "ValidateSession", partial(self.edge.sessions.ValidateSession, session)
        )
        self._expect("ValidateSession", checked.active == active)
        if active:
            await self._count("authenticate", partial(self._verified, tokens.access_token))
        else:
            await self._count("WatchRevocations", partial(self._refused, tokens.access_token))

    async def _register(self, email: str, client: common.ClientContext) -> None:
        request = auth_pb.RegisterRequest(email=email, password=PASSWORD, client=client)
        try:
            await self.app.auth.Register(request)
        except EmailTaken:
            # The attempt before took effect, and its answer was lost.
            self._expect("Register", self.repeated["Register"])

    async def _verified(self, token: str) -> None:
        await self.verifier.authenticate(token)

    async def _refused(self, token: str) -> None:
        """Wait until the verifier has been told of a revocation."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                try:
                    self.verifier.verify(token)
                except TokenRejected:
                    return
                except NotDecidable:
                    # Its stream has ended with the replica, and begins anew at another one.
                    pass
                await asyncio.sleep(_PAUSE)

    async def _long_session(self) -> AsyncIterator[None]:
        """Refresh one session over all versions, and validate the tokens of before."""
        email, client = f"{uuid4().hex}@example.test", _client()
        await self._count("Register", partial(self._register, email, client))
        login = auth_pb.LoginRequest(email=email, password=PASSWORD, client=client)
        tokens = (await self._count("Login", partial(self.app.auth.Login, login))).tokens
        while True:
            former = tokens
            refresh = auth_pb.RefreshTokensRequest(
                refresh_token=former.refresh_token, client=client
            )
            answer = await self._count(
                "RefreshTokens", partial(self.app.auth.RefreshTokens, refresh)
            )
            tokens = _with_session(answer.tokens, former)
            await self._validate(former, active=True)
            await self._validate(tokens, active=True)
            yield

    async def _limits(self) -> AsyncIterator[None]:
        """Spend a limit over both replicas: never more is granted than there is, nor less."""
        while True:
            charge = limit_pb.Charge(policy="upload", key=uuid4().hex, cost=1)
            request = limit_pb.CheckRateLimitRequest(charges=[charge])
            check = partial(self.edge.limits.CheckRateLimit, request)
            repeated = self.repeated["CheckRateLimit"]
            answers = await asyncio.gather(
                *(self._count("CheckRateLimit", check) for _ in range(_TRIES))
            )
            granted = sum(answer.allowed for answer in answers)
            # One that was repeated may have been charged twice.
            least = _GRANTED - (self.repeated["CheckRateLimit"] - repeated)
            self._expect(f"CheckRateLimit ({granted} granted)", least <= granted <= _GRANTED)
            yield


def _with_session(refreshed: common.Tokens, former: common.Tokens) -> common.Tokens:
    """Return refreshed tokens with the session token, which only a login returns."""
    refreshed.session_token = former.session_token
    return refreshed


def _client() -> common.ClientContext:
    """Return the context of a user at an address of its own, as no limit is to be reached."""
    return common.ClientContext(ip=f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1")


def _later() -> Schema:
    """Return this version's schema with more migrations, as a later one would have."""
    shipped = shipped_schema()
    added = read_migrations(
        (f"{number:04}_later.sql", sql) for number, sql in enumerate(_LATER, start=1)
    )
    later = [replace(each, version=shipped.version + each.version) for each in added]
    return Schema([*shipped.migrations, *later], shipped.releases)


@pytest.fixture
def deployment(own_server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Deployment]:
    """Nothing serves yet, and the database is empty; the settings are those that 0.1.0 wrote."""
    old = released("0.1.0")
    workspace = Workspace(tmp_path / "workspace")
    old.run("-c", _PREPARE, str(workspace.folder))
    holders, addresses = zip(*(reserve() for _ in range(2)), strict=True)
    deployment = Deployment(old, workspace, own_server.dsn(), addresses)
    yield deployment
    deployment.kill()
    for holder in holders:
        holder.close()


@asynccontextmanager
async def _load(deployment: Deployment) -> AsyncIterator[Load]:
    async with (
        deployment.client("app") as app,
        deployment.client("edge") as edge,
        AsyncVerifier(edge, issuer=_ISSUER, audience="authsvc") as verifier,
        Load(deployment, app, edge, verifier).running() as load,
    ):
        yield load


async def test_both_versions_serve_one_database_without_a_failed_call(
    deployment: Deployment,
) -> None:
    await deployment.migrate("old")
    for slot in (0, 1):
        await deployment.serve(slot, "old")
    async with _load(deployment) as load:
        # Upgrade: migrate, then one replica after the other.
        await load.rounds_of_all()
        await deployment.migrate("new")
        for slot in (0, 1):
            await load.rounds_of_all()
            await deployment.serve(slot, "new")
        # Roll back, with the former version's `migrate` as its pods run it.
        await load.rounds_of_all()
        await deployment.migrate("old")
        for slot in (0, 1):
            await load.rounds_of_all()
            await deployment.serve(slot, "old")
        # Upgrade again, while both serve and a later version migrates.
        await load.rounds_of_all()
        await deployment.serve(1, "new")
        await load.rounds_of_all()
        await migrate(deployment.database_url, _later())
        await load.rounds_of_all()
        await deployment.serve(0, "new")
        await load.rounds_of_all()
    print(dict(load.calls), "repeated:", dict(load.repeated))
    assert load.failures == []
    assert load.calls.keys() >= {"Register", "Login", "RefreshTokens", "CheckRateLimit", "Logout"}
