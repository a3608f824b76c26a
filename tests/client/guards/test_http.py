"""The guards of ASGI and WSGI applications, over real sockets, with the real service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from authsvc.client import (
    AsgiGuard,
    AsyncCookieSessions,
    AsyncVerifier,
    CookieSessions,
    Refuse,
    Route,
    Routes,
    Verifier,
    WsgiGuard,
)
from authsvc.v1.auth_service_pb2 import (
    ExchangeTokenRequest,
    IssueServiceTokenRequest,
    LogoutRequest,
)
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext
from tests.support.clients import OpenAsync, OpenSync
from tests.support.guarded import (
    AsgiServer,
    OpenVerifier,
    StartHttp,
    WsgiServer,
    asgi_app,
    http_call,
    wsgi_app,
)
from tests.support.probe import identity_of
from tests.support.service import Service

StartGuarded = Callable[..., Awaitable[int]]
COOKIE = "__Host-session"
ROUTES = Routes(
    {
        "GET /orders/{id}": Route(scopes=("read",)),
        "POST /orders": Route(scopes=("write",)),
        "/admin/*": Route(scopes=("admin",)),
        "/open": Route(public=True),
    }
)


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest) -> str:
    """The test runs with both kinds of application."""
    return str(request.param)


@pytest_asyncio.fixture
async def start_guarded(
    kind: str,
    start_http: StartHttp,
    verifiers: OpenVerifier,
    service: Service,
    open_async: OpenAsync,
    open_sync: OpenSync,
) -> StartGuarded:
    """Starts the application behind the guard: returns its port."""

    async def start(
        routes: Routes | None = None, cookies: dict[str, Any] | None = None, **options: Any
    ) -> int:
        port = service.app.grpc_port
        server: Any
        if kind == "asgi":
            verifier = await verifiers(AsyncVerifier, **options)
            accepted = AsyncCookieSessions(open_async(port), **cookies) if cookies else None
            server = AsgiServer(AsgiGuard(asgi_app, verifier, routes, cookies=accepted))
        else:
            verifier = await verifiers(Verifier, **options)
            also = CookieSessions(open_sync(port), **cookies) if cookies else None
            server = WsgiServer(WsgiGuard(wsgi_app, verifier, routes, cookies=also))
        await start_http(server)
        return int(server.port)

    return start


async def test_application_learns_who_called(start_guarded: StartGuarded, service: Service) -> None:
    port = await start_guarded(ROUTES)
    tokens = await service.new_session()
    headers = bearing(tokens.access_token) | {"x_request_id": "r-1", "tracestate": "a=b"}
    answer = await http_call(port, "GET", "/orders/1?x=//", **headers)
    assert answer.status == 200
    known = json.loads(answer.body)
    assert (known["subject"], known["request_id"]) == (tokens.user_id, "r-1")
    assert known["tracestate"] == "a=b"
    known = json.loads((await http_call(port, "GET", "/open")).body)
    assert known["subject"] == ""
    assert known["request_id"] not in {"", "r-1"}


async def test_answers_are_those_of_rfc_6750(start_guarded: StartGuarded, service: Service) -> None:
    port = await start_guarded(ROUTES)
    token = (await service.new_session()).access_token
    none = await http_call(port, "GET", "/orders/1")
    assert (none.status, none.headers["www-authenticate"]) == (401, "Bearer")
    assert none.headers["cache-control"] == "no-store"
    for value in ("Bearer malformed", "Bearer", f"Bearer {token}, Bearer {token}"):
        bad = await http_call(port, "GET", "/orders/1", authorization=value)
        assert (bad.status, bad.reason) == (401, "BEARER_INVALID")
        assert bad.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    other = await http_call(port, "GET", "/orders/1", authorization="Basic YTpi")
    assert (other.status, other.headers["www-authenticate"]) == (401, "Bearer")
    narrow = await http_call(port, "GET", "/admin/users", **bearing(token))
    assert (narrow.status, narrow.reason) == (403, "SCOPE_MISSING")
    challenge = 'Bearer error="insufficient_scope", scope="admin"'
    assert narrow.headers["www-authenticate"] == challenge
    head = await http_call(port, "HEAD", "/orders/1")
    assert (head.status, head.body) == (401, b"")


async def test_audience_of_a_route_refuses_other_tokens_and_all_cookies(
    start_guarded: StartGuarded, service: Service
) -> None:
    routes = Routes({"/billing/*": Route(audience="billing"), "/*": Route()})
    port = await start_guarded(routes, COOKIES)
    tokens = await service.new_session()
    exchange = ExchangeTokenRequest(subject_token=tokens.access_token, audience="billing")
    exchanged = (await service.auth().ExchangeToken(exchange)).access_token
    cookie = {"cookie": f"{COOKIE}={tokens.session_token}"}
    answers = [
        (await http_call(port, "GET", path, **headers)).status
        for path in ("/billing/1", "/orders")
        for headers in (bearing(tokens.access_token), bearing(exchanged), cookie)
    ]
    assert answers == [401, 200, 401, 200, 401, 200]


async def test_health_is_open_for_reading_only(start_guarded: StartGuarded) -> None:
    port = await start_guarded()
    for path in ("/healthz", "/livez", "/readyz"):
        assert (await http_call(port, "GET", path)).status == 200
        assert (await http_call(port, "POST", path)).status == 401
        assert (await http_call(port, "GET", f"{path}/")).status == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/users", 403),
        ("/admin", 403),
        ("/admin/", 403),
        ("/ADMIN/users", 403),
        ("/%61dmin/users", 403),
        ("/admin//users", 400),
        ("//admin/users", 400),
        ("/x/../admin/users", 400),
        ("/x/%2e%2e/admin/users", 400),
        ("/x/%2E%2E%2Fadmin/users", 400),
        ("/x/%252e%252e/admin/users", 400),
        ("/./admin/users", 400),
        ("/admin%5cusers", 400),
        ("/open/../admin", 400),
        ("/open%00/admin", 400),
        ("/admin/%ff", 400),
    ],
)
@pytest.mark.parametrize("kind", ["asgi"], indirect=True)
async def test_no_spelling_of_a_path_avoids_its_rule(
    start_guarded: StartGuarded, service: Service, path: str, status: int
) -> None:
    # The default opens everything, so that a path without its rule would be seen.
    routes = Routes(
        {"/admin/*": Route(scopes=("admin",)), "/open": Route(public=True)},
        default=Route(public=True),
    )
    port = await start_guarded(routes)
    token = (await service.new_session()).access_token
    assert (await http_call(port, "GET", path, **bearing(token))).status == status


@pytest.mark.parametrize("wide", ["/*", "/{area}/*", "/{area}/{page}", "/{area}"])
@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/users", "/ADMIN", "/Admin/users/"])
def test_wider_pattern_does_not_open_what_a_more_literal_one_guards(wide: str, path: str) -> None:
    guarded = Route(scopes=("admin",))
    for opened in (Route(public=True), Route()):
        assert Routes({wide: opened, "/admin/*": guarded}).find(path, "GET") is guarded


@pytest.mark.parametrize("wide", ["/*", "/{page}"])
@pytest.mark.parametrize("path", ["/admin", "/admin/", "/ADMIN"])
def test_other_spelling_of_a_guarded_path_is_not_opened(wide: str, path: str) -> None:
    guarded = Route(scopes=("admin",))
    routes = Routes({wide: Route(public=True), "/admin": guarded})
    assert routes.find(path, "GET") is guarded
    assert routes.find("/other", "GET").public


def test_path_that_is_spelled_out_wins_over_other_spellings() -> None:
    routes = Routes({"/open": Route(), "/Open": Route(public=True)})
    assert routes.find("/Open", "GET").public
    assert not routes.find("/open", "GET").public


async def test_ended_session_is_refused(start_guarded: StartGuarded, service: Service) -> None:
    port = await start_guarded(ROUTES)
    tokens = await service.new_session()
    headers = bearing(tokens.access_token)
    assert (await http_call(port, "GET", "/orders/1", **headers)).status == 200
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    async with asyncio.timeout(60):
        while (await http_call(port, "GET", "/orders/1", **headers)).status != 401:
            pass


async def test_undecidable_is_503(start_guarded: StartGuarded, service: Service) -> None:
    port = await start_guarded(Routes(default=Route(when_degraded=Refuse())), start=False)
    token = (await service.new_session()).access_token
    answer = await http_call(port, "GET", "/", **bearing(token))
    assert (answer.status, answer.reason) == (503, "NOT_DECIDABLE")
    assert answer.headers["retry-after"] == "1"
    assert "www-authenticate" not in answer.headers


def client_of(_request: Any) -> ClientContext:
    return ClientContext(ip="192.0.2.1", user_agent="test")


COOKIES: dict[str, Any] = {
    "cookie": COOKIE,
    "client_of": client_of,
    "scopes_of": lambda _: {"read", "write"},
}


async def test_cookie_needs_the_csrf_token_only_to_change_something(
    start_guarded: StartGuarded, service: Service
) -> None:
    port = await start_guarded(ROUTES, COOKIES)
    tokens = await service.new_session()
    cookie = f"theme=dark; {COOKIE}={tokens.session_token}"
    for method in ("GET", "HEAD", "OPTIONS"):
        assert (await http_call(port, method, "/orders/1", cookie=cookie)).status == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "PROPFIND"):
        for csrf in ({}, {"x_csrf_token": "wrong"}, {"x_csrf_token": tokens.session_token}):
            answer = await http_call(port, method, "/orders", cookie=cookie, **csrf)
            assert (answer.status, answer.reason) == (403, "CSRF_INVALID")
        csrf = {"x_csrf_token": tokens.csrf_token}
        answer = await http_call(port, method, "/orders", cookie=cookie, **csrf)
        assert json.loads(answer.body)["subject"] == tokens.user_id
    # It has only the scopes that it is given.
    assert (await http_call(port, "GET", "/admin/x", cookie=cookie)).status == 403


async def test_bad_cookies_are_refused(start_guarded: StartGuarded, service: Service) -> None:
    port = await start_guarded(ROUTES, COOKIES)
    tokens = await service.new_session()
    other = await service.new_session("eve@example.com")
    for value in (
        f"{COOKIE}={tokens.session_token}; {COOKIE}={other.session_token}",
        f"{COOKIE}=malformed",
        f"{COOKIE}={'x' * 600}",
    ):
        answer = await http_call(port, "GET", "/orders/1", cookie=value)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    for value in (f"{COOKIE}=", f"other={tokens.session_token}"):
        assert (await http_call(port, "GET", "/orders/1", cookie=value)).status == 401
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    cookie = f"{COOKIE}={tokens.session_token}"
    assert (await http_call(port, "GET", "/orders/1", cookie=cookie)).status == 401


async def test_cookie_counts_for_nothing_unless_accepted_or_beside_a_token(
    start_guarded: StartGuarded, service: Service
) -> None:
    tokens = await service.new_session()
    cookie = f"{COOKIE}={tokens.session_token}"
    without = await start_guarded(ROUTES)
    assert (await http_call(without, "GET", "/orders/1", cookie=cookie)).status == 401
    port = await start_guarded(ROUTES, COOKIES)
    bad = await http_call(port, "GET", "/orders/1", cookie=cookie, **bearing("malformed"))
    assert bad.status == 401
    # No browser adds a token by itself: no anti-forgery token is needed.
    good = await http_call(
        port, "POST", "/orders", cookie=f"{COOKIE}=malformed", **bearing(tokens.access_token)
    )
    assert good.status == 200


async def test_cookie_is_undecidable_without_the_service(
    start_guarded: StartGuarded, service: Service
) -> None:
    port = await start_guarded(ROUTES, COOKIES)
    tokens = await service.new_session()
    await service.app.stop()
    answer = await http_call(port, "GET", "/orders/1", cookie=f"{COOKIE}={tokens.session_token}")
    assert (answer.status, answer.reason) == (503, "NOT_DECIDABLE")


async def handshake(port: int, path: str = "/orders/1", **headers: str) -> int:
    """Return with what the handshake of a web socket ends: 101, or a status that refuses it."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"http://127.0.0.1:{port}{path}", headers=headers) as ws:
                assert json.loads(await ws.receive_bytes(timeout=60))["subject"]
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


