"""What all calls pass through, seen from the caller's side of a real connection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2 as details
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from structlog.testing import capture_logs

from authsvc import log
from authsvc.errors import (
    CallerNotAllowed,
    FieldInvalid,
    Overloaded,
    Resource,
    StoreUnavailable,
    credentials_invalid,
    policy_unknown,
)
from authsvc.models.calls import Call, Role
from authsvc.rpc import interceptor
from authsvc.rpc.access import ACCESS, Access
from authsvc.rpc.call_context import current_call, current_caller, current_claims
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.account_service_pb2_grpc import AccountServiceStub
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from tests.support.certificates import Authority
from tests.support.http2 import Connection, tls_context
from tests.support.probe import (
    CLAIMS,
    LOGIN,
    STRANGER,
    ProbeServer,
    count,
    counted,
    details_of,
    failure,
    identity_of,
    outcome,
    reason_of,
    request_id_of,
)

SECRET = "Analytical-Engine-1843"


def stub(probe: ProbeServer, caller: str = "app") -> Any:
    return AuthServiceStub(probe.clients.channel(caller))


def raising(probe: ProbeServer, error: BaseException) -> None:
    async def fail(_request: Any) -> None:
        raise error

    probe.probe.answer = fail


def remembering(probe: ProbeServer) -> list[Call]:
    calls = []

    async def remember(_request: Any) -> None:
        calls.append(current_call())

    probe.probe.answer = remember
    return calls


# Request id


@pytest.mark.parametrize("given", ["a", "Z9._-", "x" * 128])
async def test_request_id_is_adopted(given: str, probe: ProbeServer) -> None:
    calls = remembering(probe)
    call = stub(probe).Login(pb.LoginRequest(), metadata=[("x-request-id", given)])
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == given
    assert calls == [Call(given, identity_of("app"))]


@pytest.mark.slow
@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "<script>", "a/b", 'a"b', "a,b", "a\\n"])
async def test_invalid_request_id_is_replaced(given: str, probe: ProbeServer) -> None:
    calls = remembering(probe)
    call = stub(probe).Login(pb.LoginRequest(), metadata=[("x-request-id", given)])
    await call
    assert calls[0].request_id not in {"", given}
    assert dict(await call.trailing_metadata())["x-request-id"] == calls[0].request_id


@pytest.mark.slow
@pytest.mark.parametrize("given", ["a\tb", "a\0b", "a\nb", "ä", "\u2028"])
async def test_illegal_header_value_is_not_used_as_request_id(
    given: str, probe: ProbeServer, authority: Authority
) -> None:
    calls = remembering(probe)
    context = tls_context(authority.certificate, authority.caller(identity_of("app")))
    async with Connection.open(probe.server.port, context) as connection:
        await connection.call(LOGIN, x_request_id=given)
    assert given not in {call.request_id for call in calls}
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "OK"


async def test_generated_request_ids_are_unique(probe: ProbeServer) -> None:
    calls = remembering(probe)
    for _ in range(3):
        await stub(probe).Login(pb.LoginRequest())
    assert len({call.request_id for call in calls}) == 3


async def test_failures_carry_request_id(probe: ProbeServer) -> None:
    raising(probe, credentials_invalid())
    error = await failure(
        stub(probe).Login(pb.LoginRequest(), metadata=[("x-request-id", "from-the-edge")])
    )
    assert request_id_of(error) == "from-the-edge"
    info = details.RequestInfo()
    assert details_of(error).details[-1].Unpack(info)
    assert info.request_id == "from-the-edge"


async def test_log_lines_of_call_include_request_id(probe: ProbeServer) -> None:
    seen = []

    async def look(_request: Any) -> None:
        # Tasks started by a call inherit its request id.
        seen.append(await asyncio.create_task(_request_id()))

    probe.probe.answer = look
    await stub(probe).Login(pb.LoginRequest(), metadata=[("x-request-id", "r-1")])
    assert seen == ["r-1"]


async def _request_id() -> str:
    return log.REQUEST_ID.get()


# Caller and access


async def test_handlers_know_caller(probe: ProbeServer) -> None:
    seen = []

    async def look(_request: Any) -> None:
        seen.append(current_caller())

    probe.probe.answer = look
    await stub(probe, "edge").ValidateToken(pb.ValidateTokenRequest())
    assert seen[0].identity == identity_of("edge")
    assert seen[0].roles == {Role.EDGE}
    assert len(seen[0].thumbprint) == 32


async def test_concurrent_calls_see_only_their_own_caller(probe: ProbeServer) -> None:
    seen = set()

    async def look(request: pb.ValidateTokenRequest) -> None:
        await asyncio.sleep(0)
        seen.add((request.access_token, current_call()))

    probe.probe.answer = look
    await asyncio.gather(
        *(
            stub(probe, role).ValidateToken(
                pb.ValidateTokenRequest(access_token=f"{role}-{number}"),
                metadata=[("x-request-id", f"{role}-{number}")],
            )
            for role in ("app", "edge")
            for number in range(20)
        )
    )
    assert seen == {
        (f"{role}-{number}", Call(f"{role}-{number}", identity_of(role)))
        for role in ("app", "edge")
        for number in range(20)
    }


async def test_rejected_callers_reach_neither_parser_nor_handler(probe: ProbeServer) -> None:
    calls = remembering(probe)
    raw = probe.clients.raw("edge", LOGIN)
    assert reason_of(await failure(raw(b"\xff not a message"))) == "CALLER_NOT_ALLOWED"
    assert not calls


async def test_replaced_callers_apply_to_open_connections(probe: ProbeServer) -> None:
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "OK"
    probe.server.replace_callers([])
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "CALLER_NOT_ALLOWED"


async def test_unknown_rpc_is_unimplemented(probe: ProbeServer) -> None:
    for method in ("/authsvc.v1.AuthService/Nothing", "/authsvc.v2.AuthService/Login", "/x/y"):
        raw = probe.clients.raw("app", method)
        assert (await failure(raw(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


def add_rpc(probe: ProbeServer, handler: Any) -> str:
    """Register an RPC that has no row in the access table; return its name."""
    service = grpc.method_handlers_generic_handler("test.Extra", {"Rpc": handler})
    probe.server._server.add_generic_rpc_handlers((service,))
    return "/test.Extra/Rpc"


async def echo(request: bytes, _context: Any) -> bytes:
    return request


@pytest.mark.parametrize("caller", [*Role, STRANGER])
async def test_rpc_without_access_row_is_rejected(caller: str, probe: ProbeServer) -> None:
    method = add_rpc(probe, grpc.unary_unary_rpc_method_handler(echo, bytes, bytes))
    raw = probe.clients.raw(caller, method)
    assert reason_of(await failure(raw(b"x"))) == "CALLER_NOT_ALLOWED"


# Bearer


def account(probe: ProbeServer, *metadata: tuple[str, str]) -> Any:
    return AccountServiceStub(probe.clients.channel("app")).GetAccount(
        account_pb.GetAccountRequest(), metadata=metadata
    )


@pytest.mark.parametrize("header", ["Bearer good", "bearer good", "BEARER good"])
async def test_bearer_token_provides_claims(header: str, probe: ProbeServer) -> None:
    seen = []

    async def look(_request: Any) -> None:
        seen.append(current_claims())

    probe.probe.answer = look
    await account(probe, ("authorization", header))
    assert seen == [CLAIMS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["good"],
        ["Bearer"],
        ["Bearer "],
        ["Bearer bad"],
        ["Basic good"],
        ["Bearer good", "Bearer good"],
        ["Bearer good, Bearer good"],
        ["Bearer  good"],
        ["Bearer good "],
    ],
)
async def test_other_bearer_tokens_are_rejected(headers: list[str], probe: ProbeServer) -> None:
    calls = remembering(probe)
    error = await failure(account(probe, *(("authorization", value) for value in headers)))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(error) == "BEARER_INVALID"
    assert not calls


async def test_bearer_token_does_not_replace_caller_role(probe: ProbeServer) -> None:
    rpc = AccountServiceStub(probe.clients.channel("edge")).GetAccount
    metadata = [("authorization", "Bearer good")]
    error = await failure(rpc(account_pb.GetAccountRequest(), metadata=metadata))
    assert reason_of(error) == "CALLER_NOT_ALLOWED"


async def test_other_rpcs_have_no_claims(probe: ProbeServer) -> None:
    async def look(_request: Any) -> None:
        with pytest.raises(LookupError):
            current_claims()

    probe.probe.answer = look
    call = stub(probe).Login(pb.LoginRequest(), metadata=[("authorization", "Bearer good")])
    assert await outcome(call) == "OK"


# Errors


async def test_reasons_reach_caller(probe: ProbeServer) -> None:
    raising(probe, policy_unknown("nightly"))
    error = await failure(stub(probe).Login(pb.LoginRequest()))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    info = details.ErrorInfo()
    assert details_of(error).details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "POLICY_UNKNOWN",
        "authsvc",
        {"policy": "nightly"},
    )
    assert details_of(error).message == error.details() == "No rate-limit policy has this name."


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        TimeoutError(SECRET),
        AssertionError(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
        NotImplementedError(SECRET),
        StopAsyncIteration(SECRET),
    ],
)
async def test_unexpected_failures_reveal_nothing(error: Exception, probe: ProbeServer) -> None:
    raising(probe, error)
    with capture_logs() as logs:
        reported = await failure(stub(probe).Login(pb.LoginRequest()))
    assert reported.code() is grpc.StatusCode.INTERNAL
    assert reason_of(reported) == "INTERNAL"
    assert reported.details() == "An internal error occurred."
    metadata = repr(reported.trailing_metadata()) + str(reported.initial_metadata())
    everything = repr(reported) + metadata
    assert SECRET not in everything
    assert type(error).__name__ not in everything
    assert [entry["exc_info"] for entry in logs if entry["log_level"] == "error"] == [error]


async def test_response_of_wrong_type_is_internal_error(probe: ProbeServer) -> None:
    async def confuse(_request: Any) -> Any:
        return "not a message"

    probe.probe.answer = confuse
    assert await outcome(stub(probe).Login(pb.LoginRequest())) == "INTERNAL"


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x0a\xff",
        b"\x0a\x02a",
        b"\x0a\x01\xff",
        b"\x0b" * 200,
        b"\x07\x00",
    ],
    ids=["tag", "length", "short", "utf-8", "groups", "wire-type"],
)
async def test_malformed_message_is_rejected(message: bytes, probe: ProbeServer) -> None:
    calls = remembering(probe)
    error = await failure(probe.clients.raw("app", LOGIN)(message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "FIELD_INVALID"
    assert not calls


async def test_unknown_fields_are_accepted(probe: ProbeServer) -> None:
    raw = probe.clients.raw("app", LOGIN)
    await raw(b"\xf8\x3f\x01")


# Streams


_KINDS: Sequence[tuple[str, Any]] = (
    ("unary_unary", grpc.unary_unary_rpc_method_handler),
    ("unary_stream", grpc.unary_stream_rpc_method_handler),
    ("stream_unary", grpc.stream_unary_rpc_method_handler),
    ("stream_stream", grpc.stream_stream_rpc_method_handler),
)


@pytest.mark.parametrize(("kind", "handler_of"), _KINDS)
async def test_unexpected_failure_of_any_kind_of_call_is_its_request_id_alone(
    kind: str, handler_of: Any, probe: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_request: Any, _context: Any) -> bytes:
        raise RuntimeError(SECRET)

    async def fail_in_stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        if SECRET:
            raise RuntimeError(SECRET)
        yield b""

    handler = handler_of(fail_in_stream if kind.endswith("_stream") else fail, bytes, bytes)
    rpc = probe.clients.raw("app", open_to_all(probe, monkeypatch, handler), kind)
    metadata = (("x-request-id", "r-1"),)
    call = rpc(iter([b"1"]) if kind.startswith("stream_") else b"1", metadata=metadata)
    with capture_logs() as logs:
        error = await failure(anext(aiter(call)) if kind.endswith("_stream") else call)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.INTERNAL,
        "An internal error occurred.",
    )
    info, request_info = details.ErrorInfo(), details.RequestInfo()
    first, second = details_of(error).details
    assert first.Unpack(info)
    assert second.Unpack(request_info)
    assert info == details.ErrorInfo(reason="INTERNAL", domain="authsvc")
    assert request_info == details.RequestInfo(request_id="r-1")
    assert SECRET not in repr(error) + repr(error.trailing_metadata())
    [line] = [line for line in logs if line["log_level"] == "error"]
    assert str(line["exc_info"]) == SECRET


def open_to_all(probe: ProbeServer, monkeypatch: pytest.MonkeyPatch, handler: Any) -> str:
    """Register an RPC that every role may call; return its name."""
    method = add_rpc(probe, handler)
    rows = {**ACCESS, method: Access(frozenset(Role))}
    monkeypatch.setattr(interceptor, "ACCESS", rows)
    return method


@pytest.mark.slow
async def test_failing_stream_returns_reason_after_sent_messages(
    probe: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_late(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield request
        raise RuntimeError(SECRET)

    handler = grpc.unary_stream_rpc_method_handler(fail_late, bytes, bytes)
    method = open_to_all(probe, monkeypatch, handler)
    call = probe.clients.raw("app", method, "unary_stream")(b"first")
    responses = aiter(call)
    assert await anext(responses) == b"first"
    error = await failure(anext(responses))
    assert reason_of(error) == "INTERNAL"
    assert SECRET not in repr(error)
    assert request_id_of(error)


async def test_stream_is_closed_when_caller_disconnects(
    probe: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = asyncio.Event()

    async def endless(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield request
        finally:
            closed.set()

    handler = grpc.unary_stream_rpc_method_handler(endless, bytes, bytes)
    method = open_to_all(probe, monkeypatch, handler)
    call = probe.clients.raw("app", method, "unary_stream")(b"x" * 1_024)
    assert await anext(aiter(call))
    call.cancel()
    await asyncio.wait_for(closed.wait(), 30)
    await counted(probe, "CANCELLED", method)


async def test_malformed_message_in_stream_is_rejected(
    probe: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def last(requests: AsyncIterator[pb.LoginRequest], _context: Any) -> bytes:
        return [request async for request in requests][-1].email.encode()

    handler = grpc.stream_unary_rpc_method_handler(last, pb.LoginRequest.FromString, bytes)
    method = open_to_all(probe, monkeypatch, handler)
    raw = probe.clients.raw("app", method, "stream_unary")
    good = pb.LoginRequest(email="ada@example.test").SerializeToString()
    assert await raw(iter([good, good])) == b"ada@example.test"
    call = raw()
    for message in (good, b"\xff"):
        await call.write(message)
    # The stream is left open: grpc.aio's client would cancel it if the status arrived first.
    assert reason_of(await failure(call)) == "FIELD_INVALID"


async def test_stream_is_rejected_before_handler_starts(probe: ProbeServer) -> None:
    stream = ServerReflectionStub(probe.clients.channel("app")).ServerReflectionInfo()
    assert reason_of(await failure(stream.read())) == "CALLER_NOT_ALLOWED"


# Metrics and log


def lines(logs: list[Any]) -> list[tuple[str, str, Any]]:
    return [(entry["log_level"], entry["event"], entry.get("reason")) for entry in logs]


@pytest.fixture
def informed() -> Iterator[None]:
    """Log at level info, as a service does by default."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("informed")
