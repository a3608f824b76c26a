"""Small services behind the guards, on real sockets: grpc.aio, gRPC with threads, ASGI and WSGI."""

import asyncio
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import grpc
import pytest_asyncio
from aiohttp import web

from authsvc.client import AsyncVerifier, Verifier, context, current_identity
from tests.support.certificates import Authority
from tests.support.clients import OpenAsync, OpenSync
from tests.support.service import Service

WHOAMI = "/shop.v1.Orders/WhoAmI"
COUNT = "/shop.v1.Orders/Count"
COLLECT = "/shop.v1.Orders/Collect"
HEALTH = "/grpc.health.v1.Health/Check"


def known() -> bytes:
    """Return what a handler knows of its request."""
    try:
        subject = current_identity().subject
    except LookupError:
        subject = ""
    return json.dumps(
        {
            "subject": subject,
            "request_id": context.request_id.get(),
            "traceparent": context.traceparent.get(),
            "tracestate": context.tracestate.get(),
            "has_deadline": context.deadline.get() is not None,
        }
    ).encode()


class AioOrders:
    """Handlers for asyncio; a stream sends what it knows, then waits until it is let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def who_am_i(self, _request: bytes, _context: Any) -> bytes:
        return known()

    async def count(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            yield known()
            await self.go_on.wait()
            yield known()
        finally:
            self.ended.set()

    async def collect(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        seen = [request async for request in requests]
        return json.dumps([len(seen), json.loads(known())]).encode()


class SyncOrders:
    """Handlers for threads."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def who_am_i(self, _request: bytes, _context: Any) -> bytes:
        return known()

    def count(self, _request: bytes, _context: Any) -> Iterable[bytes]:
        yield known()
        self.go_on.wait(60)
        yield known()

    def collect(self, requests: Iterable[bytes], _context: Any) -> bytes:
        return json.dumps([len(list(requests)), json.loads(known())]).encode()


def handlers(orders: AioOrders | SyncOrders) -> list[grpc.GenericRpcHandler]:
    """Return the handlers of the services."""
    health: dict[str, Any] = {"Check": grpc.unary_unary_rpc_method_handler(orders.who_am_i)}
    mine: dict[str, Any] = {
        "WhoAmI": grpc.unary_unary_rpc_method_handler(orders.who_am_i),
        "Count": grpc.unary_stream_rpc_method_handler(orders.count),
        "Collect": grpc.stream_unary_rpc_method_handler(orders.collect),
    }
    return [
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        grpc.method_handlers_generic_handler("shop.v1.Orders", mine),
    ]


def server_credentials(authority: Authority) -> grpc.ServerCredentials:
    server = authority.server()
    return grpc.ssl_server_credentials(
        [(server.key, server.certificate)], authority.certificate, require_client_auth=True
    )


StartGrpc = Callable[..., Any]


@pytest_asyncio.fixture
async def start_grpc(authority: Authority) -> AsyncIterator[StartGrpc]:
    """Starts gRPC servers over mutual TLS: `await start_grpc(guard, orders)` returns the port."""
    async with AsyncExitStack() as stack:

        async def start(guard: Any, orders: AioOrders | SyncOrders) -> int:
            server: Any
            if isinstance(orders, AioOrders):
                server = grpc.aio.server(interceptors=[guard])
                stack.push_async_callback(server.stop, None)
            else:
                pool = ThreadPoolExecutor(4)
                stack.callback(pool.shutdown)
                server = grpc.server(pool, interceptors=[guard])
                stack.callback(lambda: server.stop(None).wait())
            server.add_generic_rpc_handlers(handlers(orders))
            port = server.add_secure_port("127.0.0.1:0", server_credentials(authority))
            started = server.start()
            if started is not None:
                await started
            return int(port)

        yield start


OpenVerifier = Callable[..., Any]


@pytest_asyncio.fixture
async def verifiers(
    service: Service, open_async: OpenAsync, open_sync: OpenSync
) -> AsyncIterator[OpenVerifier]:
    """Opens verifiers that follow the service: `await verifiers(AsyncVerifier or Verifier)`."""
    async with AsyncExitStack() as stack:

        async def opened(kind: type, *, start: bool = True, **options: Any) -> Any:
            tokens = service.settings.tokens
            options = {"issuer": tokens.issuer, "audience": tokens.audience} | options
            if kind is AsyncVerifier:
                verifier = AsyncVerifier(open_async(service.app.grpc_port), **options)
                stack.push_async_callback(verifier.close)
                if start:
                    await verifier.start()
                return verifier
            twin = Verifier(open_sync(service.app.grpc_port), **options)
            stack.push_async_callback(asyncio.to_thread, twin.close)
            if start:
                await asyncio.to_thread(twin.start)
            return twin

        yield opened


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["reason"])


