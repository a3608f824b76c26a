"""Owns the tokens for calls to other services: this service's own, and those that users' become."""

import asyncio
import base64
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import grpc

from authsvc.client.aio_channel import AioChannel
from authsvc.client.connection import AsyncClient, Client
from authsvc.client.errors import AuthsvcError, ClientClosed
from authsvc.client.guards.current import current_token
from authsvc.client.jitter import JITTER
from authsvc.client.sync_channel import SyncChannel
from authsvc.v1.auth_service_pb2 import ExchangeTokenRequest, IssueServiceTokenRequest

_log = logging.getLogger("authsvc.client")
# A token is renewed within this part of its life; instances of a service do it at different times.
_RENEW_AFTER, _RENEW_BEFORE = 0.7, 0.8
# Seconds between attempts to renew a token that is still valid.
_RENEWAL_PAUSE = 5.0
# A token that ends sooner could end on its way.
_MARGIN = 5.0
_MAX_EXCHANGED = 10_000


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, and until when it is used, by `time.monotonic()`."""

    token: str = field(repr=False)
    renew_time: float
    end_time: float

    @classmethod
    def new(cls, token: str) -> "_Held":
        """Hold a token that was just issued: by the lifetime in it, as clocks differ."""
        issued, expires = _times_of(token)
        return cls._with(token, expires - issued)

    @classmethod
    def exchanged(cls, token: str) -> "_Held":
        """Hold an exchanged token, which says when the one before it was issued."""
        return cls._with(token, _times_of(token)[1] - time.time())

    @classmethod
    def _with(cls, token: str, life: float) -> "_Held":
        now = time.monotonic()
        renew = now + life * JITTER.uniform(_RENEW_AFTER, _RENEW_BEFORE)
        return cls(token, renew, now + life - min(_MARGIN, life / 10))


def _times_of(token: str) -> tuple[float, float]:
    """Return when a token was issued and when it expires."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["iat"]), float(claims["exp"])


class _ServiceTokens:
    """What both kinds of service tokens have in common."""

    def __init__(
        self, channel: AioChannel | SyncChannel, audience: str, scopes: Collection[str]
    ) -> None:
        self._channel = channel
        self._request = IssueServiceTokenRequest(audience=audience, scopes=scopes)
        self._held: _Held | None = None
        self._bound_to = b""
        self._next_attempt = 0.0

    def _usable(self) -> _Held | None:
        held = self._held
        return held if held is not None and time.monotonic() < held.end_time else None

    def _is_renewal_due(self, held: _Held, certificate: bytes) -> bool:
        now = time.monotonic()
        is_due = now >= held.renew_time or certificate != self._bound_to
        return is_due and now >= self._next_attempt

    def _certificate(self) -> bytes:
        """Return the certificate with which a token would be requested now."""
        try:
            return self._channel.certificate()
        except ClientClosed:
            return self._bound_to

    def _hold(self, token: str, certificate: bytes) -> _Held:
        """Hold a token that was requested when this was the certificate."""
        self._held, self._bound_to = _Held.new(token), certificate
        return self._held

    def _renewal_failed(self, error: AuthsvcError) -> None:
        pause = _RENEWAL_PAUSE * JITTER.uniform(0.5, 1.5)
        self._next_attempt = time.monotonic() + pause
        _log.warning("the token of this service could not be renewed: %s", error)


class AsyncServiceTokenCredentials(_ServiceTokens):
    """Holds a token of this service itself, and renews it in time.

    However many calls need it at once, it is requested once. It is renewed in the background after
    70 to 80 % of its life, and before it is used again when the certificate of the client has
    changed; while authsvc is away, it is used until it expires.

    Args:
        client: The connection to authsvc. The token is bound to its certificate, with which the
            service that is called has to be called too.
        audience: Whom the token is for; the settings of authsvc have to allow it.
        scopes: Its scopes; all that the settings allow, if there are none.
    """

    def __init__(self, client: AsyncClient, audience: str, scopes: Collection[str] = ()) -> None:
        super().__init__(client.channel, audience, scopes)
        self._client = client
        self._renewal: asyncio.Task[_Held] | None = None

    async def token(self) -> str:
        """Return the token.

        Raises:
            AuthsvcError: There is none, and authsvc does not issue one.
        """
        held = self._usable()
        if held is None:
            return (await asyncio.shield(self._renew())).token
        certificate = self._certificate()
        if self._is_renewal_due(held, certificate):
            renewal = self._renew()
            if certificate != self._bound_to:
                with suppress(AuthsvcError):
                    return (await asyncio.shield(renewal)).token
        return held.token

    def _renew(self) -> "asyncio.Task[_Held]":
        if self._renewal is None or self._renewal.done():
            # Not in the context of a request, whose deadline is not that of others.
            loop = asyncio.get_running_loop()
            self._renewal = loop.create_task(self._request_token(), context=Context())
            self._renewal.add_done_callback(_retrieve)
        return self._renewal

    async def _request_token(self) -> _Held:
        # Of before the request: if it changes meanwhile, the token is renewed once too often.
        certificate = self._certificate()
        try:
            response = await self._client.auth.IssueServiceToken(self._request)
        except AuthsvcError as error:
            self._renewal_failed(error)
            raise
        return self._hold(response.access_token, certificate)


