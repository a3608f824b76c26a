"""Owns `authsvc demo`: a tour of the main job against a running service, told step by step."""

import asyncio
import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any

import grpc
import jwt
import typer
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from rich.console import Console

from authsvc.cli.output import DEVELOPMENT, fail, run
from authsvc.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    auth_service_pb2,
    auth_service_pb2_grpc,
    common_pb2,
    rate_limit_service_pb2,
    rate_limit_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

_PATIENCE = 10.0


def demo(
    folder: Annotated[
        Path, typer.Option("--state", help="The state folder of the running `authsvc dev`.")
    ] = DEVELOPMENT,
    target: Annotated[str, typer.Option(help="Where the service listens.")] = "127.0.0.1:8443",
) -> None:
    """Walk through the main job against the running service and print what happens."""
    certs = folder / "certs"
    if not (certs / "clients" / "app.crt").exists():
        fail(f"no certificates in {certs}; start the service first: make run")
    run(lambda: _Tour(certs, target).walk())


class _Tour:
    def __init__(self, certs: Path, target: str) -> None:
        self._certs = certs
        self._target = target
        self._console = Console(highlight=False, soft_wrap=True)
        self._email = f"ada.{secrets.token_hex(4)}@example.com"
        self._password = f"Correct-Horse-{secrets.token_hex(4)}"
        # Addresses of the documentation range (RFC 5737), another one for each tour.
        self._client = common_pb2.ClientContext(
            ip=f"203.0.113.{secrets.randbelow(254) + 1}",
            user_agent="authsvc-demo/1",
            device_id=secrets.token_hex(8),
        )

    async def walk(self) -> None:
        async with self._channel("app") as app, self._channel("edge") as edge:
            await self._health(app)
            await self._register(app)
            tokens = await self._login(app)
            await self._validate(app, edge, tokens)
            await self._account(app, tokens)
            tokens = await self._refresh(app, edge, tokens)
            await self._sessions(app, edge)
            await self._limits(edge)
            await self._trust(edge)
            await self._guessing(app)
        self._console.print("\n[bold green]That is the main job.[/]")

    def _channel(self, name: str) -> grpc.aio.Channel:
        client = self._certs / "clients" / name
        credentials = grpc.ssl_channel_credentials(
            (self._certs / "ca.crt").read_bytes(),
            client.with_suffix(".key").read_bytes(),
            client.with_suffix(".crt").read_bytes(),
        )
        return grpc.aio.secure_channel(self._target, credentials)

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/]")

    def _say(self, what: str, outcome: object, *, good: bool = True) -> None:
        mark = "[green]✓[/]" if good else "[yellow]✗[/]"
        self._console.print(f"  {mark} {what}: [cyan]{outcome}[/]")

    async def _refused(self, what: str, call: Awaitable[Any]) -> None:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            self._say(what, f"{error.code().name} {_reason(error)}", good=False)
        else:
            fail(f"{what}: was expected to be refused, but was done")

    async def _health(self, app: grpc.aio.Channel) -> None:
        self._title("The service is up, and speaks mutual TLS only")
        health = health_pb2_grpc.HealthStub(app)
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            fail(f"{self._target} does not answer ({error.details()}); start it with: make run")
        self._say("health", health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def _register(self, app: grpc.aio.Channel) -> None:
        self._title("A user registers")
        auth = auth_service_pb2_grpc.AuthServiceStub(app)

        def request(password: str) -> auth_service_pb2.RegisterRequest:
            return auth_service_pb2.RegisterRequest(
                email=self._email, password=password, display_name="Ada", client=self._client
            )

        await self._refused("a weak password", auth.Register(request("password1234")))
        answer = await auth.Register(request(self._password))
        self._say(f"{self._email} has the user id", answer.user_id)
        await self._refused("the same address again", auth.Register(request(self._password)))

    async def _login(self, app: grpc.aio.Channel) -> common_pb2.Tokens:
        self._title("She logs in")
        await self._refused("with a wrong password", self._try_login(app, "Wrong-Password-1"))
        answer = await self._try_login(app, self._password)
        self._say("with the right one, session", answer.tokens.session_id)
        return answer.tokens

    async def _try_login(
        self, app: grpc.aio.Channel, password: str, email: str = ""
    ) -> auth_service_pb2.LoginResponse:
        request = auth_service_pb2.LoginRequest(
            email=email or self._email, password=password, client=self._client
        )
        return await auth_service_pb2_grpc.AuthServiceStub(app).Login(request)

    async def _validate(
        self, app: grpc.aio.Channel, edge: grpc.aio.Channel, tokens: common_pb2.Tokens
    ) -> None:
        self._title("A gateway asks whether her access token is good")
        auth = auth_service_pb2_grpc.AuthServiceStub(edge)
        for what, token in (
            ("hers", tokens.access_token),
            ("a forged one", tokens.access_token[:-8] + "AAAAAAAA"),
            ("her refresh token in its place", tokens.refresh_token),
        ):
            answer = await auth.ValidateToken(
                auth_service_pb2.ValidateTokenRequest(access_token=token)
            )
            self._say(what, _activity(answer), good=answer.active)
        jwks = await auth_service_pb2_grpc.AuthServiceStub(app).GetJwks(
            auth_service_pb2.GetJwksRequest()
        )
        key_id = jwt.get_unverified_header(tokens.access_token)["kid"]
        key = jwt.PyJWKSet.from_json(jwks.jwks_json)[key_id]
        claims = jwt.decode(
            tokens.access_token,
            key,
            algorithms=[key.algorithm_name],
            options={"verify_aud": False, "require": ["exp", "sub"]},
        )
        self._say("verified offline with the published keys, roles", claims["roles"])

    async def _account(self, app: grpc.aio.Channel, tokens: common_pb2.Tokens) -> None:
        self._title("A service acts for her, with her token")
        accounts = account_service_pb2_grpc.AccountServiceStub(app)
        request = account_service_pb2.GetAccountRequest()
        await self._refused("without it", accounts.GetAccount(request))
        bearer = (("authorization", f"Bearer {tokens.access_token}"),)
        answer = await accounts.GetAccount(request, metadata=bearer)
        self._say("with it, the account of", answer.account.email)

    async def _refresh(
        self, app: grpc.aio.Channel, edge: grpc.aio.Channel, first: common_pb2.Tokens
    ) -> common_pb2.Tokens:
        self._title("Her tokens are refreshed; a stolen one gives itself away")
        auth = auth_service_pb2_grpc.AuthServiceStub(app)

        async def refresh(token: str) -> common_pb2.Tokens:
            request = auth_service_pb2.RefreshTokensRequest(
                refresh_token=token, client=self._client
            )
            return (await auth.RefreshTokens(request)).tokens

        pairs = await asyncio.gather(*(refresh(first.refresh_token) for _ in range(10)))
        distinct = len({pair.refresh_token for pair in pairs})
        self._say("ten parallel refreshes of one token, new refresh tokens", distinct)
        latest = await refresh(pairs[0].refresh_token)
        await self._refused("the very first one, much later", refresh(first.refresh_token))
        await self._refused("and with that the session is over", refresh(latest.refresh_token))
        answer = await auth_service_pb2_grpc.AuthServiceStub(edge).ValidateToken(
            auth_service_pb2.ValidateTokenRequest(access_token=latest.access_token, strict=True)
        )
        self._say("its access token too", _activity(answer), good=answer.active)
        return latest

    async def _sessions(self, app: grpc.aio.Channel, edge: grpc.aio.Channel) -> None:
        self._title("Sessions: validated by their cookie, listed, ended")
        tokens = (await self._try_login(app, self._password)).tokens
        sessions = session_service_pb2_grpc.SessionServiceStub(edge)
        request = session_service_pb2.ValidateSessionRequest(
            session_token=tokens.session_token, csrf_token=tokens.csrf_token, client=self._client
        )
        answer = await sessions.ValidateSession(request)
        self._say("her cookie", f"{_activity(answer)}, csrf valid: {answer.csrf_valid}")
        owner = session_service_pb2_grpc.SessionServiceStub(app)
        listed = await owner.ListSessions(
            session_service_pb2.ListSessionsRequest(user_id=tokens.user_id)
        )
        self._say("her active sessions", len(listed.sessions))
        await owner.RevokeSession(
            session_service_pb2.RevokeSessionRequest(session_id=tokens.session_id)
        )
        request.strict = True
        answer = await sessions.ValidateSession(request)
        self._say("after it was revoked", _activity(answer), good=answer.active)

    async def _limits(self, edge: grpc.aio.Channel) -> None:
        self._title("Limits: the policy “login” lets five pass in five minutes")
        limits = rate_limit_service_pb2_grpc.RateLimitServiceStub(edge)
        login = rate_limit_service_pb2.Charge(policy="login", key=secrets.token_hex(8))
        request = rate_limit_service_pb2.CheckRateLimitRequest(charges=[login])
        answers = [await limits.CheckRateLimit(request) for _ in range(6)]
        for number, answer in enumerate(answers, start=1):
            verdict = answer.verdicts[0]
            wait = f", again in {verdict.retry_after.ToTimedelta().total_seconds():.0f} s"
            text = f"{verdict.remaining} left" if answer.allowed else f"refused{wait}"
            self._say(f"check {number}", text, good=answer.allowed)
        api = rate_limit_service_pb2.Charge(policy="api", key=secrets.token_hex(8))
        both = await limits.CheckRateLimit(
            rate_limit_service_pb2.CheckRateLimitRequest(charges=[login, api])
        )
        text = f"refused, and “api” keeps all of its {both.verdicts[1].remaining}"
        self._say("two charges at once, all or none", text, good=both.allowed)

    async def _trust(self, edge: grpc.aio.Channel) -> None:
        self._title("Each caller may do what its role says")
        await self._refused("the gateway tries to log somebody in", self._try_login(edge, "x"))

    async def _guessing(self, app: grpc.aio.Channel) -> None:
        self._title("Guessing passwords, with an account that does not exist")
        email = f"nobody.{secrets.token_hex(4)}@example.com"
        for number in range(1, 7):
            await self._refused(f"guess {number}", self._try_login(app, "Guess-Me-123456", email))


def _activity(
    answer: auth_service_pb2.ValidateTokenResponse | session_service_pb2.ValidateSessionResponse,
) -> str:
    if answer.active:
        return "active"
    name = common_pb2.InactiveReason.Name(answer.inactive_reason)
    return f"inactive, {name.removeprefix('INACTIVE_REASON_')}"


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return error.details() or ""
