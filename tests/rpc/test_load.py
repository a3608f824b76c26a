"""The limits for each client: time, memory, calls, streams, connections, pings."""

import asyncio
import gzip
import itertools
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authsvc.config import Settings
from authsvc.errors import Overloaded, ServerError, StoreUnavailable
from authsvc.models.calls import Role
from authsvc.rpc import interceptor
from authsvc.rpc.access import Access
from authsvc.rpc.load import Places
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2 import GetAccountRequest
from authsvc.v1.account_service_pb2_grpc import AccountServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority
from tests.support.draining import drained
from tests.support.http2 import ENHANCE_YOUR_CALM, GOAWAY, PING, Connection, Frame, tls_context
from tests.support.probe import (
    LOGIN,
    ProbeServer,
    StartProbe,
    counted,
    details_of,
    failure,
    identity_of,
    outcome,
    reason_of,
    with_changes,
)

VALIDATE = pb.ValidateTokenRequest()
IN_FLIGHT = "authsvc_rpc_in_flight"


def stub(probe: ProbeServer, caller: str = "app") -> Any:
    return AuthServiceStub(probe.clients.channel(caller))


def limited(settings: Settings, **changes: Any) -> Settings:
    return with_changes(settings, "grpc", **changes)


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return tls_context(authority.certificate, authority.caller(identity_of("app")))