@pytest.mark.parametrize("kind", ["asgi"], indirect=True)
async def test_web_sockets_are_refused_before_they_are_accepted(
    start_guarded: StartGuarded, service: Service
) -> None:
    origin = "https://shop.example"
    port = await start_guarded(ROUTES, COOKIES | {"origins": [origin]})
    tokens = await service.new_session()
    assert await handshake(port) == 403
    assert await handshake(port, **bearing("malformed")) == 403
    assert await handshake(port, "/admin/x", **bearing(tokens.access_token)) == 403
    assert await handshake(port, **bearing(tokens.access_token)) == 101
    # Another site could open it in the user's browser.
    cookie = {"cookie": f"{COOKIE}={tokens.session_token}"}
    assert await handshake(port, **cookie, origin="https://evil.example") == 403
    assert await handshake(port, **cookie) == 403
    assert await handshake(port, **cookie, origin=origin) == 101


async def test_web_socket_is_refused_with_a_status_where_the_server_can(
    start_http: StartHttp, verifiers: OpenVerifier
) -> None:
    guard = AsgiGuard(asgi_app, await verifiers(AsyncVerifier, start=False), ROUTES)
    server = await start_http(AsgiServer(guard, extensions=["websocket.http.response"]))
    assert await handshake(server.port) == 401
    assert await handshake(server.port, "//orders") == 400


