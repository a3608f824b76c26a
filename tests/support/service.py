"""The whole application, serving in the test's own process over real mutual TLS."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from authsvc.app.application import Application
from authsvc.config import Settings
from authsvc.models.clock import Clock
from authsvc.v1.account_service_pb2_grpc import AccountServiceStub
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2 import (
    LoginRequest,
    RefreshTokensRequest,
    RegisterRequest,
    ValidateTokenRequest,
    ValidateTokenResponse,
)
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import (
    INACTIVE_REASON_UNSPECIFIED,
    ClientContext,
    InactiveReason,
    Tokens,
)
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2 import (
    CreateSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    Session,
    ValidateSessionRequest,
    ValidateSessionResponse,
)
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.databases import settings_for
from tests.support.probe import Clients, details_of

if TYPE_CHECKING:
    from authsvc.v1.account_service_pb2_grpc import AccountServiceAsyncStub
    from authsvc.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceAsyncStub
    from authsvc.v1.session_service_pb2_grpc import SessionServiceAsyncStub


@dataclass(frozen=True)
class Service:
    """The whole application, and clients to call it with as the holder of any role."""

    app: Application
    clients: Clients
    settings: Settings

    def auth(self, caller: str = "app") -> "AuthServiceAsyncStub":
        return AuthServiceStub(self.clients.channel(caller))

    def account(self, caller: str = "app") -> "AccountServiceAsyncStub":
        return AccountServiceStub(self.clients.channel(caller))

    def sessions(self, caller: str = "app") -> "SessionServiceAsyncStub":
        return SessionServiceStub(self.clients.channel(caller))

    def limits(self, caller: str = "app") -> "RateLimitServiceAsyncStub":
        return RateLimitServiceStub(self.clients.channel(caller))

    def admin(self, caller: str = "admin") -> "AdminServiceAsyncStub":
        return AdminServiceStub(self.clients.channel(caller))

    async def register(self, email: str = EMAIL, password: str = PASSWORD) -> str:
        """Make an account; return its user's id."""
        response = await self.auth().Register(RegisterRequest(email=email, password=password))
        return response.user_id

    async def login(self, email: str = EMAIL, password: str = PASSWORD, **client: str) -> Tokens:
        """Log in from `client`."""
        response = await self.auth().Login(
            LoginRequest(email=email, password=password, client=ClientContext(**client))
        )
        return response.tokens

    async def new_session(self, email: str = EMAIL, **client: str) -> Tokens:
        """Make an account and log in."""
        await self.register(email)
        return await self.login(email, **client)

    async def proved_session(self, email: str = EMAIL, **client: str) -> Tokens:
        """Make an account whose address is proved, and log in."""
        tokens = await self.new_session(email, **client)
        await self.prove(tokens.user_id)
        return tokens

    async def prove(self, user_id: str, *, proved: bool = True) -> None:
        """Let the user's address be proved, or not."""
        await self.fetch(
            "UPDATE users SET email_verify_time = CASE WHEN $2 THEN create_time END"
            " WHERE user_id = $1",
            user_id,
            proved,
        )

    async def refresh(self, refresh_token: str) -> Tokens:
        response = await self.auth().RefreshTokens(
            RefreshTokensRequest(refresh_token=refresh_token)
        )
        return response.tokens

    async def judge_token(self, access_token: str, **more: Any) -> str:
        """Return why an access token is not active, and "" if it is."""
        request = ValidateTokenRequest(access_token=access_token, **more)
        return inactive(await self.auth("edge").ValidateToken(request))

    async def judge_session(self, session_token: str, **more: Any) -> str:
        """Return why a session is not active, and "" if it is."""
        request = ValidateSessionRequest(session_token=session_token, **more)
        return inactive(await self.sessions("edge").ValidateSession(request))

    async def create_session(self, user_id: str, *methods: str, **client: str) -> Tokens:
        """Open a session as a service that authenticated the user itself."""
        request = CreateSessionRequest(
            user_id=user_id,
            client=ClientContext(**client),
            authentication_methods=methods or ("hwk",),
        )
        return (await self.sessions("issuer").CreateSession(request)).tokens

    async def get_session(self, session_id: str) -> Session:
        response = await self.sessions().GetSession(GetSessionRequest(session_id=session_id))
        return response.session

    async def list_sessions(self, user_id: str) -> list[str]:
        """Return the ids of a user's sessions as they are listed."""
        response = await self.sessions().ListSessions(ListSessionsRequest(user_id=user_id))
        return [session.session_id for session in response.sessions]

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Return what a statement finds in the service's database."""
        connection = await asyncpg.connect(self.settings.database.url.get_secret_value())
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()


_Detail = TypeVar("_Detail", bound=Message)


def detail(error: grpc.aio.AioRpcError, kind: type[_Detail]) -> _Detail:
    """Return the detail of this kind that came with an error."""
    found = kind()
    assert any(packed.Unpack(found) for packed in details_of(error).details), error
    return found


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """Return the paths of the fields that an error complains of."""
    return [found.field for found in detail(error, BadRequest).field_violations]


def inactive(response: ValidateTokenResponse | ValidateSessionResponse) -> str:
    """Return why a token or session is not active, and "" if it is."""
    assert response.active == (response.inactive_reason == INACTIVE_REASON_UNSPECIFIED)
    if response.active:
        return ""
    return InactiveReason.Name(response.inactive_reason).removeprefix("INACTIVE_REASON_")


StartService = Callable[..., Awaitable[Service]]


@pytest.fixture
def live_settings(settings: Settings, database_dsn: str) -> Settings:
    """Settings for a service on a database of its own."""
    return settings.model_copy(update={"database": settings_for(database_dsn, pool_min=2)})


@pytest_asyncio.fixture
async def start_service(authority: Authority, database_dsn: str) -> AsyncIterator[StartService]:
    """Starts services, as `start(settings, clock)`; they stop before their database is dropped."""
    async with AsyncExitStack() as stack:

        async def start(settings: Settings, clock: Clock | None = None) -> Service:
            app = await Application.start(settings, clock=clock)
            stack.push_async_callback(app.stop)
            clients = Clients(app.grpc_port, authority)
            stack.push_async_callback(clients.close)
            return Service(app, clients, settings)

        yield start


@pytest_asyncio.fixture
async def service(start_service: StartService, live_settings: Settings) -> Service:
    """The whole application, serving, on a database of its own."""
    return await start_service(live_settings)


@pytest_asyncio.fixture
async def timed(start_service: StartService, live_settings: Settings, clock: FakeClock) -> Service:
    """As `service`, with `clock` for all times but those of rate limits."""
    return await start_service(live_settings, clock)
