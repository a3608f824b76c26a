"""The guards of gRPC servers, over real mutual TLS, with the real service: asyncio and threads."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import pytest_asyncio

from authsvc.client import AioGuard, AsyncVerifier, Refuse, Route, Routes, SyncGuard, Verifier
from authsvc.client.guards.aio import route_of
from authsvc.v1.auth_service_pb2 import IssueServiceTokenRequest, LogoutRequest
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority
from tests.support.guarded import (
    COLLECT,
    COUNT,
    HEALTH,
    WHOAMI,
    AioOrders,
    OpenVerifier,
    StartGrpc,
    SyncOrders,
    handlers,
    known,
    server_credentials,
)
from tests.support.probe import Clients, details_of, failure, identity_of, outcome, reason_of
from tests.support.service import Service

Metadata = tuple[tuple[str, str], ...]
StartGuarded = Callable[..., Awaitable[Clients]]
REFUSED = ("UNAUTHENTICATED", "BEARER_INVALID")


def bearing(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(params=["asyncio", "threads"])
def orders(request: pytest.FixtureRequest) -> AioOrders | SyncOrders:
    """The handlers: the test runs with both kinds."""
    return AioOrders() if request.param == "asyncio" else SyncOrders()


@pytest_asyncio.fixture
async def start_guarded(
    start_grpc: StartGrpc,
    verifiers: OpenVerifier,
    authority: Authority,
    orders: AioOrders | SyncOrders,
) -> Any:
    """Starts the service behind the guard: `await start_guarded(routes, start=…)`."""
    opened = []

    async def start(routes: Routes | None = None, **options: Any) -> Clients:
        is_aio = isinstance(orders, AioOrders)
        verifier = await verifiers(AsyncVerifier if is_aio else Verifier, **options)
        guard: Any = AioGuard(verifier, routes) if is_aio else SyncGuard(verifier, routes)
        clients = Clients(await start_grpc(guard, orders), authority)
        opened.append(clients)
        return clients

    yield start
    for clients in opened:
        await clients.close()


async def refused(call: Any) -> tuple[str, str]:
    """Return the code and the reason of a call that must fail."""
    error = await failure(call)
    return error.code().name, reason_of(error)


async def test_handler_learns_who_called_and_of_its_request(
    start_guarded: StartGuarded, service: Service
) -> None:
    clients = await start_guarded()
    tokens = await service.new_session()
    metadata = (
        *bearing(tokens.access_token),
        ("x-request-id", "r-1"),
        ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"),
        ("tracestate", "a=b"),
    )
    answer = json.loads(await clients.raw("app", WHOAMI)(b"", metadata=metadata, timeout=60))
    assert answer == {
        "subject": tokens.user_id,
        "request_id": "r-1",
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
        "tracestate": "a=b",
        "has_deadline": True,
    }
    # Of a call without them, nothing is left of the one before.
    open_to_all = json.loads(await clients.raw("app", HEALTH)(b""))
    assert open_to_all["subject"] == ""
    assert len(open_to_all["request_id"]) == 32


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearing("malformed"),
        bearing(""),
        (("authorization", "Basic YTpi"),),
        (("authorization", "Bearer"),),
        bearing("malformed") * 2,
    ],
    ids=["none", "malformed", "empty", "basic", "bare", "two"],
)
async def test_call_without_a_good_token_is_refused(
    start_guarded: StartGuarded, metadata: Metadata
) -> None:
    clients = await start_guarded(start=False)
    assert await refused(clients.raw("app", WHOAMI)(b"", metadata=metadata)) == REFUSED
    call = clients.raw("app", COLLECT, "stream_unary")(metadata=metadata)
    assert await refused(call) == REFUSED


async def test_two_good_tokens_are_refused_and_the_scheme_ignores_case(
    start_guarded: StartGuarded, service: Service
) -> None:
    clients = await start_guarded()
    token = (await service.new_session()).access_token
    call = clients.raw("app", WHOAMI)
    assert await refused(call(b"", metadata=bearing(token) * 2)) == REFUSED
    await call(b"", metadata=(("authorization", f"bearer {token}"),))


async def test_missing_scope_or_audience_is_refused(
    start_guarded: StartGuarded, service: Service
) -> None:
    routes = Routes(
        {
            WHOAMI: Route(scopes=("read", "billing.write")),
            "/shop.v1.Orders/*": Route(scopes=("read",)),
            COUNT: Route(audience="billing"),
        }
    )
    clients = await start_guarded(routes)
    metadata = bearing((await service.new_session()).access_token)
    error = await failure(clients.raw("app", WHOAMI)(b"", metadata=metadata))
    assert (error.code().name, reason_of(error)) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    # The caller learns what is needed.
    assert b"read billing.write" in details_of(error).SerializeToString()
    collected = clients.raw("app", COLLECT, "stream_unary")(iter([b"1", b"2"]), metadata=metadata)
    count, known = json.loads(await collected)
    assert count == 2
    assert known["subject"]
    stream = clients.raw("app", COUNT, "unary_stream")(b"", metadata=metadata)
    assert await refused(stream.read()) == REFUSED


async def test_health_is_open_and_other_services_are_not(start_guarded: StartGuarded) -> None:
    clients = await start_guarded(start=False)
    await clients.raw("app", HEALTH)(b"")
    # Who asks for an unknown method learns that it is unknown.
    error = await failure(clients.raw("app", "/shop.v1.Orders/Nothing")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    closed = await start_guarded(Routes(health=()), start=False)
    assert await refused(closed.raw("app", HEALTH)(b"")) == REFUSED


async def test_bound_token_needs_its_certificate(
    start_guarded: StartGuarded, service: Service
) -> None:
    clients = await start_guarded()
    certificate = service.clients.authority.caller(identity_of("app"))
    ours: Any = clients.open(certificate)
    stub = AuthServiceStub(service.clients.open(certificate))
    request = IssueServiceTokenRequest(audience="authsvc")
    metadata = bearing((await stub.IssueServiceToken(request)).access_token)
    answer = json.loads(await ours.unary_unary(WHOAMI)(b"", metadata=metadata))
    assert answer["subject"] == identity_of("app")
    # Who has only copied the token has another certificate.
    assert await refused(clients.raw("app", WHOAMI)(b"", metadata=metadata)) == REFUSED


async def ended(call: Any, metadata: Metadata) -> None:
    """Return when the verifier knows that the session has ended."""
    async with asyncio.timeout(60):
        while True:
            found = await outcome(call(b"", metadata=metadata))
            if found != "OK":
                assert found == "BEARER_INVALID"
                return


async def test_ended_session_is_refused(start_guarded: StartGuarded, service: Service) -> None:
    clients = await start_guarded()
    tokens = await service.new_session()
    call, metadata = clients.raw("app", WHOAMI), bearing(tokens.access_token)
    await call(b"", metadata=metadata)
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    await ended(call, metadata)


async def test_stream_ends_when_its_token_is_refused(
    start_guarded: StartGuarded, service: Service, orders: AioOrders | SyncOrders
) -> None:
    clients = await start_guarded(Routes({COUNT: Route(recheck=0.001)}))
    tokens = await service.new_session()
    metadata = bearing(tokens.access_token)
    stream = clients.raw("app", COUNT, "unary_stream")(b"", metadata=metadata)
    assert json.loads(await stream.read())["subject"] == tokens.user_id
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    await ended(clients.raw("app", WHOAMI), metadata)
    if isinstance(orders, SyncOrders):
        orders.go_on.set()  # with threads, it ends with the next message
    assert await refused(stream.read()) == REFUSED
    if isinstance(orders, AioOrders):
        await orders.ended.wait()


async def test_stream_of_requests_ends_when_its_token_is_refused(
    start_guarded: StartGuarded, service: Service, orders: AioOrders | SyncOrders
) -> None:
    clients = await start_guarded(Routes({COLLECT: Route(recheck=0.001)}))
    tokens = await service.new_session()
    metadata = bearing(tokens.access_token)
    stream = clients.raw("app", COLLECT, "stream_unary")(metadata=metadata)
    await stream.write(b"1")
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    await ended(clients.raw("app", WHOAMI), metadata)
    if isinstance(orders, SyncOrders):
        await stream.write(b"2")  # with threads, it ends with the next message
    assert await refused(stream) == REFUSED


async def test_thread_forgets_who_called(
    service: Service, verifiers: OpenVerifier, authority: Authority
) -> None:
    """What runs in the same thread later, and is not guarded, must find nobody."""
    pool = ThreadPoolExecutor(1)
    guard = SyncGuard(await verifiers(Verifier))
    server = grpc.server(pool, handlers(SyncOrders()), [guard])
    clients = Clients(
        server.add_secure_port("127.0.0.1:0", server_credentials(authority)), authority
    )
    server.start()
    tokens = await service.new_session()
    metadata = bearing(tokens.access_token)
    answer = await clients.raw("app", WHOAMI)(b"", metadata=metadata)
    assert json.loads(answer)["subject"] == tokens.user_id
    collected = clients.raw("app", COLLECT, "stream_unary")(iter([b"1"]), metadata=metadata)
    assert json.loads(await collected)[1]["subject"] == tokens.user_id
    assert json.loads(await asyncio.wrap_future(pool.submit(known)))["subject"] == ""
    await clients.close()
    await asyncio.to_thread(server.stop(None).wait)
    pool.shutdown()


def test_method_that_can_be_read_as_another_is_guarded() -> None:
    routes = Routes({"/*": Route(public=True)}, default=Route(public=True))
    assert route_of(routes, "/shop.v1.Orders/WhoAmI").public
    assert not route_of(routes, "/shop.v1.Orders/../WhoAmI").public
    assert not route_of(routes, "shop.v1.Orders").public


async def test_stream_without_recheck_goes_on(
    start_guarded: StartGuarded, service: Service, orders: AioOrders | SyncOrders
) -> None:
    clients = await start_guarded()
    tokens = await service.new_session()
    metadata = bearing(tokens.access_token)
    stream = clients.raw("app", COUNT, "unary_stream")(b"", metadata=metadata)
    await stream.read()
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    await ended(clients.raw("app", WHOAMI), metadata)
    orders.go_on.set()
    assert json.loads(await stream.read())["subject"] == tokens.user_id
    assert await stream.read() is grpc.aio.EOF


async def test_rules_say_what_to_do_with_what_can_not_be_decided(
    start_guarded: StartGuarded, service: Service
) -> None:
    # A verifier that was not started knows nothing.
    routes = Routes({WHOAMI: Route(when_degraded=Refuse())})
    clients = await start_guarded(routes, start=False)
    metadata = bearing((await service.new_session()).access_token)
    open_question = ("UNAVAILABLE", "NOT_DECIDABLE")
    assert await refused(clients.raw("app", WHOAMI)(b"", metadata=metadata)) == open_question
    # Other routes ask the service, while it is there.
    collect = clients.raw("app", COLLECT, "stream_unary")
    await collect(iter([b"1"]), metadata=metadata)
    await service.app.stop()
    assert await refused(collect(iter([b"1"]), metadata=metadata)) == open_question


async def test_plain_functions_need_the_other_guard(
    start_grpc: StartGrpc, verifiers: OpenVerifier, authority: Authority
) -> None:
    orders = AioOrders()
    orders.who_am_i = SyncOrders().who_am_i  # type: ignore[method-assign, assignment]
    guard = AioGuard(await verifiers(AsyncVerifier, start=False))
    clients = Clients(await start_grpc(guard, orders), authority)
    # Health has a plain function too, and is open.
    await clients.raw("app", HEALTH)(b"")
    assert (await failure(clients.raw("app", WHOAMI)(b""))).code() is grpc.StatusCode.UNKNOWN
    await clients.close()
