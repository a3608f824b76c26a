"""The real server with handlers that a test controls: real gRPC over real mutual TLS."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from pydantic import SecretStr

from authsvc.app.metrics import SERVER
from authsvc.app.metrics.table import MetricTable
from authsvc.app.server import Server
from authsvc.config import CallerSettings, Settings
from authsvc.errors import IpBlocked, StoreUnavailable, bearer_invalid
from authsvc.metrics import Metrics
from authsvc.models.calls import Role
from authsvc.models.clock import Clock
from authsvc.models.ids import SessionId, UserId
from authsvc.models.tokens import Claims
from authsvc.tracing import Tracer
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import account_service_pb2_grpc, auth_service_pb2_grpc
from authsvc.v1 import auth_service_pb2 as pb
from tests.support.certificates import Authority, Certificate, channel_credentials, write_files
from tests.support.clock import FakeClock

STRANGER = "stranger"
BLOCKED_IP = "198.51.100.66"
LOGIN = "/authsvc.v1.AuthService/Login"
CLAIMS = Claims(
    subject=UserId(UUID(int=1)),
    issuer="https://authsvc.test",
    audiences=("authsvc",),
    expire_time=datetime(2030, 1, 2, tzinfo=UTC),
    issue_time=datetime(2030, 1, 1, tzinfo=UTC),
    not_before_time=datetime(2030, 1, 1, tzinfo=UTC),
    token_id="1",
    session_id=SessionId(UUID(int=2)),
    roles=("user",),
    permissions=(),
    scopes=(),
    authentication_methods=("pwd",),
    authentication_time=datetime(2030, 1, 1, tzinfo=UTC),
)


def identity_of(role: str) -> str:
    """Return the identity of the caller that has only `role`."""
    return f"spiffe://authsvc.test/{role}"


class Clients:
    """Opens channels to one server, as any caller."""

    def __init__(self, port: int, authority: Authority) -> None:
        self.port = port
        self.authority = authority
        self._stack = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, caller: str) -> grpc.aio.Channel:
        """Return the channel of the caller with this role, or without any: STRANGER."""
        if caller not in self._channels:
            self._channels[caller] = self.open(self.authority.caller(identity_of(caller)))
        return self._channels[caller]

    def open(self, caller: Certificate | None) -> grpc.aio.Channel:
        """Return a new channel with this certificate."""
        return self._open(f"127.0.0.1:{self.port}", caller)

    def open_at(self, address: str) -> grpc.aio.Channel:
        """Return a new channel of the app to another address of the server."""
        return self._open(address, self.authority.caller(identity_of(Role.APP)))

    def _open(self, address: str, caller: Certificate | None) -> grpc.aio.Channel:
        channel = grpc.aio.secure_channel(
            address,
            channel_credentials(self.authority.certificate, caller),
            options=[
                # Otherwise channels of one process share connections.
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.ssl_target_name_override", "localhost"),
            ],
        )
        self._stack.push_async_callback(channel.close, None)
        return channel

    def raw(self, caller: str, method: str, kind: str = "unary_unary") -> Any:
        """Return an RPC that sends and receives bytes."""
        return getattr(self.channel(caller), kind)(method)

    async def close(self) -> None:
        await self._stack.aclose()


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Return the google.rpc.Status that came with an error."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error!r}"
    return status


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason that came with an error."""
    info = error_details_pb2.ErrorInfo()
    assert details_of(error).details[0].Unpack(info)
    assert info.domain == "authsvc"
    return str(info.reason)


def request_id_of(call_or_error: Any) -> str:
    """Return the request id in the trailers."""
    return str(dict(call_or_error.trailing_metadata())["x-request-id"])


