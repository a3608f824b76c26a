"""Owns the channel of the asynchronous client: what every call goes through on its way to gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Self

import grpc

from authsvc.client.calling import UNLIMITED, CallSettings, Metadata, Renewal, channel_options
from authsvc.client.context import metadata_of_request
from authsvc.client.errors import (
    AuthsvcError,
    ClientClosed,
    ServiceStopping,
    ServiceUnavailable,
)
from authsvc.client.retries import Method, is_settled
from authsvc.client.status import to_error

_CLOSED = "The client is closed."


class AioConnections:
    """A channel of gRPC, the certificate with which it connects, and how many calls use it."""

    __slots__ = ("calls", "certificate", "channel")

    def __init__(self, channel: grpc.aio.Channel, certificate: bytes) -> None:
        self.channel = channel
        self.certificate = certificate
        self.calls = 0


class AioChannel:
    """Takes the place of a grpc.aio.Channel for generated stubs.

    It adds deadlines, what calls pass on from the current request, retries and errors by reason,
    and replaces the channel beneath when the certificate has changed: new calls use the new one,
    and the old one is closed when its last call has ended.
    """

    def __init__(
        self, *, address: str, renewal: Renewal, settings: CallSettings, server_name: str
    ) -> None:
        self.settings = settings
        self._renewal = renewal
        self._address = address
        self._options = channel_options(server_name)
        self._old: set[AioConnections] = set()
        self._closing: set[asyncio.Task[None]] = set()
        # Opened by the first call, on whose event loop it stays.
        self._current: AioConnections | None = None
        self._is_closed = False

    def unary_unary(self, method: str, *how: Any, **more: Any) -> "AioUnaryCall":
        """Return an RPC with one request and one response."""
        return AioUnaryCall(self, method, lambda on: on.unary_unary(method, *how, **more))

    def stream_unary(self, method: str, *how: Any, **more: Any) -> "AioUnaryCall":
        """Return an RPC with a stream of requests and one response."""
        call = AioUnaryCall(self, method, lambda on: on.stream_unary(method, *how, **more))
        call.timeout = UNLIMITED
        return call

    def unary_stream(self, method: str, *how: Any, **more: Any) -> "AioStreamCall":
        """Return an RPC with one request and a stream of responses."""
        return AioStreamCall(self, method, lambda on: on.unary_stream(method, *how, **more))

    def acquire(self) -> AioConnections:
        """Return what a call that begins now uses, until it calls `release`.

        Raises:
            ClientClosed: There are no more calls.
        """
        if self._is_closed:
            raise ClientClosed(_CLOSED)
        if self._renewal.is_due() and self._renewal.certificates.reload():
            self.reconnect(self._current)
        current = self._current = self._current or self._open()
        current.calls += 1
        return current

    def certificate(self) -> bytes:
        """Return the certificate with which a call that begins now is made, in PEM.

        Raises:
            ClientClosed: There are no more calls.
        """
        connections = self.acquire()
        self.release(connections)
        return connections.certificate

    def release(self, used: AioConnections) -> None:
        """End a call's use."""
        used.calls -= 1
        if used in self._old and not used.calls:
            self._old.remove(used)
            self._close_in_background(used)

    def reconnect(self, former: AioConnections | None) -> None:
        """Let calls that begin from now on use new connections, and `former` end with its calls.

        Does nothing if `former` has been replaced already.
        """
        if former is None or former is not self._current:
            return
        self._current = None
        if former.calls:
            self._old.add(former)
        else:
            self._close_in_background(former)

    def _close_in_background(self, unused: AioConnections) -> None:
        task = asyncio.get_running_loop().create_task(unused.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def to_error(
        self, failure: Any, connections: AioConnections, *, repeatable: bool
    ) -> AuthsvcError:
        """Return the error that a failed call means, and leave a replica that stops."""
        error = to_error(failure, repeatable=repeatable)
        if isinstance(error, ServiceUnavailable):
            self._renewal.hasten()
        if isinstance(error, ServiceStopping):
            # gRPC would go on using the connection until it ends, together with what is under way.
            self.reconnect(connections)
        return error

    async def close(self) -> None:
        """Close all connections; calls in progress fail."""
        self._is_closed = True
        opened = [self._current] if self._current else []
        for each in (*opened, *self._old):
            await each.channel.close()
        await asyncio.gather(*self._closing)

    def _open(self) -> AioConnections:
        credentials, certificate = self._renewal.certificates.credentials()
        channel = grpc.aio.secure_channel(self._address, credentials, self._options)
        return AioConnections(channel, certificate)


class _Call:
    """An RPC, on whichever connections are current."""

    def __init__(
        self, channel: AioChannel, path: str, bind: Callable[[grpc.aio.Channel], Any]
    ) -> None:
        self._channel = channel
        self._settings = channel.settings
        self._method = Method(path)
        self._bind = bind
        self._bound_to: AioConnections | None = None
        self._rpc: Any = None

    def _on(self, connections: AioConnections) -> Any:
        """Return the RPC of gRPC's own channel."""
        if connections is not self._bound_to:
            self._rpc, self._bound_to = self._bind(connections.channel), connections
        return self._rpc


class AioUnaryCall(_Call):
    """An RPC with one response."""

    def __init__(
        self, channel: AioChannel, path: str, bind: Callable[[grpc.aio.Channel], Any]
    ) -> None:
        super().__init__(channel, path, bind)
        self.timeout = self._settings.timeout
        self._hedge_after = self._settings.hedge_after if self._method.is_read else None

    async def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - gRPC sends it to the service
        metadata: Metadata = (),
        **more: Any,
    ) -> Any:
        """Call it; return the response.

        Raises:
            AuthsvcError: It failed.
        """
        deadline = self._settings.deadline(self.timeout if timeout is None else timeout)
        sent = (*metadata_of_request(), *metadata)
        attempt = 1
        while True:
            try:
                response = await self._attempt(request, deadline, sent, more)
            except AuthsvcError as error:
                pause = self._settings.pause_after(
                    error,
                    attempt=attempt,
                    deadline=deadline,
                    may_repeat=self._method.may_repeat(request),
                )
                if pause is None:
                    raise
            else:
                self._settings.budget.succeeded()
                return response
            attempt += 1
            await asyncio.sleep(pause)

    async def _attempt(
        self, request: Any, deadline: float, metadata: Metadata, more: dict[str, Any]
    ) -> Any:
        channel = self._channel
        connections = channel.acquire()
        try:
            rpc = self._on(connections)
            if self._hedge_after is not None:
                return await self._hedged(
                    lambda: rpc(request, timeout=deadline - monotonic(), metadata=metadata, **more)
                )
            return await rpc(request, timeout=deadline - monotonic(), metadata=metadata, **more)
        except grpc.aio.AioRpcError as failure:
            error = channel.to_error(
                failure, connections, repeatable=self._method.may_repeat(request)
            )
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            error = ClientClosed(_CLOSED)
        finally:
            channel.release(connections)
        raise error from None

    async def _hedged(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a read, and once more if it is slow; return the first answer."""
        attempts = [asyncio.ensure_future(send())]
        try:
            pending = set(attempts)
            done, _ = await asyncio.wait(pending, timeout=self._hedge_after)
            if not done and self._settings.budget.allows:
                self._settings.budget.spend()
                attempts.append(asyncio.ensure_future(send()))
                pending = set(attempts)
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                failures = [failure for each in done if (failure := each.exception()) is not None]
                if len(failures) < len(done):
                    return next(each.result() for each in done if each.exception() is None)
                if not pending or any(map(is_settled, failures)):
                    raise failures[0]
        finally:
            for each in attempts:
                each.cancel()


class AioStreamCall(_Call):
    """An RPC with a stream of responses. It is never sent again by itself."""

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata = (), **more: Any
    ) -> "AioStream":
        """Call it; return the responses, which come in any time unless there is a timeout."""
        channel = self._channel
        connections = channel.acquire()
        sent = (*metadata_of_request(), *metadata)
        call = self._on(connections)(request, timeout=timeout, metadata=sent, **more)
        call.add_done_callback(lambda _: channel.release(connections))
        return AioStream(call, channel, connections, repeatable=self._method.may_repeat(request))


class AioStream:
    """The responses of a stream, as an asynchronous iterator."""

    def __init__(
        self, call: Any, channel: AioChannel, connections: AioConnections, *, repeatable: bool
    ) -> None:
        self._call = call
        self._messages = call.__aiter__()
        self._channel = channel
        self.connections = connections
        self._repeatable = repeatable
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages)
        except grpc.aio.AioRpcError as failure:
            error = self._channel.to_error(failure, self.connections, repeatable=self._repeatable)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            if self._ended:
                raise StopAsyncIteration from None
            error = ClientClosed(_CLOSED)
        raise error from None

    def cancel(self) -> None:
        """End the stream: whoever waits for the next response is told that it was the last."""
        self._ended = True
        self._call.cancel()


def _is_cancelled() -> bool:
    """Return whether the current task is cancelled, and not just the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
