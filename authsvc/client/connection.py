"""Owns the clients: `Client` for threads and `AsyncClient` for asyncio, with the same names."""

import re
from collections.abc import Callable
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from authsvc.client.aio_channel import AioChannel
from authsvc.client.calling import CallSettings, Renewal, address_of
from authsvc.client.certificates import CertificateError, Certificates
from authsvc.client.errors import BearerInvalid
from authsvc.client.sync_channel import SyncChannel
from authsvc.v1.account_service_pb2_grpc import AccountServiceStub
from authsvc.v1.admin_service_pb2_grpc import AdminServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from authsvc.v1.session_service_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:
    import grpc

    from authsvc.v1.account_service_pb2_grpc import AccountServiceAsyncStub
    from authsvc.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from authsvc.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from authsvc.v1.rate_limit_service_pb2_grpc import RateLimitServiceAsyncStub
    from authsvc.v1.session_service_pb2_grpc import SessionServiceAsyncStub

# As the service accepts them (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)


class AsyncClient:
    """A client for asyncio.

    Its calls are coroutines: `await client.auth.GetJwks(GetJwksRequest())`. They raise an
    AuthsvcError when they fail. It belongs to the event loop of its first call.

    Args:
        target: Where authsvc is: `NAME:PORT`, where the name resolves to every replica, or any
            address of gRPC such as `ipv4:192.0.2.1:8443,192.0.2.2:8443`.
        ca: The file of the authorities that sign the certificates of authsvc, PEM.
        cert: The file of this service's certificate, PEM.
        key: The file of its key, PEM.
        timeout: How many seconds a call may take, with all its attempts. Streams have no limit.
        retries: How many more attempts a call has that may be repeated, when authsvc is unavailable
            or overloaded.
        hedge_after: After how many seconds without an answer a read is sent once more, to another
            replica; the first answer counts. None: never.
        server_name: The name in the certificate of authsvc, if it isn't that of the target.
        on_certificate_error: Called with a changed certificate that can't be used; the former one
            stays in use. It is also logged.

    Raises:
        CertificateError: The files can't be used.
        ValueError: The target has no port.
    """

    def __init__(  # noqa: PLR0913 - options, by their names
        self,
        target: str,
        *,
        ca: str | PathLike[str],
        cert: str | PathLike[str],
        key: str | PathLike[str],
        timeout: float = 5.0,
        retries: int = 3,
        hedge_after: float | None = None,
        server_name: str = "",
        on_certificate_error: Callable[[CertificateError], None] | None = None,
    ) -> None:
        self.target = target
        self.channel = channel = AioChannel(
            address=address_of(target),
            renewal=Renewal(Certificates(ca=ca, cert=cert, key=key, on_error=on_certificate_error)),
            settings=CallSettings(timeout=timeout, retries=retries, hedge_after=hedge_after),
            server_name=server_name,
        )
        on = cast("grpc.aio.Channel", channel)
        self.auth: AuthServiceAsyncStub = AuthServiceStub(on)
        self.account: AccountServiceAsyncStub = AccountServiceStub(on)
        self.sessions: SessionServiceAsyncStub = SessionServiceStub(on)
        self.limits: RateLimitServiceAsyncStub = RateLimitServiceStub(on)
        self.admin: AdminServiceAsyncStub = AdminServiceStub(on)

    def as_user(self, access_token: str) -> "AccountServiceAsyncStub":
        """Return `account` for the user of an access token.

        Raises:
            BearerInvalid: It doesn't look like a token.
        """
        return cast("AccountServiceAsyncStub", _AsUser(self.account, access_token))

    async def close(self) -> None:
        """Close the connections; calls in progress fail with ClientClosed."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.target!r})"


class Client:
    """A client for threads: the twin of AsyncClient, whose parameters it has.

    Its calls wait for their answer: `client.auth.GetJwks(GetJwksRequest())`. Any number of threads
    may use it at once.

    Raises:
        CertificateError: The files can't be used.
        ValueError: The target has no port.
    """

    def __init__(  # noqa: PLR0913 - options, by their names
        self,
        target: str,
        *,
        ca: str | PathLike[str],
        cert: str | PathLike[str],
        key: str | PathLike[str],
        timeout: float = 5.0,
        retries: int = 3,
        hedge_after: float | None = None,
        server_name: str = "",
        on_certificate_error: Callable[[CertificateError], None] | None = None,
    ) -> None:
        self.target = target
        self.channel = channel = SyncChannel(
            address=address_of(target),
            renewal=Renewal(Certificates(ca=ca, cert=cert, key=key, on_error=on_certificate_error)),
            settings=CallSettings(timeout=timeout, retries=retries, hedge_after=hedge_after),
            server_name=server_name,
        )
        on = cast("grpc.Channel", channel)
        self.auth: AuthServiceStub = AuthServiceStub(on)
        self.account: AccountServiceStub = AccountServiceStub(on)
        self.sessions: SessionServiceStub = SessionServiceStub(on)
        self.limits: RateLimitServiceStub = RateLimitServiceStub(on)
        self.admin: AdminServiceStub = AdminServiceStub(on)

    def as_user(self, access_token: str) -> AccountServiceStub:
        """Return `account` for the user of an access token.

        Raises:
            BearerInvalid: It doesn't look like a token.
        """
        return cast("AccountServiceStub", _AsUser(self.account, access_token))

    def close(self) -> None:
        """Close the connections; calls in progress fail with ClientClosed."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"


class _AsUser:
    """AccountService's stub, whose calls carry a user's access token."""

    def __init__(self, account: Any, access_token: str) -> None:
        # What gRPC says of invalid metadata would show it.
        if not _TOKEN.fullmatch(access_token):
            raise BearerInvalid("The access token has characters or a length that no token has.")
        self._account = account
        self._metadata = (("authorization", f"Bearer {access_token}"),)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._account, name)

        def as_user(request: Any, *, metadata: Any = (), **more: Any) -> Any:
            return call(request, metadata=(*metadata, *self._metadata), **more)

        return as_user
