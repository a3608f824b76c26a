"""Owns the tour itself: the connections of each client, its user Ada, and its output."""

import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import typer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from rich.console import Console

from authsvc.cli.output import fail
from authsvc.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    auth_service_pb2,
    auth_service_pb2_grpc,
    common_pb2,
    rate_limit_service_pb2_grpc,
    session_service_pb2_grpc,
)

if TYPE_CHECKING:
    from authsvc.v1.account_service_pb2_grpc import AccountServiceAsyncStub
    from authsvc.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceAsyncStub
    from authsvc.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_TIMEOUT = 10.0
# Codes by which nothing was refused: something went wrong.
_FAULTS = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNKNOWN,
}


class Tour:
    """What all chapters share: the user Ada, and stubs to call the service as any client."""

    def __init__(self, certs: Path, target: str) -> None:
        self._certs = certs
        # The folder where `authsvc dev` puts messages to users.
        self.messages = certs.parent / "messages"
        self.state = certs.parent
        self.target = target
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._console = Console(highlight=False, soft_wrap=True)
        self.email = new_email("ada")
        self.password = f"Correct-Horse-{secrets.token_hex(4)}"
        self.client = new_client()
        self._ada_is_registered = False

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def check_health(self) -> None:
        """Check that the service is up, or end the tour and say how to start it."""
        self.title("The service is up, and accepts only mutual TLS")
        health = health_pb2_grpc.HealthStub(self.channel())
        try:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            fail(f"{self.target} does not answer ({error.details()}); start it with: make run")
        self.say("health", health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def channel(self, client: str = "app") -> grpc.aio.Channel:
        """Return the connection of one of the development clients."""
        if client not in self._channels:
            path = self._certs / "clients" / client
            credentials = grpc.ssl_channel_credentials(
                (self._certs / "ca.crt").read_bytes(),
                path.with_suffix(".key").read_bytes(),
                path.with_suffix(".crt").read_bytes(),
            )
            self._channels[client] = grpc.aio.secure_channel(
                self.target, credentials, [("grpc.enable_http_proxy", 0)]
            )
        return self._channels[client]

    def thumbprint(self, client: str = "app") -> bytes:
        """Return the SHA-256 of a client's certificate, as its TLS peer sees it."""
        pem = (self._certs / "clients" / f"{client}.crt").read_bytes()
        return x509.load_pem_x509_certificate(pem).fingerprint(SHA256())

    def auth(self, client: str = "app") -> "AuthServiceAsyncStub":
        """Return the stub of AuthService for one of the clients."""
        return auth_service_pb2_grpc.AuthServiceStub(self.channel(client))

    def account(self, client: str = "app") -> "AccountServiceAsyncStub":
        """Return the stub of AccountService for one of the clients."""
        return account_service_pb2_grpc.AccountServiceStub(self.channel(client))

    def sessions(self, client: str = "app") -> "SessionServiceAsyncStub":
        """Return the stub of SessionService for one of the clients."""
        return session_service_pb2_grpc.SessionServiceStub(self.channel(client))

    def limits(self, client: str = "app") -> "RateLimitServiceAsyncStub":
        """Return the stub of RateLimitService for one of the clients."""
        return rate_limit_service_pb2_grpc.RateLimitServiceStub(self.channel(client))

    def admin(self, client: str = "admin") -> "AdminServiceAsyncStub":
        """Return the stub of AdminService for one of the clients."""
        return admin_service_pb2_grpc.AdminServiceStub(self.channel(client))

    def title(self, text: str) -> None:
        """Print the title of a scene."""
        self._console.print(f"\n[bold]{text}[/]")

    def say(self, what: str, outcome: object) -> None:
        """Print a step and its outcome."""
        self._print("[green]✓[/]", what, outcome)

    def answer(self, what: str, outcome: object, *, accepted: bool, expected: bool = False) -> None:
        """Print whether the service accepted something; end the tour if it should not have.

        What was refused as it should be has a mark of its own.
        """
        if accepted != expected:
            wanted = "accepted" if expected else "refused"
            self.fail(what, f"{outcome}; it should have been {wanted}")
        elif accepted:
            self.say(what, outcome)
        else:
            self._print("[green]⊘[/]", what, outcome, " refused, as it should be")

    def skip(self, reason: str) -> None:
        """Print why the chapter is skipped."""
        self._print("[yellow]–[/]", "skipped", reason)

    def fail(self, what: str, problem: str) -> NoReturn:
        """Print what went wrong, and end the tour."""
        self._print("[bold red]✗[/]", what, problem)
        raise typer.Exit(1)

    def end(self, text: str) -> None:
        """Print the closing line."""
        self._console.print(f"\n[bold green]{text}[/]")

    async def rejected(self, what: str, call: Awaitable[Any]) -> None:
        """Make a call that must be rejected, and print the reason."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() in _FAULTS:
                self.fail(what, failure(error))
            self.answer(what, failure(error), accepted=False)
        else:
            self.fail(what, "succeeded; it should have been refused")

    def _print(self, mark: str, what: str, outcome: object, remark: str = "") -> None:
        self._console.print(
            f"  {mark} {what}: [cyan]{outcome}[/]{remark and f' [dim]·{remark}[/]'}"
        )

    async def register(
        self, email: str, password: str, name: str = ""
    ) -> auth_service_pb2.RegisterResponse:
        """Register an account."""
        self._ada_is_registered |= email == self.email
        return await self.auth().Register(
            auth_service_pb2.RegisterRequest(
                email=email, password=password, display_name=name, client=self.client
            )
        )

    async def register_for_code(
        self, email: str, password: str, name: str
    ) -> auth_service_pb2.RegisterResponse:
        """Register an account; the code that verifies its address is returned instead of sent."""
        return await self.auth("issuer").Register(
            auth_service_pb2.RegisterRequest(
                email=email,
                password=password,
                display_name=name,
                client=self.client,
                delivery=common_pb2.DELIVERY_RETURN,
            )
        )

    async def verify(self, email: str, registered: auth_service_pb2.RegisterResponse) -> None:
        """Verify an address with the code and the token of its registration."""
        await self.auth().VerifyEmail(
            auth_service_pb2.VerifyEmailRequest(
                email=email,
                code=registered.code,
                client=self.client,
                registration_token=registered.registration_token,
            )
        )

    async def login(self, email: str, password: str) -> auth_service_pb2.LoginResponse:
        """Log in with a password; the result is tokens or a request for a second factor."""
        return await self.auth().Login(
            auth_service_pb2.LoginRequest(email=email, password=password, client=self.client)
        )

    async def tokens(self) -> common_pb2.Tokens:
        """Log Ada in, after registering her if no chapter has done so."""
        if not self._ada_is_registered:
            await self.register(self.email, self.password, "Ada")
        return (await self.login(self.email, self.password)).tokens


def new_email(name: str) -> str:
    """Return an address that is not yet in use."""
    return f"{name}.{secrets.token_hex(4)}@example.com"


def new_client() -> common_pb2.ClientContext:
    """Return a new device at a new address from the documentation range (RFC 3849)."""
    network = ":".join(f"{secrets.randbelow(0x10000):x}" for _ in range(2))
    return common_pb2.ClientContext(
        ip=f"2001:db8:{network}::1", user_agent="authsvc-demo/1", device_id=secrets.token_hex(8)
    )


def bearer(tokens: common_pb2.Tokens) -> tuple[tuple[str, str], ...]:
    """Return the metadata that makes a call act for the tokens' user."""
    return (("authorization", f"Bearer {tokens.access_token}"),)


def inactive(reason: common_pb2.InactiveReason.ValueType) -> str:
    """Return the name of a reason why a token or key is not active."""
    return common_pb2.InactiveReason.Name(reason).removeprefix("INACTIVE_REASON_")


def failure(error: grpc.aio.AioRpcError) -> str:
    """Return the code of a failed call, and its reason."""
    return f"{error.code().name} {_reason(error)}"


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return error.details() or ""
