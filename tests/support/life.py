"""A user's whole life with the service, seen from the side of the calling services."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from authsvc.v1 import auth_service_pb2 as auth_pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1 import session_service_pb2 as session_pb
from authsvc.v1.account_service_pb2 import GetAccountRequest
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.accounts import EMAIL
from tests.support.clock import FakeClock
from tests.support.probe import details_of, reason_of
from tests.support.service import Service

PASSWORD = "Jacquard-Loom.1804-woven"
LOGIN = "/authsvc.v1.AuthService/Login"
WRONG = "Babbage/Difference:1822!"
WEAK = "weakweakweak"
CLIENT = ClientContext(ip="192.0.2.1", user_agent="Browser/1", device_id="phone")


@dataclass
class Life:
    """What is given to a user, and all that callers are told when the service says no."""

    service: Service
    clock: FakeClock
    given: list[Tokens] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    async def fails(self, call: Awaitable[object]) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        self.tell(caught.value)

    def tell(self, error: grpc.aio.AioRpcError) -> None:
        """Note what a caller was told."""
        status = details_of(error)
        self.told.append(f"{error!r} {error.trailing_metadata()} {status}")
        self.told.append(status.SerializeToString().decode("latin-1"))
        self.reasons.add(reason_of(error))

    async def login(self) -> Tokens:
        self.given.append(await self.service.login(EMAIL, PASSWORD, ip="192.0.2.1"))
        return self.given[-1]

    async def refresh(self, token: str) -> Tokens:
        self.given.append(await self.service.refresh(token))
        return self.given[-1]

    async def register(self) -> None:
        auth = self.service.auth()
        make = auth_pb.RegisterRequest
        await auth.Register(make(email=EMAIL, password=PASSWORD, client=CLIENT))
        await self.fails(auth.Register(make(email=EMAIL, password=WRONG)))
        await self.fails(auth.Register(make(email="b@example.test", password=WEAK)))
        await self.fails(auth.Register(make(email=PASSWORD, password=WRONG)))
        await self.fails(auth.Register(make(email=f"a@{WRONG}", password=PASSWORD)))
        await self.fails(auth.Register(make(email=EMAIL, password=PASSWORD + "\0")))
        await self.fails(auth.Register(make(email=EMAIL, password=PASSWORD * 100)))

    async def guess(self) -> None:
        login, make = self.service.auth().Login, auth_pb.LoginRequest
        for _ in range(6):
            await self.fails(
                login(make(email="nobody@example.test", password=WRONG, client=CLIENT))
            )
        await self.fails(login(make(email=EMAIL, password=WRONG)))
        # People type the password where the address belongs.
        await self.fails(login(make(email=f"{PASSWORD}@example.test", password=PASSWORD)))
        await self.fails(login(make(email=WRONG, password=WRONG)))

    async def use(self, tokens: Tokens) -> None:
        service = self.service
        assert await service.judge_token(tokens.access_token, required_scopes=["read"]) == ""
        assert await service.judge_session(tokens.session_token, csrf_token=tokens.csrf_token) == ""
        for token in (tokens.access_token, tokens.refresh_token, tokens.session_token):
            await service.judge_token(token[:-1])
            await service.judge_session(token + "=")
            for name in ("authorization", "x-authorization"):
                metadata = ((name, f"Bearer {token}x"),)
                await self.fails(
                    service.account().GetAccount(GetAccountRequest(), metadata=metadata)
                )
            await self.fails(
                service.sessions().GetSession(session_pb.GetSessionRequest(session_id=token))
            )
        good = (("authorization", f"Bearer {tokens.access_token}"),)
        await service.account().GetAccount(GetAccountRequest(), metadata=good)
        await service.list_sessions(tokens.user_id)

    async def misuse(self, tokens: Tokens) -> None:
        service, limits = self.service, self.service.limits()
        secret = tokens.refresh_token
        await self.fails(service.clients.raw("app", LOGIN)(b"\x12\xff" + PASSWORD.encode()))
        await self.fails(service.auth("edge").Login(auth_pb.LoginRequest(password=PASSWORD)))
        await self.fails(
            service.sessions("app").CreateSession(session_pb.CreateSessionRequest(user_id=secret))
        )
        await self.fails(
            service.auth().Logout(auth_pb.LogoutRequest(refresh_token=tokens.session_token))
        )
        for charge in (
            limit_pb.Charge(policy=secret, key="k"),
            limit_pb.Charge(policy="no-such", key="k"),
        ):
            await self.fails(
                limits.CheckRateLimit(limit_pb.CheckRateLimitRequest(charges=[charge]))
            )
        await self.fails(
            limits.ListPolicies(limit_pb.ListPoliciesRequest(page_token=tokens.session_token))
        )

    async def end(self) -> None:
        first = await self.login()
        second = await self.refresh(first.refresh_token)
        await self.refresh(first.refresh_token)
        self.clock.advance(60)
        refresh = self.service.auth().RefreshTokens
        for token in (first.refresh_token, second.refresh_token):
            await self.fails(refresh(auth_pb.RefreshTokensRequest(refresh_token=token)))
        last = await self.login()
        await self.service.auth().Logout(auth_pb.LogoutRequest(refresh_token=last.refresh_token))
        assert await self.service.judge_session(last.session_token) == "SESSION_REVOKED"

    async def live(self) -> None:
        await self.register()
        await self.guess()
        tokens = await self.login()
        await self.use(tokens)
        await self.misuse(tokens)
        await self.end()
        self.given.append(await self.service.create_session(tokens.user_id))


async def call_everything(life: Life, tokens: Tokens) -> None:
    """Call what writes, with all kinds of secrets; most of it fails."""
    auth, sessions = life.service.auth(), life.service.sessions("issuer")
    calls: list[Callable[[], Any]] = [
        lambda: auth.Register(auth_pb.RegisterRequest(email="b@example.test", password=WRONG)),
        lambda: auth.Login(auth_pb.LoginRequest(email=EMAIL, password=PASSWORD, client=CLIENT)),
        lambda: auth.Login(auth_pb.LoginRequest(email=EMAIL, password=WRONG)),
        lambda: sessions.CreateSession(
            session_pb.CreateSessionRequest(
                user_id=tokens.user_id, client=CLIENT, authentication_methods=["pwd"]
            )
        ),
        lambda: auth.RefreshTokens(
            auth_pb.RefreshTokensRequest(refresh_token=tokens.refresh_token, client=CLIENT)
        ),
        lambda: auth.Logout(auth_pb.LogoutRequest(refresh_token=tokens.refresh_token)),
    ]
    for call in calls:
        try:
            answer = await call()
        except grpc.aio.AioRpcError as error:
            life.tell(error)
        else:
            if hasattr(answer, "tokens"):
                life.given.append(answer.tokens)