async def test_read_only_calls_are_not_logged_but_commands_are(probe: ProbeServer) -> None:
    with capture_logs() as logs:
        await stub(probe).ValidateToken(pb.ValidateTokenRequest())
        await stub(probe).Login(pb.LoginRequest(password=SECRET))
    assert lines(logs) == [("info", "call", None)]
    assert logs[0]["method"] == LOGIN
    assert logs[0]["caller"] == identity_of("app")
    assert SECRET not in repr(logs)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (credentials_invalid(), "info"),
        (FieldInvalid("email", "is empty"), "info"),
        (CallerNotAllowed(), "warning"),
        (StoreUnavailable(), "warning"),
        (Overloaded(), "warning"),
        (RuntimeError("boom"), "error"),
    ],
)
@pytest.mark.usefixtures("informed")
async def test_failures_are_logged_and_counted(
    error: Exception, level: str, probe: ProbeServer
) -> None:
    raising(probe, error)
    with capture_logs() as logs:
        reported = await failure(stub(probe).ValidateToken(pb.ValidateTokenRequest()))
    assert lines(logs) == [(level, "call_failed", reason_of(reported))]
    method = "/authsvc.v1.AuthService/ValidateToken"
    assert count(probe, reported.code().name, reason_of(reported), method) == 1