class Stuck:
    """A handler that waits to be released, and counts the calls that it held and that ended."""

    def __init__(self, probe: ProbeServer) -> None:
        self._changed = asyncio.Condition()
        self._released = asyncio.Event()
        self.held = self.cancelled = 0
        probe.probe.answer = self._wait

    def release(self) -> None:
        self._released.set()

    async def until(self, *, held: int = 0, cancelled: int = 0) -> None:
        """Wait until at least these numbers of calls were held and cancelled."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: self.held >= held and self.cancelled >= cancelled)

    async def _wait(self, _request: Any) -> None:
        await self._count(held=1)
        try:
            await self._released.wait()
        except asyncio.CancelledError:
            await self._count(cancelled=1)
            raise

    async def _count(self, *, held: int = 0, cancelled: int = 0) -> None:
        async with self._changed:
            self.held += held
            self.cancelled += cancelled
            self._changed.notify_all()


# Time


@pytest.mark.slow
async def test_server_ends_calls_exceeding_timeout(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(limited(settings, call_timeout=timedelta(seconds=1)))
    stuck = Stuck(probe)
    error = await failure(stub(probe).Login(pb.LoginRequest(), timeout=30))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "STORE_UNAVAILABLE"
    await stuck.until(cancelled=1)
    stuck.release()
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "OK"


@pytest.mark.slow
async def test_handler_ignoring_cancellation_returns_store_unavailable(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(limited(settings, call_timeout=timedelta(milliseconds=200)))

    async def defy(_request: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    probe.probe.answer = defy
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "STORE_UNAVAILABLE"


@pytest.mark.slow
async def test_deadline_of_caller_cancels_handler(
    probe: ProbeServer, context: ssl.SSLContext
) -> None:
    stuck = Stuck(probe)
    async with Connection.open(probe.server.port, context) as connection:
        # gRPC's own client would also cancel the call, which the server might see first.
        await connection.begin(LOGIN, grpc_timeout="1S")
        await stuck.until(cancelled=1)
        await counted(probe, "DEADLINE_EXCEEDED")


async def test_cancelled_call_cancels_handler(probe: ProbeServer) -> None:
    stuck = Stuck(probe)
    call = stub(probe).Login(pb.LoginRequest())
    waiting = asyncio.ensure_future(call)
    await stuck.until(held=1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stuck.until(cancelled=1)
    await counted(probe, "CANCELLED")
    await idle(probe)


# Load


async def test_calls_beyond_limit_are_shed(start_probe: StartProbe, settings: Settings) -> None:
    probe = await start_probe(limited(settings, max_concurrent_rpcs=3))
    stuck = Stuck(probe)
    held = [asyncio.ensure_future(stub(probe).Login(pb.LoginRequest())) for _ in range(3)]
    await stuck.until(held=3)
    assert probe.metrics.registry.get_sample_value(IN_FLIGHT) == 3
    error = await failure(stub(probe).Login(pb.LoginRequest()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "OVERLOADED"
    retry = details.RetryInfo()
    assert details_of(error).details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1)
    stuck.release()
    await asyncio.gather(*held)
    async with asyncio.timeout(30):
        while await outcome(stub(probe).Login(pb.LoginRequest())) != "OK":
            pass


async def test_single_caller_cannot_use_all_slots(
    start_probe: StartProbe, settings: Settings
) -> None:
    changed = limited(settings, max_concurrent_rpcs=4, max_concurrent_rpcs_per_caller=3)
    probe = await start_probe(changed)
    stuck = Stuck(probe)

    def call(caller: str) -> Any:
        return stub(probe, caller).ValidateToken(VALIDATE)

    held = [asyncio.ensure_future(call("app")) for _ in range(3)]
    await stuck.until(held=3)
    assert await outcome(call("app")) == "OVERLOADED"
    held.append(asyncio.ensure_future(call("edge")))
    await stuck.until(held=4)
    held.pop(0).cancel()
    await stuck.until(held=4, cancelled=1)
    stuck.release()
    await asyncio.gather(*held)
    # Cancelled and completed calls free their slots, once the server has noticed that they ended.
    async with asyncio.timeout(30):
        while await asyncio.gather(*(outcome(call("app")) for _ in range(3))) != ["OK"] * 3:
            pass


@pytest.mark.parametrize(("limit", "each"), [(1_000, 750), (64, 32), (4, 3), (1, 750), (5, 5)])
def test_lone_caller_gets_its_limit(limit: int, each: int) -> None:
    places = Places(limit, each)
    assert taken(places, "a") == min(limit, each)
    for _ in range(3):
        places.give_back("a")
        assert taken(places, "a") == 1


@pytest.mark.parametrize("callers", [1, 2, 10, 100, 150])
def test_newcomer_finds_place_beside_greedy_callers(callers: int) -> None:
    places = Places(100, 75)
    for _ in range(3):
        for number in range(callers):
            taken(places, f"greedy-{number}")
    assert taken(places, "newcomer") >= 1
    assert sum(places._held.values()) == 100


@pytest.mark.parametrize("limits", [(100, 75), (10, 10), (64, 32)])
def test_full_places_are_divided_fairly(limits: tuple[int, int]) -> None:
    places = Places(*limits)
    taken(places, "first")
    taken(places, "second")
    counts = sorted(places._held.values())
    assert sum(counts) == limits[0]
    assert counts[1] <= 2 * counts[0] + 1
    # What is divided fairly stays so: no caller takes the other's places over and over.
    assert taken(places, "first") == taken(places, "second") == 0


def test_places_of_callers_that_left_are_free_again() -> None:
    places = Places(100, 75)
    for caller in map(str, range(50)):
        for _ in range(taken(places, caller)):
            places.give_back(caller)
    assert taken(places, "a") == 75


def taken(places: Places, caller: str) -> int:
    """Take all places that a caller can get; return their number."""
    for count in itertools.count():
        try:
            places.take(caller)
        except Overloaded:
            return count
    raise AssertionError


async def test_caller_without_calls_gets_place_of_greediest(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(limited(settings, max_concurrent_rpcs=3))
    stuck = Stuck(probe)
    calls = [stub(probe).ValidateToken(VALIDATE) for _ in range(3)]
    held = [asyncio.ensure_future(outcome(call)) for call in calls]
    await stuck.until(held=3)
    other = asyncio.ensure_future(outcome(stub(probe, "edge").ValidateToken(VALIDATE)))
    await stuck.until(held=4, cancelled=1)
    stuck.release()
    assert await other == "OK"
    assert sorted(await asyncio.gather(*held)) == ["OK", "OK", "OVERLOADED"]


async def test_health_responds_under_load(start_probe: StartProbe, settings: Settings) -> None:
    probe = await start_probe(limited(settings, max_concurrent_rpcs=1))
    stuck = Stuck(probe)
    held = asyncio.ensure_future(stub(probe).Login(pb.LoginRequest()))
    await stuck.until(held=1)
    health = health_pb2_grpc.HealthStub(probe.clients.channel("app"))
    response = await health.Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    stuck.release()
    await held


# Memory


def sized(size: int) -> pb.LoginRequest:
    """Return a message of exactly `size` bytes."""
    request = pb.LoginRequest(email="x" * (size - 4))
    assert request.ByteSize() == size
    return request


async def test_message_size_is_limited(probe: ProbeServer) -> None:
    assert await outcome(stub(probe).Login(sized(65_536))) == "OK"
    assert await outcome(stub(probe).Login(sized(65_537))) == "FIELD_INVALID"


async def test_batch_of_countless_items_is_not_parsed(probe: ProbeServer) -> None:
    """Half a million empty items would keep the event loop for 30 ms."""
    call = probe.clients.raw("app", "/authsvc.v1.AuthService/BatchValidateTokens")
    error = await failure(call(b"\n\0" * 50_001))
    assert reason_of(error) == "FIELD_INVALID"
    assert "too many items" in str(error.details())


async def test_batch_messages_may_be_larger(probe: ProbeServer) -> None:
    tokens = ["x" * 1_000] * 1_000
    request = pb.BatchValidateTokensRequest(access_tokens=tokens)
    assert await outcome(stub(probe).BatchValidateTokens(request)) == "OK"


@pytest.mark.slow
@pytest.mark.parametrize("rpc", ["Login", "BatchValidateTokens"])
async def test_huge_message_is_not_received(rpc: str, probe: ProbeServer) -> None:
    raw = probe.clients.raw("app", f"/authsvc.v1.AuthService/{rpc}")
    error = await failure(raw(b"\x0a" + bytes(3_000_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_compressed_message_is_not_decompressed(probe: ProbeServer) -> None:
    bomb = pb.LoginRequest(email="x" * 60_000)
    call = stub(probe).Login(bomb, compression=grpc.Compression.Gzip)
    assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(gzip.compress(bomb.SerializeToString())) < 1_000


@pytest.mark.slow
async def test_metadata_size_is_limited(probe: ProbeServer) -> None:
    # If gRPC's soft and hard limits differed, calls between them would fail at random.
    fine = [("x-note", "x" * 15_500)]
    for _ in range(20):
        assert await outcome(stub(probe).Login(pb.LoginRequest(), metadata=fine)) == "OK"
    large = [("x-note", "x" * 17_000)]
    error = await failure(stub(probe).Login(pb.LoginRequest(), metadata=large))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Streams and connections


async def test_streams_per_connection_are_limited(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(limited(settings, max_concurrent_streams=2))
    await stub(probe).Login(pb.LoginRequest())  # from now on, the client knows the limit
    stuck = Stuck(probe)
    calls = [asyncio.ensure_future(stub(probe).Login(pb.LoginRequest())) for _ in range(5)]
    await stuck.until(held=2)
    # By the time another connection is served, a third call would have arrived.
    health = health_pb2_grpc.HealthStub(probe.clients.channel("edge"))
    await health.Check(health_pb2.HealthCheckRequest())
    assert stuck.held == 2
    stuck.release()
    await asyncio.gather(*calls)
    assert stuck.held == 5


@pytest.mark.slow
async def test_rapidly_reset_streams_do_no_harm(
    probe: ProbeServer, context: ssl.SSLContext
) -> None:
    # CVE-2023-44487: each reset permits another stream, but leaves the work to the server.
    async with Connection.open(probe.server.port, context) as connection:
        await connection.frame()
        for stream in range(1, 10_001, 2):
            await connection.open_and_reset(LOGIN, stream)
        assert await outcome(stub(probe).Login(pb.LoginRequest())) == "OK"
    await idle(probe)


async def idle(probe: ProbeServer) -> None:
    """Wait until no call is in progress."""
    async with asyncio.timeout(30):
        while probe.metrics.registry.get_sample_value(IN_FLIGHT):  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.005)


async def test_connections_are_limited(
    start_probe: StartProbe, settings: Settings, context: ssl.SSLContext
) -> None:
    probe = await start_probe(limited(settings, max_connections=2))
    async with Connection.open(probe.server.port, context) as first:
        assert await first.frame()
        async with Connection.open(probe.server.port, context) as second:
            assert await second.frame()
            assert await refused(probe, context)
        await regained(probe, context)


async def refused(probe: ProbeServer, context: ssl.SSLContext) -> bool:
    try:
        async with Connection.open(probe.server.port, context) as connection:
            return await connection.frame() is None
    except OSError:
        return True


async def regained(probe: ProbeServer, context: ssl.SSLContext) -> None:
    """Wait until the server has noticed that a connection was closed."""
    async with asyncio.timeout(30):
        while await refused(probe, context):  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_slow_handshake_times_out(start_probe: StartProbe, settings: Settings) -> None:
    probe = await start_probe(limited(settings, handshake_timeout=timedelta(milliseconds=200)))
    reader, writer = await asyncio.open_connection("127.0.0.1", probe.server.port)
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_ping_flood_closes_connection(probe: ProbeServer, context: ssl.SSLContext) -> None:
    async with Connection.open(probe.server.port, context) as connection:
        goaway = await ping_until_goaway(connection, 10)
        assert goaway is not None
        assert goaway.error == ENHANCE_YOUR_CALM
        assert b"too_many_pings" in goaway.payload


@pytest.mark.slow
async def test_pings_at_allowed_interval_are_answered(
    start_probe: StartProbe, settings: Settings, context: ssl.SSLContext
) -> None:
    interval = timedelta(milliseconds=20)
    probe = await start_probe(limited(settings, min_ping_interval=interval))
    async with Connection.open(probe.server.port, context) as connection:
        assert await ping_until_goaway(connection, 10, pause=0.03) is None
        assert await connection.call(LOGIN)


async def ping_until_goaway(connection: Connection, times: int, pause: float = 0) -> Frame | None:
    for _ in range(times):
        await asyncio.sleep(pause)
        await connection.send(PING, payload=b"12345678")
        while frame := await connection.frame():
            if frame.kind == GOAWAY:
                return frame
            if frame.kind == PING:
                break
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "said"), [("max_connection_idle", b"idle"), ("max_connection_age", b"max_age")]
)
async def test_connections_close_at_idle_and_age_limits(
    limit: str, said: bytes, start_probe: StartProbe, settings: Settings, context: ssl.SSLContext
) -> None:
    probe = await start_probe(limited(settings, **{limit: timedelta(milliseconds=200)}))
    async with asyncio.timeout(30), Connection.open(probe.server.port, context) as connection:
        goaway = await connection.until(GOAWAY)
        assert goaway is not None
        assert said in goaway.payload


# The port


async def test_port_in_use_raises_clear_error(
    probe: ProbeServer, start_probe: StartProbe, settings: Settings
) -> None:
    address = f"127.0.0.1:{probe.server.port}"
    with pytest.raises(ServerError, match=f"gRPC can't listen on {address}: it is already in use"):
        await start_probe(limited(settings, address=address))
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "OK"


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("203.0.113.1:0", "it is not an address of this machine"),
        ("nowhere.invalid:0", "the name can't be resolved: "),
        ("127.0.0.1:99999", "is not a valid address"),
        ("unix:/nowhere/grpc.sock", "No such file or directory"),
    ],
)
async def test_unusable_listen_address_raises_clear_error(
    address: str, cause: str, start_probe: StartProbe, settings: Settings
) -> None:
    with pytest.raises(ServerError, match=cause):
        await start_probe(limited(settings, address=address))


async def test_listen_address_can_be_ipv6(start_probe: StartProbe, settings: Settings) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    probe = await start_probe(limited(settings, address="[::1]:0"))
    channel = probe.clients.open_at(f"[::1]:{probe.server.port}")
    assert await outcome(AuthServiceStub(channel).Login(pb.LoginRequest())) == "OK"


async def test_listen_address_can_be_unix_socket(
    start_probe: StartProbe, settings: Settings, tmp_path: Path
) -> None:
    address = f"unix:{tmp_path}/grpc.sock"
    probe = await start_probe(limited(settings, address=address))
    channel = probe.clients.open_at(address)
    assert await outcome(AuthServiceStub(channel).Login(pb.LoginRequest())) == "OK"


async def test_drain_lets_calls_finish_and_rejects_new_ones(probe: ProbeServer) -> None:
    stuck = Stuck(probe)
    held = asyncio.ensure_future(stub(probe).Login(pb.LoginRequest()))
    await stuck.until(held=1)
    draining = asyncio.ensure_future(probe.server.drain(30))
    await asyncio.sleep(0)
    # The connection without calls may be closed before, or while, this one is refused.
    refused = await outcome(stub(probe, "edge").ValidateToken(VALIDATE))
    assert refused in {"SERVICE_STOPPING", "UNAVAILABLE"}
    assert not draining.done()
    stuck.release()
    await held
    await draining


@pytest.mark.slow
async def test_busy_server_drains_without_cancelling(
    start_probe: StartProbe, settings: Settings
) -> None:
    # More rounds, also through a relay, are in tests/drills/test_drain.py.
    for _ in range(3):
        probe = await start_probe(settings)
        ended = await drained(probe, [probe.clients.channel("app")])
        assert +ended == Counter(OK=ended["OK"], UNAVAILABLE=ended["UNAVAILABLE"])


async def test_drain_ends_calls_after_grace_period(probe: ProbeServer) -> None:
    stuck = Stuck(probe)
    held = asyncio.ensure_future(outcome(stub(probe).Login(pb.LoginRequest())))
    await stuck.until(held=1)
    await probe.server.drain(0.1)
    assert await held == "SERVICE_STOPPING"


# What a refused call has done


def effect_in(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Return the reason of an error, and what it says of the call's effect."""
    info = details.ErrorInfo()
    assert details_of(error).details[0].Unpack(info)
    return info.reason, info.metadata.get("effect", "")


