"""Owns the channel of the threaded client: what every call goes through on its way to gRPC."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
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


class SyncConnections:
    """A channel of gRPC, the certificate with which it connects, and how many calls use it."""

    __slots__ = ("calls", "certificate", "channel")

    def __init__(self, channel: grpc.Channel, certificate: bytes) -> None:
        self.channel = channel
        self.certificate = certificate
        self.calls = 0


class SyncChannel:
    """Takes the place of a grpc.Channel for generated stubs: AioChannel's twin, for threads."""

    def __init__(
        self, *, address: str, renewal: Renewal, settings: CallSettings, server_name: str
    ) -> None:
        self.settings = settings
        self._renewal = renewal
        self._address = address
        self._options = channel_options(server_name)
        self._lock = threading.Lock()
        self._old: set[SyncConnections] = set()
        # Opened by the first call: a process may fork before that, but not afterwards.
        self._current: SyncConnections | None = None
        self._is_closed = False

    def unary_unary(self, method: str, *how: Any, **more: Any) -> "SyncUnaryCall":
        """Return an RPC with one request and one response."""
        return SyncUnaryCall(self, method, lambda on: on.unary_unary(method, *how, **more))

    def stream_unary(self, method: str, *how: Any, **more: Any) -> "SyncUnaryCall":
        """Return an RPC with a stream of requests and one response."""
        call = SyncUnaryCall(self, method, lambda on: on.stream_unary(method, *how, **more))
        call.timeout = UNLIMITED
        return call

    def unary_stream(self, method: str, *how: Any, **more: Any) -> "SyncStreamCall":
        """Return an RPC with one request and a stream of responses."""
        return SyncStreamCall(self, method, lambda on: on.unary_stream(method, *how, **more))

    def acquire(self) -> SyncConnections:
        """Return what a call that begins now uses, until it calls `release`.

        Raises:
            ClientClosed: There are no more calls.
        """
        with self._lock:
            is_due = self._renewal.is_due()
        # One thread looks; the others go on with what there is.
        if is_due and self._renewal.certificates.reload():
            self.reconnect(self._current)
        with self._lock:
            if self._is_closed:
                raise ClientClosed(_CLOSED)
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

    def release(self, used: SyncConnections) -> None:
        """End a call's use."""
        with self._lock:
            used.calls -= 1
            is_last = used in self._old and not used.calls
            if is_last:
                self._old.remove(used)
        if is_last:
            used.channel.close()

    def reconnect(self, former: SyncConnections | None) -> None:
        """Let calls that begin from now on use new connections, and `former` end with its calls.

        Does nothing if `former` has been replaced already.
        """
        with self._lock:
            if former is None or former is not self._current:
                return
            self._current = None
            self._old.add(former)
            former.calls += 1
        self.release(former)

    def to_error(
        self, failure: Any, connections: SyncConnections, *, repeatable: bool
    ) -> AuthsvcError:
        """Return the error that a failed call means, and leave a replica that stops."""
        if self._is_closed and failure.code() is grpc.StatusCode.CANCELLED:
            return ClientClosed(_CLOSED)
        error = to_error(failure, repeatable=repeatable)
        if isinstance(error, ServiceUnavailable):
            self._renewal.hasten()
        if isinstance(error, ServiceStopping):
            # gRPC would go on using the connection until it ends, together with what is under way.
            self.reconnect(connections)
        return error

    def close(self) -> None:
        """Close all connections; calls in progress fail."""
        with self._lock:
            self._is_closed = True
            opened = [*([self._current] if self._current else []), *self._old]
        for each in opened:
            each.channel.close()

    def _open(self) -> SyncConnections:
        credentials, certificate = self._renewal.certificates.credentials()
        channel = grpc.secure_channel(self._address, credentials, self._options)
        return SyncConnections(channel, certificate)


class _Call:
    """An RPC, on whichever connections are current."""

    def __init__(
        self, channel: SyncChannel, path: str, bind: Callable[[grpc.Channel], Any]
    ) -> None:
        self._channel = channel
        self._settings = channel.settings
        self._method = Method(path)
        self._bind = bind
        # One value, as threads replace it.
        self._bound: tuple[SyncConnections | None, Any] = (None, None)

    def _on(self, connections: SyncConnections) -> Any:
        """Return the RPC of gRPC's own channel."""
        bound_to, rpc = self._bound
        if bound_to is not connections:
            rpc = self._bind(connections.channel)
            self._bound = (connections, rpc)
        return rpc


class SyncUnaryCall(_Call):
    """An RPC with one response."""

    def __init__(
        self, channel: SyncChannel, path: str, bind: Callable[[grpc.Channel], Any]
    ) -> None:
        super().__init__(channel, path, bind)
        self.timeout = self._settings.timeout
        self._hedge_after = self._settings.hedge_after if self._method.is_read else None

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata = (), **more: Any
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
                response = self._attempt(request, deadline, sent, more)
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
            time.sleep(pause)

    def _attempt(
        self, request: Any, deadline: float, metadata: Metadata, more: dict[str, Any]
    ) -> Any:
        channel = self._channel
        connections = channel.acquire()
        try:
            rpc = self._on(connections)
            if self._hedge_after is not None:
                return self._hedged(
                    lambda: rpc.future(
                        request, timeout=deadline - monotonic(), metadata=metadata, **more
                    )
                )
            return rpc(request, timeout=deadline - monotonic(), metadata=metadata, **more)
        except grpc.RpcError as failure:
            error = channel.to_error(
                failure, connections, repeatable=self._method.may_repeat(request)
            )
        finally:
            channel.release(connections)
        raise error from None

    def _hedged(self, send: Callable[[], Any]) -> Any:
        """Send a read, and once more if it is slow; return the first answer."""
        ended: SimpleQueue[Any] = SimpleQueue()
        attempts = []

        def attempt() -> None:
            attempts.append(send())
            attempts[-1].add_done_callback(ended.put)

        try:
            attempt()
            try:
                done = ended.get(timeout=self._hedge_after)
            except Empty:
                if self._settings.budget.allows:
                    self._settings.budget.spend()
                    attempt()
                done = ended.get()
                failure = done.exception()
                if len(attempts) > 1 and failure is not None and not is_settled(failure):
                    done = ended.get()
            return done.result()
        finally:
            for each in attempts:
                each.cancel()


class SyncStreamCall(_Call):
    """An RPC with a stream of responses. It is never sent again by itself."""

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Metadata = (), **more: Any
    ) -> "SyncStream":
        """Call it; return the responses, which come in any time unless there is a timeout."""
        channel = self._channel
        connections = channel.acquire()
        sent = (*metadata_of_request(), *metadata)
        call = self._on(connections)(request, timeout=timeout, metadata=sent, **more)
        if not call.add_callback(lambda: channel.release(connections)):
            channel.release(connections)  # it has ended already
        return SyncStream(call, channel, connections, repeatable=self._method.may_repeat(request))


class SyncStream:
    """The responses of a stream, as an iterator."""

    def __init__(
        self, call: Any, channel: SyncChannel, connections: SyncConnections, *, repeatable: bool
    ) -> None:
        self._call = call
        self._channel = channel
        self.connections = connections
        self._repeatable = repeatable
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as failure:
            if self._ended:
                raise StopIteration from None
            error = self._channel.to_error(failure, self.connections, repeatable=self._repeatable)
        raise error from None

    def cancel(self) -> None:
        """End the stream, from any thread: whoever waits for the next response gets no more."""
        self._ended = True
        self._call.cancel()
