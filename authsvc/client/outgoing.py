"""Owns what a service sends along when it calls another: a token, the request's id, its trace."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from authsvc.client import context
from authsvc.client.outgoing_tokens import (
    AsyncServiceTokenCredentials,
    AsyncTokenExchange,
    ServiceTokenCredentials,
    TokenExchange,
)

AsyncTokens: TypeAlias = AsyncServiceTokenCredentials | AsyncTokenExchange
Tokens: TypeAlias = ServiceTokenCredentials | TokenExchange


def aio_interceptors(tokens: AsyncTokens | None = None) -> list[grpc.aio.ClientInterceptor]:
    """Return the interceptors of a grpc.aio channel to another service.

    They pass on the id, the trace and the deadline of the request that is being served, and add the
    token. Use them only on channels with TLS.

    Args:
        tokens: Where the tokens come from: this service's own, or the exchanged ones of the user.
    """
    kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    return [kind(tokens) for kind in kinds]


class _Aio:
    def __init__(self, tokens: AsyncTokens | None) -> None:
        self._tokens = tokens

    async def _call(
        self, continuation: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        metadata = tuple(details.metadata or ())
        token = ""
        if self._tokens is not None and not _has_authorization(metadata):
            token = await self._tokens.token()
        changed = details._replace(
            metadata=grpc.aio.Metadata(*_extended(metadata, token)),
            timeout=_timeout(details.timeout),
        )
        return await continuation(changed, request)


class _UnaryUnary(_Aio, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


class _UnaryStream(_Aio, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamUnary(_Aio, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


class _StreamStream(_Aio, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request_iterator)


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: context.Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """The twin of `aio_interceptors`, for `grpc.intercept_channel(channel, SyncInterceptor(…))`."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make a call with what is sent along."""
        return continuation(self._extended(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make a call with what is sent along."""
        return continuation(self._extended(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call with what is sent along."""
        return continuation(self._extended(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make a call with what is sent along."""
        return continuation(self._extended(client_call_details), request_iterator)

    def _extended(self, details: Any) -> _Details:
        metadata = tuple(details.metadata or ())
        token = ""
        if self._tokens is not None and not _has_authorization(metadata):
            token = self._tokens.token()
        return _Details(
            method=details.method,
            timeout=_timeout(details.timeout),
            metadata=_extended(metadata, token),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


def _has_authorization(metadata: context.Metadata) -> bool:
    return any(name == "authorization" for name, _ in metadata)


def _extended(metadata: context.Metadata, token: str) -> context.Metadata:
    names = {name for name, _ in metadata}
    added = tuple(each for each in context.metadata_of_request() if each[0] not in names)
    return metadata + added + ((("authorization", f"Bearer {token}"),) if token else ())


def _timeout(given: float | None) -> float | None:
    """Return the timeout of a call, which ends no later than the request that it serves."""
    end = context.deadline.get()
    if end is None:
        return given
    left = max(end - time.monotonic(), 0.0)
    return left if given is None or left < given else given