async def test_call_refused_by_stopping_server_had_no_effect_and_cut_off_one_may_have(
    probe: ProbeServer,
) -> None:
    stuck = Stuck(probe)
    held = asyncio.ensure_future(failure(stub(probe).Login(pb.LoginRequest())))
    await stuck.until(held=1)
    draining = asyncio.ensure_future(probe.server.drain(1))
    await asyncio.sleep(0)
    # Over a connection with a call in progress, which is not closed.
    refused = await failure(stub(probe).Login(pb.LoginRequest()))
    assert effect_in(refused) == ("SERVICE_STOPPING", "none")
    assert effect_in(await held) == ("SERVICE_STOPPING", "unknown")
    assert stuck.held == 1
    await draining


async def test_call_shed_at_limit_had_no_effect(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(limited(settings, max_concurrent_rpcs_per_caller=1))
    stuck = Stuck(probe)
    held = asyncio.ensure_future(stub(probe).Login(pb.LoginRequest()))
    await stuck.until(held=1)
    shed = await failure(stub(probe).Login(pb.LoginRequest()))
    assert effect_in(shed) == ("OVERLOADED", "none")
    stuck.release()
    await held


async def test_evicted_call_may_have_had_an_effect(
    start_probe: StartProbe, settings: Settings
) -> None:
    probe = await start_probe(
        limited(settings, max_concurrent_rpcs=1, max_concurrent_rpcs_per_caller=1)
    )
    stuck = Stuck(probe)
    held = asyncio.ensure_future(failure(stub(probe).Login(pb.LoginRequest())))
    await stuck.until(held=1)
    other = asyncio.ensure_future(outcome(stub(probe, "edge").ValidateToken(VALIDATE)))
    await stuck.until(held=2, cancelled=1)
    assert effect_in(await held) == ("OVERLOADED", "unknown")
    stuck.release()
    assert await other == "OK"


async def test_call_whose_user_could_not_be_authenticated_had_no_effect(
    probe: ProbeServer,
) -> None:
    account = AccountServiceStub(probe.clients.channel("app"))
    metadata = (("authorization", "Bearer undecidable"),)
    error = await failure(account.GetAccount(GetAccountRequest(), metadata=metadata))
    assert effect_in(error) == ("STORE_UNAVAILABLE", "none")


async def test_handler_says_itself_what_its_failure_means(probe: ProbeServer) -> None:
    async def fail(_request: Any) -> None:
        raise StoreUnavailable

    probe.probe.answer = fail
    error = await failure(stub(probe).Login(pb.LoginRequest()))
    assert effect_in(error) == ("STORE_UNAVAILABLE", "")


def _stream(
    probe: ProbeServer,
    monkeypatch: pytest.MonkeyPatch,
    handle: Callable[[Any, Any], AsyncIterator[bytes]],
    *,
    endless: bool = False,
) -> AsyncIterator[bytes]:
    """Serve a long-lived stream, and call it."""
    handler = grpc.stream_stream_rpc_method_handler(handle, bytes, bytes)
    service = grpc.method_handlers_generic_handler("test.Extra", {"Rpc": handler})
    probe.server._server.add_generic_rpc_handlers((service,))
    row = Access(frozenset(Role), long_lived=True, endless=endless)
    monkeypatch.setattr(interceptor, "ACCESS", {"/test.Extra/Rpc": row})
    return aiter(probe.clients.raw("app", "/test.Extra/Rpc", "stream_stream")())


@pytest.mark.parametrize(("endless", "grace"), [(False, 0.1), (True, 3_600)])
async def test_drain_ends_streams_after_grace_period_and_endless_ones_at_once(
    probe: ProbeServer, monkeypatch: pytest.MonkeyPatch, endless: bool, grace: float
) -> None:
    async def handle(_requests: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    responses = _stream(probe, monkeypatch, handle, endless=endless)
    assert await anext(responses) == b"first"
    end = asyncio.ensure_future(outcome(anext(responses)))
    await probe.server.drain(grace)
    assert await end == "SERVICE_STOPPING"


async def test_stream_whose_responses_are_not_read_is_ended(
    probe: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold its place for as long as its connection lasts."""
    monkeypatch.setattr(interceptor, "WRITE_SECONDS", 0.3)
    ended = asyncio.Event()

    async def handle(_requests: Any, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(60_000)
        finally:
            ended.set()

    responses = _stream(probe, monkeypatch, handle)
    await anext(responses)
    async with asyncio.timeout(30):
        await ended.wait()

    async def read() -> None:
        async for _ in responses:
            pass

    assert await outcome(read()) == "OVERLOADED"


@pytest.mark.parametrize("caller", ["app", "stranger"])
async def test_drain_is_not_delayed_by_streams_without_message(
    caller: str, probe: ProbeServer, authority: Authority
) -> None:
    context = tls_context(authority.certificate, authority.caller(identity_of(caller)))
    async with Connection.open(probe.server.port, context) as connection:
        await connection.start("/grpc.health.v1.Health/Check", 1)
        assert await connection.call("/grpc.health.v1.Health/List", stream=3)
        async with asyncio.timeout(30):
            await probe.server.drain(60)
