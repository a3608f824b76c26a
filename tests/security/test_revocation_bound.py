"""The bound of revocation while something is broken: nothing is accepted later, nothing is missed.

Sessions are ended on one replica and tried on another one, whose ways are cut by real proxies. What
is asserted holds on a slow machine as well: a call that began later than the bound after the
acknowledgement must not accept.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import jwt
import pytest
import pytest_asyncio

from authsvc.client import AsyncClient, AsyncVerifier, NotDecidable, TokenRejected, following
from authsvc.config import Settings
from authsvc.core.lib.clock import elapsed
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.store.postgres.migrator import migrate
from authsvc.v1.auth_service_pb2 import LoginRequest, RegisterRequest, ValidateTokenRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import Tokens
from authsvc.v1.session_service_pb2 import RevokeSessionRequest, ValidateSessionRequest
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.clients import OpenAsync
from tests.support.databases import freeze, kill, resume, settings_for
from tests.support.probe import outcome
from tests.support.processes import Replica
from tests.support.proxy import Proxy
from tests.support.service import Service, StartService, inactive

BOUND = 1.0
# Only bounds a failing test.
_PATIENCE = 60.0
_IMPATIENT = {"acquire_timeout": "1s", "command_timeout": "1s", "connect_timeout": "1s"}
_LOSE_LISTENER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""


@dataclass
class Replicas:
    """Two replicas; the ways of the second one lead through proxies."""

    here: Service
    there: Service
    database: Proxy
    listener: Proxy
    wire: Proxy

    async def end(self, tokens: Tokens) -> float:
        """End a session; return when that was acknowledged."""
        await self.here.sessions().RevokeSession(RevokeSessionRequest(session_id=tokens.session_id))
        return elapsed()

    async def caches_are_used(self) -> None:
        """Wait until the second replica uses its caches."""
        async with asyncio.timeout(_PATIENCE):
            while not await self.there.app.is_current():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)

    async def token(self, tokens: Tokens) -> str:
        """Return what the second replica says of an access token: "" if it accepts it."""
        request = ValidateTokenRequest(access_token=tokens.access_token)
        return await _said(self.there.auth("edge").ValidateToken(request))

    async def session(self, tokens: Tokens) -> str:
        """Return what the second replica says of a session."""
        request = ValidateSessionRequest(session_token=tokens.session_token)
        return await _said(self.there.sessions("edge").ValidateSession(request))


Say = Callable[[Tokens], Awaitable[str]]


async def _said(call: Awaitable[Any]) -> str:
    try:
        return inactive(await call)
    except grpc.aio.AioRpcError:
        # Awaited again, it fails again.
        return await outcome(call)


def _of(verifier: AsyncVerifier) -> Say:
    """Return a way to try tokens: what the verifier says of them from memory."""

    async def says(tokens: Tokens) -> str:
        await asyncio.sleep(0)
        try:
            verifier.verify(tokens.access_token)
        except (TokenRejected, NotDecidable) as refused:
            return refused.reason
        return ""

    return says


async def _becomes(say: Say, tokens: Tokens, expected: str) -> None:
    """Wait until this is said."""
    async with asyncio.timeout(_PATIENCE):
        while await say(tokens) != expected:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def _watch(
    say: Say, tokens: Tokens, acknowledged: float, seconds: float = 1.3 * BOUND
) -> set[str]:
    """Try a token for so long, and check the bound; return what was said beyond it."""
    heard: set[str] = set()
    begun = acknowledged
    while begun <= acknowledged + seconds or not heard:
        begun = elapsed()
        said = await say(tokens)
        assert said or begun <= acknowledged + BOUND, "accepted after the bound"
        if begun > acknowledged + BOUND:
            heard.add(said)
        await asyncio.sleep(0.01)
    return heard


async def _each(
    ways: Sequence[Say], act: Callable[..., Coroutine[Any, Any, Any]], *more: Any
) -> list[Any]:
    """Do something in all ways at once."""
    return await asyncio.gather(*(act(way, *more) for way in ways))


StartReplicas = Callable[..., Awaitable[Replicas]]


@pytest_asyncio.fixture
async def start_replicas(
    start_service: StartService, settings: Settings
) -> AsyncIterator[StartReplicas]:
    """Starts two replicas: `start_replicas(dsn, cache_staleness=…)`."""
    async with AsyncExitStack() as stack:

        async def start(dsn: str, staleness: str = "1s") -> Replicas:
            database, listener = [await stack.enter_async_context(Proxy(dsn)) for _ in range(2)]
            sessions = type(settings.sessions).model_validate({"cache_staleness": staleness})
            services = [
                await start_service(
                    settings.model_copy(
                        update={
                            "database": settings_for(url, pool_min=2, **(_IMPATIENT | more)),
                            "sessions": sessions,
                        }
                    )
                )
                for url, more in ((dsn, {}), (database.dsn, {"listener_url": listener.dsn}))
            ]
            here, there = services
            wire = await stack.enter_async_context(Proxy(f"tcp://127.0.0.1:{there.app.grpc_port}"))
            return Replicas(here, there, database, listener, wire)

        yield start


StartVerifier = Callable[[Replicas], Awaitable[AsyncVerifier]]


@pytest_asyncio.fixture
async def start_verifier(open_async: OpenAsync) -> AsyncIterator[StartVerifier]:
    """Starts verifiers that follow the second replica, through the proxy."""
    async with AsyncExitStack() as stack:

        async def start(replicas: Replicas) -> AsyncVerifier:
            port = urlsplit(replicas.wire.dsn).port
            assert port is not None
            settings = replicas.there.settings.tokens
            verifier = AsyncVerifier(
                open_async(port),
                issuer=settings.issuer,
                audience=settings.audience,
                max_staleness=BOUND,
            )
            return await stack.enter_async_context(verifier)

        yield start


async def _lose_rings(replicas: Replicas) -> None:
    """Swallow the notifications; the connection of the listener stays open."""
    replicas.listener.hold()


async def _lose_listener(replicas: Replicas) -> None:
    """Kill the listener, and let no other one get through."""
    replicas.listener.hold()
    assert await replicas.here.fetch(_LOSE_LISTENER)


DOORBELL = pytest.mark.parametrize("lose", [_lose_rings, _lose_listener], ids=["rings", "listener"])


@DOORBELL
async def test_lost_doorbell_costs_caches_nothing_but_speed(
    lose: Callable[[Replicas], Awaitable[None]], database_dsn: str, start_replicas: StartReplicas
) -> None:
    replicas = await start_replicas(database_dsn)
    ended, kept = [await replicas.here.new_session(f"{n}@example.com") for n in range(2)]
    ways = [replicas.token, replicas.session]
    await _each(ways, _becomes, ended, "")
    await lose(replicas)
    acknowledged = await replicas.end(ended)
    assert await _each(ways, _watch, ended, acknowledged) == 2 * [{"SESSION_REVOKED"}]
    await replicas.caches_are_used()
    await _each(ways, _becomes, kept, "")


@DOORBELL
async def test_lost_doorbell_costs_verifiers_nothing_but_speed(
    lose: Callable[[Replicas], Awaitable[None]],
    database_dsn: str,
    start_replicas: StartReplicas,
    start_verifier: StartVerifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It stays with its stream, however busy the machine is: each new one lets the log be read.
    for limit in ("_SILENCE", "_LAG_LASTS"):
        monkeypatch.setattr(following, limit, 10 * _PATIENCE)
    # The caches of the replica don't need the log read within the test.
    replicas = await start_replicas(database_dsn, "10m")
    ended, kept = [await replicas.here.new_session(f"{n}@example.com") for n in range(2)]
    verifier = await start_verifier(replicas)
    says = _of(verifier)
    await _becomes(says, ended, "")
    await lose(replicas)
    acknowledged = await replicas.end(ended)
    assert await _watch(says, ended, acknowledged) <= {"SESSION_REVOKED", "UNUSABLE"}
    await _becomes(says, ended, "SESSION_REVOKED")
    await _becomes(says, kept, "")
    assert verifier.metrics()["streams"] == 1


async def test_silent_network_to_the_database_stops_caches_and_verifiers_and_nothing_is_missed(
    database_dsn: str, start_replicas: StartReplicas, start_verifier: StartVerifier
) -> None:
    replicas = await start_replicas(database_dsn)
    ended, kept = [await replicas.here.new_session(f"{n}@example.com") for n in range(2)]
    verifier = await start_verifier(replicas)
    ways = [replicas.token, replicas.session, _of(verifier)]
    await _each(ways, _becomes, ended, "")
    replicas.database.hold()
    replicas.listener.hold()
    acknowledged = await replicas.end(ended)
    heard = await _each(ways, _watch, ended, acknowledged)
    assert heard == [*2 * [{"STORE_UNAVAILABLE"}], {"UNUSABLE"}]
    replicas.database.release()
    await _each(ways, _becomes, ended, "SESSION_REVOKED")
    await replicas.caches_are_used()
    await _each(ways, _becomes, kept, "")
    assert {await say(ended) for say in ways} <= {"SESSION_REVOKED", "UNUSABLE"}
    assert verifier.metrics()["snapshots"] == 1


@pytest.mark.parametrize("fault", ["silent", "stranded"])
async def test_silent_network_to_the_service_stops_verifiers_and_nothing_is_missed(
    fault: str, database_dsn: str, start_replicas: StartReplicas, start_verifier: StartVerifier
) -> None:
    replicas = await start_replicas(database_dsn)
    ended, kept = [await replicas.here.new_session(f"{n}@example.com") for n in range(2)]
    verifier = await start_verifier(replicas)
    says = _of(verifier)
    await _becomes(says, ended, "")
    if fault == "silent":
        replicas.wire.hold()
    else:
        replicas.wire.strand()
    acknowledged = await replicas.end(ended)
    heard = await _watch(says, ended, acknowledged)
    assert heard <= {"UNUSABLE"} | ({"SESSION_REVOKED"} if fault == "stranded" else set())
    replicas.wire.release()
    await _becomes(says, ended, "SESSION_REVOKED")
    await _becomes(says, kept, "")
    assert verifier.metrics()["snapshots"] == 1


@pytest.mark.world
@pytest.mark.parametrize(
    ("hurt", "mend"),
    [
        (freeze, resume),
        (EmbeddedPostgres.stop, EmbeddedPostgres.start),
        (kill, EmbeddedPostgres.start),
    ],
    ids=["frozen", "stopped", "crashed"],
)
async def test_database_away_for_ten_seconds_stops_caches_and_verifiers_and_nothing_is_missed(
    hurt: Callable[[EmbeddedPostgres], None],
    mend: Callable[[EmbeddedPostgres], None],
    own_server: EmbeddedPostgres,
    start_replicas: StartReplicas,
    start_verifier: StartVerifier,
) -> None:
    await migrate(own_server.dsn())
    replicas = await start_replicas(own_server.dsn())
    ended, kept = [await replicas.here.new_session(f"{n}@example.com") for n in range(2)]
    ways = [replicas.token, replicas.session, _of(await start_verifier(replicas))]
    await _each(ways, _becomes, ended, "")
    # The second replica does not hear of it before the database is gone.
    replicas.database.hold()
    replicas.listener.hold()
    acknowledged = await replicas.end(ended)
    await asyncio.to_thread(hurt, own_server)
    replicas.database.release()
    replicas.listener.release()
    heard = await _each(ways, _watch, ended, acknowledged, 10.0)
    assert heard == [*2 * [{"STORE_UNAVAILABLE"}], {"UNUSABLE"}]
    await asyncio.to_thread(mend, own_server)
    await _each(ways, _becomes, ended, "SESSION_REVOKED")
    await replicas.caches_are_used()
    await _each(ways, _becomes, kept, "")
    assert {await say(ended) for say in ways} <= {"SESSION_REVOKED", "UNUSABLE"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The settings and certificates of replicas that are processes."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.prepare()
    return workspace


@pytest.fixture
def processes(workspace: Workspace, database_dsn: str) -> Iterator[list[Replica]]:
    """Two replicas, each a process of its own."""
    replicas = [Replica(workspace, database_dsn) for _ in range(2)]
    yield replicas
    for replica in replicas:
        replica.process.kill()


@pytest.mark.world
async def test_verifier_of_a_killed_replica_goes_on_by_its_cursor_on_another(
    processes: list[Replica], workspace: Workspace
) -> None:
    first, second = processes
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(each.channel("app")) for each in processes]
        auth = AuthServiceStub(channels[1])
        await auth.Register(RegisterRequest(email=EMAIL, password=PASSWORD))
        login = LoginRequest(email=EMAIL, password=PASSWORD)
        ended, kept = [(await auth.Login(login)).tokens for _ in range(2)]
        way = await stack.enter_async_context(Proxy(f"tcp://127.0.0.1:{first.port}"))
        certificates = workspace.certificates
        client = await stack.enter_async_context(
            AsyncClient(
                way.address,
                ca=certificates / "ca.crt",
                cert=certificates / "clients" / "app.crt",
                key=certificates / "clients" / "app.key",
            )
        )
        claims = jwt.decode(ended.access_token, options={"verify_signature": False})
        verifier = await stack.enter_async_context(
            AsyncVerifier(client, issuer=claims["iss"], audience=claims["aud"], max_staleness=BOUND)
        )
        says = _of(verifier)
        await _becomes(says, ended, "")
        # What is ended now comes to nobody's ears before the first replica is gone.
        way.hold()
        first.process.kill()
        request = RevokeSessionRequest(session_id=ended.session_id)
        await SessionServiceStub(channels[1]).RevokeSession(request)
        acknowledged = elapsed()
        way.redirect(f"tcp://127.0.0.1:{second.port}")
        way.cut()
        assert await _watch(says, ended, acknowledged) == {"UNUSABLE"}
        way.release()
        await _becomes(says, ended, "SESSION_REVOKED")
        await _becomes(says, kept, "")
        assert verifier.metrics()["snapshots"] == 1
