"""Owns the faults that tests inject: a slow or unavailable service, cut streams, no database.

They are an interceptor and a middleware in front of the service's own, given to it by its
constructor. Only the holder of a `Faults` can turn them on: no call of the service reaches it.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from aiohttp import web

from authsvc.dev.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

_POLL = 0.01
_PATIENCE = 30.0


class FaultGate(grpc.aio.ServerInterceptor):
    """Lets calls and requests through to the service, late or not at all.

    Each fault is a list with an entry for each context manager that is in effect.
    """

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.outages: list[object] = []
        self.cuts: list[object] = []
        self._streams: set[asyncio.Task[None]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the service's handler of an RPC behind this gate, or None if there is no such RPC.

        All of the service's handlers read a stream of requests, see `rpc/interceptor.py`.
        """
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                partial(self._stream, handler.stream_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            partial(self._unary, handler.stream_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    @web.middleware
    async def respond(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Serve an HTTP request, late or not at all."""
        await asyncio.sleep(sum(self.delays))
        if self.outages:
            raise web.HTTPServiceUnavailable(text="A test made the service unavailable.\n")
        return await handler(request)

    async def cut(self) -> None:
        """End all streams of responses."""
        for stream in self._streams:
            stream.cancel()

    async def _unary(self, serve: Any, messages: Any, context: "Context") -> Any:
        await self._pass(context)
        return await serve(messages, context)

    async def _stream(self, serve: Any, messages: Any, context: "Context") -> None:
        await self._pass(context)
        if self.cuts:
            await _end(context)
        response = _Response(context)
        stream = asyncio.ensure_future(serve(messages, response))
        self._streams.add(stream)
        try:
            await stream
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await response.finish_write()
            await _end(context)
        finally:
            self._streams.discard(stream)

    async def _pass(self, context: "Context") -> None:
        await asyncio.sleep(sum(self.delays))
        if self.outages:
            await _end(context)


class _Response:
    """The context of a stream, whose writes are finished even if the stream is cut meanwhile.

    gRPC can't end a call in the middle of a write.
    """

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._write: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """Write a message; if the stream is cut meanwhile, its failure concerns nobody."""
        self._write = asyncio.ensure_future(self._context.write(message))
        self._write.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._write)

    async def finish_write(self) -> None:
        """Wait for a write in progress, whatever becomes of it."""
        if self._write is not None:
            await asyncio.wait((self._write,), timeout=_PATIENCE)


async def _end(context: "Context") -> None:
    # Like a broken connection, it carries no details and no request id.
    await context.abort(grpc.StatusCode.UNAVAILABLE, "A test injected this fault.")


class Faults:
    """Faults of the service, each in effect until its context manager ends.

    They can be nested. The fixture ends what is left after each test.
    """

    def __init__(
        self,
        *,
        gate: FaultGate,
        postgres: EmbeddedPostgres,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        has_recovered: Callable[[], Awaitable[bool]],
    ) -> None:
        self._gate = gate
        self._postgres = postgres
        self._run = run
        self._has_recovered = has_recovered

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Let every call, stream and HTTP request begin `seconds` late."""
        if seconds < 0:
            raise ValueError("a delay can't be negative")
        with _in_effect(self._gate.delays, seconds):
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """End every call with UNAVAILABLE, open streams included, and HTTP requests with 503."""
        with _in_effect(self._gate.outages, object()):
            self._run(self._gate.cut())
            yield

    @contextmanager
    def cut_streams(self) -> Iterator[None]:
        """End open streams of responses with UNAVAILABLE, and refuse new ones; calls go on."""
        with _in_effect(self._gate.cuts, object()):
            self._run(self._gate.cut())
            yield

    @contextmanager
    def database_gone(self) -> Iterator[None]:
        """Stop PostgreSQL, and start it again; nothing that was committed is lost.

        It ends once the service uses the database again and reads revocations in time.
        """
        self._stop_database()
        try:
            yield
        finally:
            self._start_database()

    def reset(self) -> None:
        """End all faults."""
        for fault in (self._gate.delays, self._gate.outages, self._gate.cuts):
            fault.clear()
        if not self._postgres.is_running():
            self._start_database()

    def _stop_database(self) -> None:
        process = self._postgres.pid
        if process is None:
            return
        # A fast shutdown, which keeps the counts of limits; a crash would drop some of them.
        os.kill(process, signal.SIGINT)
        deadline = time.monotonic() + _PATIENCE
        while self._postgres.is_running() and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _start_database(self) -> None:
        self._postgres.start()
        self._run(self._until_recovered())

    async def _until_recovered(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not await self._has_recovered():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(_POLL)


@contextmanager
def _in_effect(entries: list[Any], entry: Any) -> Iterator[None]:
    entries.append(entry)
    try:
        yield
    finally:
        # Unless `reset` has ended it already.
        if entry in entries:
            entries.remove(entry)