async def test_web_socket_ends_when_its_token_is_refused(
    start_http: StartHttp, verifiers: OpenVerifier, service: Service
) -> None:
    routes = Routes(default=Route(recheck=0.05))
    server = await start_http(
        AsgiServer(AsgiGuard(asgi_app, await verifiers(AsyncVerifier), routes))
    )
    tokens = await service.new_session()
    url = f"http://127.0.0.1:{server.port}/"
    headers = bearing(tokens.access_token)
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
        await ws.receive_bytes(timeout=60)
        await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
        assert (await ws.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 4401


async def test_server_without_lifespan_is_told_that_nothing_is_open() -> None:
    @asynccontextmanager
    async def never_opened() -> Any:
        yield

    guard = AsgiGuard(asgi_app, never_opened)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"authorization", b"Bearer t")],
    }

    async def unused(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(RuntimeError, match="without lifespan"):
        await guard(scope, unused, unused)


@pytest.mark.parametrize("has_lifespan", [True, False])
async def test_guard_opens_its_verifier_with_the_server(
    start_http: StartHttp, verifiers: OpenVerifier, service: Service, has_lifespan: bool
) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def opened() -> Any:
        seen.append("opened")
        yield await verifiers(AsyncVerifier)
        seen.append("closed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan" or not has_lifespan:
            await asgi_app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            seen.append(step)
            await send({"type": f"lifespan.{step}.complete"})

    server = AsgiServer(AsgiGuard(app, opened, ROUTES))
    assert await server.start() == {"type": "lifespan.startup.complete"}
    tokens = await service.new_session()
    answer = await http_call(server.port, "GET", "/orders/1", **bearing(tokens.access_token))
    assert answer.status == 200
    await server.stop()
    own = ["startup", "shutdown"] if has_lifespan else []
    assert seen == ["opened", *own, "closed"]


async def test_server_does_not_start_without_its_verifier() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def opened() -> Any:
        if not seen:
            raise OSError("no certificate")
        yield

    server = AsgiServer(AsgiGuard(asgi_app, opened))
    assert await server.start() == {
        "type": "lifespan.startup.failed",
        "message": "authsvc: no certificate",
    }
    await server.stop()


async def test_rules_are_those_of_the_path_below_the_root(
    start_http: StartHttp, verifiers: OpenVerifier
) -> None:
    guard = AsgiGuard(asgi_app, await verifiers(AsyncVerifier, start=False), ROUTES)
    server = await start_http(AsgiServer(guard, root_path="/shop"))
    assert (await http_call(server.port, "GET", "/shop/open")).status == 200
    assert (await http_call(server.port, "GET", "/shopopen")).status == 401


async def test_bound_token_needs_its_certificate(
    verifiers: OpenVerifier, service: Service, kind: str
) -> None:
    authority = service.clients.authority
    ours, other = (authority.caller(identity_of("app")) for _ in range(2))
    stub = AuthServiceStub(service.clients.open(ours))
    request = IssueServiceTokenRequest(audience="authsvc")
    token = (await stub.IssueServiceToken(request)).access_token
    serve: AsgiGuard | WsgiGuard
    if kind == "asgi":
        serve = AsgiGuard(asgi_app, await verifiers(AsyncVerifier))
    else:
        serve = WsgiGuard(wsgi_app, await verifiers(Verifier))
    statuses = [
        await status_with(serve, token, certificate)
        for certificate in (ours.certificate.decode(), other.certificate.decode(), "rubbish", "")
    ]
    assert statuses == [200, 401, 401, 401]


async def status_with(serve: Any, token: str, certificate: str) -> int:
    """Return the status of a request from a server that ends TLS and passes the certificate on."""
    status: list[int] = []
    if isinstance(serve, AsgiGuard):
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "extensions": {"tls": {"client_cert_chain": [certificate] if certificate else []}},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            status.append(message.get("status", 0))

        await serve(scope, receive, send)
    else:

        def start_response(line: str, _headers: Any) -> None:
            status.append(int(line[:3]))

        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/",
            "HTTP_AUTHORIZATION": f"Bearer {token}",
            "SSL_CLIENT_CERT": certificate,
        }
        await asyncio.to_thread(lambda: list(serve(environ, start_response)))
    return status[0]


def test_routes_refuse_what_they_can_not_mean() -> None:
    for pattern in ("orders", "/a*", "/a/*/b", "//a", "get /a", "/a b", "/../a"):
        with pytest.raises(ValueError, match="route"):
            Routes({pattern: Route()})
    with pytest.raises(ValueError, match="public"):
        Route(public=True, scopes=("read",))
    with pytest.raises(TypeError):
        Route(scopes="read")
    with pytest.raises(ValueError, match="recheck"):
        Route(recheck=0)