async def http_call(port: int, method: str, path: str, **headers: str) -> Answer:
    """Make a request whose path is sent as it is; `_` in names of headers stands for `-`."""

    def call() -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.putheader("content-length", "0")
            connection.endheaders()
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(call)


def _plain(status: str = "200 OK") -> list[tuple[str, str]]:
    assert status
    return [("content-type", "application/json")]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with what is known; a web socket ends when the browser ends it."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": known()})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["type"] != "http":
        raise ValueError("only HTTP, as Django says")
    headers = [(name.encode(), value.encode()) for name, value in _plain()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": known()})


def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
    """Answer every request with what is known, while the response is being sent."""
    assert environ
    start_response("200 OK", _plain())
    yield known()


class AsgiServer:
    """Serves an ASGI application over HTTP, with its lifespan."""

    def __init__(self, app: Any, *, extensions: Iterable[str] = (), root_path: str = "") -> None:
        self._app = app
        self._extensions: dict[str, Any] = {name: {} for name in extensions}
        self._root_path = root_path
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()
        self.port = 0

    async def start(self) -> dict[str, Any]:
        """Start; return what the application says to that."""
        self._lifespan = asyncio.create_task(
            self._app({"type": "lifespan"}, self._to_app.get, self._from_app.put)
        )
        await self._to_app.put({"type": "lifespan.startup"})
        said: dict[str, Any] = await self._from_app.get()
        self._runner = web.ServerRunner(web.Server(self._serve))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return said

    async def stop(self) -> None:
        await self._runner.cleanup()
        if not self._lifespan.done():
            await self._to_app.put({"type": "lifespan.shutdown"})
            await self._from_app.get()
        await self._lifespan

    async def _serve(self, request: Any) -> Any:
        scope = {
            "type": "http",
            "method": request.method,
            "path": unquote(request.raw_path.partition("?")[0], errors="replace"),
            "root_path": self._root_path,
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
            "extensions": self._extensions,
        }
        if request.headers.get("upgrade") == "websocket":
            return await self._serve_socket({**scope, "type": "websocket"}, request)
        response = web.StreamResponse()
        body = b""

        async def receive() -> Any:
            return {"type": "http.request", "body": await request.read()}

        async def send(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                response.set_status(message["status"])
                for name, value in message["headers"]:
                    response.headers[name.decode()] = value.decode()
            else:
                body += message["body"]

        await self._app(scope, receive, send)
        await response.prepare(request)
        await response.write(body)
        return response

    async def _serve_socket(self, scope: Any, request: Any) -> Any:
        socket = web.WebSocketResponse()
        refused = web.Response(status=403)
        is_connected = False

        async def receive() -> Any:
            nonlocal is_connected
            if not is_connected:
                is_connected = True
                return {"type": "websocket.connect"}
            async for message in socket:
                return {"type": "websocket.receive", "text": message.data}
            return {"type": "websocket.disconnect"}

        async def send(message: Any) -> None:
            match message["type"]:
                case "websocket.accept":
                    await socket.prepare(request)
                case "websocket.send":
                    await socket.send_bytes(message["bytes"])
                case "websocket.close" if socket.prepared:
                    await socket.close(code=message["code"])
                case "websocket.http.response.start":
                    refused.set_status(message["status"])

        await self._app(scope, receive, send)
        return socket if socket.prepared else refused


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class WsgiServer:
    """Serves a WSGI application over HTTP, in a thread."""

    def __init__(self, app: Any) -> None:
        self._server: WSGIServer = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port = self._server.server_port

    async def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.shutdown)
        self._thread.join()
        self._server.server_close()


StartHttp = Callable[..., Any]


@pytest_asyncio.fixture
async def start_http() -> AsyncIterator[StartHttp]:
    """Starts HTTP servers: `await start_http(AsgiServer(app))`."""
    async with AsyncExitStack() as stack:

        async def start(server: Any) -> Any:
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start