class ServiceTokenCredentials(_ServiceTokens, grpc.AuthMetadataPlugin):
    """The twin of AsyncServiceTokenCredentials, for threads.

    It is also a plugin of gRPC: `grpc.metadata_call_credentials(ServiceTokenCredentials(…))`.
    """

    def __init__(self, client: Client, audience: str, scopes: Collection[str] = ()) -> None:
        super().__init__(client.channel, audience, scopes)
        self._client = client
        self._renewing = threading.Lock()

    def token(self) -> str:
        """Return the token.

        Raises:
            AuthsvcError: There is none, and authsvc does not issue one.
        """
        held = self._usable()
        if held is None:
            with self._renewing:
                return (self._usable() or self._request_token()).token
        certificate = self._certificate()
        if certificate != self._bound_to:
            return self._rebound(certificate)
        if self._is_renewal_due(held, certificate) and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew, daemon=True).start()
        return held.token

    def __call__(
        self,
        context: grpc.AuthMetadataContext,  # noqa: ARG002 - prescribed by gRPC
        callback: grpc.AuthMetadataPluginCallback,
    ) -> None:
        """Add the token to a call, as gRPC prescribes."""
        try:
            metadata = (("authorization", f"Bearer {self.token()}"),)
        except AuthsvcError as error:
            callback((), error)
        else:
            callback(metadata, None)

    def _rebound(self, certificate: bytes) -> str:
        """Return a token for a new certificate, or the former one while authsvc is away."""
        with self._renewing:
            held = self._usable()
            if held is None or self._is_renewal_due(held, certificate):
                try:
                    held = Context().run(self._request_token)
                except AuthsvcError:
                    if held is None:
                        raise
            return held.token

    def _renew(self) -> None:
        try:
            Context().run(self._request_token)
        except AuthsvcError:
            return  # logged
        finally:
            self._renewing.release()

    def _request_token(self) -> _Held:
        certificate = self._certificate()  # of before the request, as above
        try:
            response = self._client.auth.IssueServiceToken(self._request)
        except AuthsvcError as error:
            self._renewal_failed(error)
            raise
        return self._hold(response.access_token, certificate)


class _Exchanged:
    """A bounded cache of exchanged tokens by the tokens that they were exchanged for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, token: str) -> str | None:
        with self._lock:
            held = self._held.get(token)
            if held is None or time.monotonic() >= held.end_time:
                return None
            self._held.move_to_end(token)
            return held.token

    def put(self, token: str, exchanged: str) -> str:
        with self._lock:
            self._held[token] = _Held.exchanged(exchanged)
            self._held.move_to_end(token)
            if len(self._held) > self._size:
                self._held.popitem(last=False)
        return exchanged


class AsyncTokenExchange:
    """Exchanges the user's token for one that is for the next service, with this one as its actor.

    Exchanged tokens are cached until shortly before they expire. They end with the user's session,
    so the next service refuses them when this one refuses the user's token.

    Args:
        client: The connection to authsvc; its certificate needs the role `app`.
        audience: The next service; the settings of authsvc have to allow it.
        scopes: What the new token allows: some of the scopes of the old one, or all.
        cache_size: How many are cached at most.
    """

    def __init__(
        self,
        client: AsyncClient,
        audience: str,
        scopes: Collection[str] = (),
        *,
        cache_size: int = _MAX_EXCHANGED,
    ) -> None:
        self._client = client
        self._audience = audience
        self._scopes = tuple(scopes)
        self._cache = _Exchanged(cache_size)
        self._pending: dict[str, asyncio.Task[str]] = {}

    async def token(self, subject_token: str = "") -> str:
        """Return what the token is exchanged for; by default, that of the current request.

        Raises:
            AuthsvcError: The token is no longer active, or authsvc does not answer.
            LookupError: The current request has none.
        """
        subject = subject_token or current_token()
        cached = self._cache.get(subject)
        if cached is not None:
            return cached
        pending = self._pending.get(subject)
        if pending is None:
            loop = asyncio.get_running_loop()
            pending = loop.create_task(self._exchange(subject), context=Context())
            self._pending[subject] = pending
            pending.add_done_callback(lambda _: self._pending.pop(subject, None))
            pending.add_done_callback(_retrieve)
        return await asyncio.shield(pending)

    async def _exchange(self, subject: str) -> str:
        request = ExchangeTokenRequest(
            subject_token=subject, audience=self._audience, scopes=self._scopes
        )
        response = await self._client.auth.ExchangeToken(request)
        return self._cache.put(subject, response.access_token)


class TokenExchange:
    """The twin of AsyncTokenExchange, for threads."""

    def __init__(
        self,
        client: Client,
        audience: str,
        scopes: Collection[str] = (),
        *,
        cache_size: int = _MAX_EXCHANGED,
    ) -> None:
        self._client = client
        self._audience = audience
        self._scopes = tuple(scopes)
        self._cache = _Exchanged(cache_size)

    def token(self, subject_token: str = "") -> str:
        """Return what the token is exchanged for; by default, that of the current request.

        Raises:
            AuthsvcError: The token is no longer active, or authsvc does not answer.
            LookupError: The current request has none.
        """
        subject = subject_token or current_token()
        cached = self._cache.get(subject)
        if cached is not None:
            return cached
        request = ExchangeTokenRequest(
            subject_token=subject, audience=self._audience, scopes=self._scopes
        )
        response = self._client.auth.ExchangeToken(request)
        return self._cache.put(subject, response.access_token)


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Take note of a failure that nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()