async def outcome(call: Awaitable[object]) -> str:
    """Return how a call ends: OK, the reason, or the bare code where there is none."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) if rpc_status.from_call(error) else error.code().name
    return "OK"


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.fixture(scope="session")
def authority() -> Authority:
    """The authority that issues the certificates of servers and callers."""
    return Authority()


@pytest.fixture
def settings(tmp_path: Path, authority: Authority) -> Settings:
    """Settings for a server on its own port, with one caller for each role.

    The time limits of calls allow for hundreds at once on a busy machine.
    """
    key = {"id": "k1", "key": base64.b64encode(bytes(32)).decode()}
    return Settings(
        grpc={"address": "127.0.0.1:0", "call_timeout": "60s", "handshake_timeout": "60s"},
        http={"address": "127.0.0.1:0"},
        tls=write_files(tmp_path, authority.certificate, authority.server()),
        callers=[
            CallerSettings(
                identity=identity_of(role),
                roles={role},
                audiences={"authsvc", "billing"},
                scopes={"invoices.read", "invoices.write"},
            )
            for role in Role
        ],
        database={"url": SecretStr("postgresql://localhost/none")},
        secrets={"keyring": [key], "peppers": [key]},
        # So that lifetimes are exact.
        tokens={"lifetime_jitter": 0},
    )


def with_callers(settings: Settings, roles: Mapping[str, Iterable[Role]]) -> Settings:
    """Return the settings with these callers only."""
    callers = [CallerSettings(identity=name, roles=frozenset(held)) for name, held in roles.items()]
    return settings.model_copy(update={"callers": tuple(callers)})


def with_changes(settings: Settings, section: str, **changes: Any) -> Settings:
    """Return the settings with some values of a section changed."""
    changed = getattr(settings, section).model_copy(update=changes)
    return settings.model_copy(update={section: changed})


class Probe(
    auth_service_pb2_grpc.AuthServiceServicer, account_service_pb2_grpc.AccountServiceServicer
):
    """Serves a few RPCs for a test: `answer` gets the request and returns the response."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], Awaitable[Any]] = self._nothing
        self.refused_ips: list[str] = []

    async def Login(self, request: pb.LoginRequest, _context: Any) -> Any:
        return await self.answer(request) or pb.LoginResponse()

    async def ValidateToken(self, request: pb.ValidateTokenRequest, _context: Any) -> Any:
        return await self.answer(request) or pb.ValidateTokenResponse(active=True)

    async def BatchValidateTokens(self, request: Any, _context: Any) -> Any:
        return await self.answer(request) or pb.BatchValidateTokensResponse()

    async def GetAccount(self, request: Any, _context: Any) -> Any:
        return await self.answer(request) or account_pb.GetAccountResponse()

    async def authenticate_bearer(self, token: str) -> Claims:
        """Accept "good" as the access token of a user; of "undecidable", the database knows."""
        if token == "undecidable":
            raise StoreUnavailable
        if token != "good":
            raise bearer_invalid()
        return CLAIMS

    async def admit_address(self, ip: str) -> None:
        """Block one address."""
        if ip == BLOCKED_IP:
            raise IpBlocked(60.0)

    async def note_refusal(self, ip: str) -> None:
        """Remember the address."""
        self.refused_ips.append(ip)

    async def _nothing(self, _request: Any) -> None:
        """Answer with an empty response."""


class ProbeServer:
    """The real server with a `Probe` behind it, and clients to call it with."""

    def __init__(
        self, settings: Settings, clock: Clock, authority: Authority, tracer: Tracer | None = None
    ) -> None:
        self.probe = Probe()  # type: ignore[abstract]  # a test calls only what is implemented
        self.metrics = Metrics()
        self.server = Server(
            settings=settings,
            handlers=[self.probe],
            authenticate_bearer=self.probe.authenticate_bearer,
            admit_address=self.probe.admit_address,
            note_refusal=self.probe.note_refusal,
            clock=clock,
            metrics=self.metrics,
            tracer=tracer,
        )
        self.metrics.registry.register(MetricTable(SERVER, self.server))
        self._authority = authority
        self.clients: Clients

    async def start(self) -> None:
        await self.server.start()
        self.server.set_serving(serving=True)
        self.clients = Clients(self.server.port, self._authority)

    async def stop(self) -> None:
        await self.clients.close()
        await self.server.stop()

    async def login(self, caller: str = "app", **request: Any) -> Any:
        """Call Login as `caller`; return the response."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self.clients.channel(caller))
        return await stub.Login(pb.LoginRequest(**request))


def count(probe: ProbeServer, code: str, reason: str = "", method: str = LOGIN) -> float:
    """Return how many calls of `method` had this outcome."""
    labels = {"method": method, "code": code, "reason": reason}
    return probe.metrics.registry.get_sample_value("authsvc_rpc_calls_total", labels) or 0


async def counted(probe: ProbeServer, code: str, method: str = LOGIN) -> None:
    """Wait until a call is counted: a cancelled one ends sooner for its caller."""
    async with asyncio.timeout(30):
        while not count(probe, code, method=method):  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.005)


StartProbe = Callable[..., Awaitable[ProbeServer]]


@pytest_asyncio.fixture
async def start_probe(clock: FakeClock, authority: Authority) -> AsyncIterator[StartProbe]:
    """Starts servers with a `Probe` behind them; they stop when the test ends."""
    async with AsyncExitStack() as stack:

        async def start(settings: Settings, tracer: Tracer | None = None) -> ProbeServer:
            server = ProbeServer(settings, clock, authority, tracer)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest_asyncio.fixture
async def probe(start_probe: StartProbe, settings: Settings) -> ProbeServer:
    """A running server with a `Probe` behind it."""
    return await start_probe(settings)