async def test_shed_calls_are_counted_by_what_was_full(probe: ProbeServer) -> None:
    for error in (Overloaded(), Overloaded(what=Resource.HASHES), StoreUnavailable()):
        raising(probe, error)
        await failure(stub(probe).ValidateToken(pb.ValidateTokenRequest()))
    shed = {
        what.value: probe.metrics.registry.get_sample_value(
            "authsvc_overloaded_total", {"what": what.value}
        )
        for what in Resource
    }
    assert shed == {"calls": 1, "hashes": 1, "batches": 0, "streams": 0, "transfers": 0}


async def test_causes_appear_only_in_log(probe: ProbeServer) -> None:
    async def fail(_request: Any) -> None:
        raise StoreUnavailable from ConnectionRefusedError("no route to the database")

    probe.probe.answer = fail
    with capture_logs() as logs:
        error = await failure(stub(probe).Login(pb.LoginRequest()))
    assert logs[-1]["cause"] == "ConnectionRefusedError: no route to the database"
    assert "no route" not in repr(error) + repr(error.trailing_metadata())


async def test_log_states_why_caller_was_rejected(probe: ProbeServer, authority: Authority) -> None:
    nameless = AuthServiceStub(probe.clients.open(authority.issue(common_name="app")))
    with capture_logs() as logs:
        await outcome(nameless.Login(pb.LoginRequest()))
        await outcome(stub(probe, "edge").Login(pb.LoginRequest()))
    assert [entry["cause"] for entry in logs] == [
        "it has no subject alternative name",
        "its roles don't include this RPC",
    ]


async def test_successes_are_counted_with_duration(probe: ProbeServer) -> None:
    for _ in range(3):
        await stub(probe).Login(pb.LoginRequest())
    assert count(probe, "OK") == 3
    get = probe.metrics.registry.get_sample_value
    assert get("authsvc_rpc_duration_seconds_count", {"method": LOGIN}) == 3
    assert get("authsvc_rpc_duration_seconds_bucket", {"method": LOGIN, "le": "+Inf"}) == 3
    assert 0 < (get("authsvc_rpc_duration_seconds_sum", {"method": LOGIN}) or 0) < 60


async def test_aborts_keep_their_status(probe: ProbeServer) -> None:
    health = health_pb2_grpc.HealthStub(probe.clients.channel("app"))
    error = await failure(health.Check(health_pb2.HealthCheckRequest(service="none")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert request_id_of(error)
    await counted(probe, "NOT_FOUND", method="/grpc.health.v1.Health/Check")
