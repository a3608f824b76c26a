"""What may be repeated is, within deadline and budget; what may not is never sent twice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

import grpc
import pytest

from authsvc.app import server
from authsvc.client import ServiceTimeout, ServiceUnavailable, context, errors
from authsvc.client.retries import Method, RetryBudget
from authsvc.client.status import to_error
from authsvc.config import Settings
from authsvc.dev.ports import reserve
from authsvc.errors import (
    FieldInvalid,
    Overloaded,
    ProviderUnavailable,
    ServiceError,
    ServiceStopping,
    StoreUnavailable,
)
from authsvc.v1.admin_service_pb2 import CreateUserRequest
from authsvc.v1.auth_service_pb2 import LoginRequest, ValidateTokenRequest, ValidateTokenResponse
from tests.support.clients import OpenAsync, OpenTwin
from tests.support.probe import ProbeServer, StartProbe, count, counted, with_changes
from tests.support.proxy import Proxy

VALIDATE = "/authsvc.v1.AuthService/ValidateToken"
READ, WRITE = "auth.ValidateToken", "auth.Login"
REQUEST = ValidateTokenRequest(access_token="t")
LOGIN = LoginRequest(email="a@example.com")


class Answers:
    """Fails with these errors, one after the other, and then answers; counts the calls."""

    def __init__(self, *failures: ServiceError) -> None:
        self.calls = 0
        self._failures = iter(failures)

    async def __call__(self, _request: Any) -> None:
        self.calls += 1
        for failure in self._failures:
            raise failure


def answering(probe: ProbeServer, *failures: ServiceError) -> Answers:
    answers = Answers(*failures)
    probe.probe.answer = answers
    return answers


@pytest.mark.parametrize("failure", [ServiceStopping(), Overloaded(retry_after=0.01)])
async def test_read_is_repeated_after_what_passes(
    failure: ServiceError, probe: ProbeServer, open_twin: OpenTwin
) -> None:
    answers = answering(probe, failure, failure)
    response = await open_twin(probe.clients.port).call(READ, REQUEST)
    assert response.active
    assert answers.calls == 3


@pytest.mark.parametrize(
    "failure", [ServiceStopping(), Overloaded(retry_after=0.01), StoreUnavailable()]
)
async def test_what_may_have_taken_effect_is_not_repeated(
    failure: ServiceError, probe: ProbeServer, open_twin: OpenTwin
) -> None:
    answers = answering(probe, failure)
    with pytest.raises(errors.AuthsvcError) as caught:
        await open_twin(probe.clients.port).call(WRITE, LoginRequest(email="a@example.com"))
    assert caught.value.reason == failure.reason
    assert answers.calls == 1
    # Refused before it took effect, or perhaps not.
    assert caught.value.is_retryable == isinstance(failure, Overloaded)


@pytest.mark.parametrize("failure", [ProviderUnavailable(), FieldInvalid("a", "Wrong.")])
async def test_what_would_fail_again_is_not_repeated(
    failure: ServiceError, probe: ProbeServer, open_twin: OpenTwin
) -> None:
    answers = answering(probe, failure)
    with pytest.raises(errors.AuthsvcError) as caught:
        await open_twin(probe.clients.port).call(READ, REQUEST)
    assert not caught.value.is_retryable
    assert answers.calls == 1


async def test_pause_that_the_deadline_does_not_allow_is_not_begun(
    probe: ProbeServer, open_twin: OpenTwin
) -> None:
    answers = answering(probe, Overloaded(retry_after=3_600))
    twin = open_twin(probe.clients.port, timeout=60)
    with pytest.raises(errors.Overloaded) as caught:
        await twin.call(READ, REQUEST)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 3_600
    assert caught.value.is_retryable
    assert answers.calls == 1


async def test_attempts_are_bounded(probe: ProbeServer, open_twin: OpenTwin) -> None:
    answers = answering(probe, *[ServiceStopping()] * 10)
    with pytest.raises(errors.ServiceStopping):
        await open_twin(probe.clients.port, retries=2).call(READ, REQUEST)
    assert answers.calls == 3


async def test_retries_stop_while_everything_fails(probe: ProbeServer, open_twin: OpenTwin) -> None:
    answers = answering(probe, *[ServiceStopping()] * 1_000)
    twin = open_twin(probe.clients.port, timeout=60)
    calls = [twin.call(READ, REQUEST) for _ in range(50)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, errors.ServiceStopping) for each in failed)
    # Half of the budget's tokens, though each of the fifty could have had three more attempts.
    assert 50 <= answers.calls <= 60


def test_budget_recovers_with_successes() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.spend()
    assert not budget.allows
    for _ in range(100):
        budget.succeeded()
    assert not budget.allows
    for _ in range(2):
        budget.succeeded()
    assert budget.allows


def test_levels_are_read_from_the_protos() -> None:
    validate, logout, login, unknown = (
        Method(path)
        for path in (
            "/authsvc.v1.AuthService/ValidateToken",
            "/authsvc.v1.AuthService/Logout",
            "/authsvc.v1.AuthService/Login",
            "/some.Other/Call",
        )
    )
    assert [each.is_read for each in (validate, logout, login, unknown)] == [True, *[False] * 3]
    request = LoginRequest()
    repeatable = [each.may_repeat(request) for each in (validate, logout, login, unknown)]
    assert repeatable == [True, True, False, False]


def test_request_id_makes_a_request_repeatable() -> None:
    create = Method("/authsvc.v1.AdminService/CreateUser")
    assert not create.may_repeat(CreateUserRequest())
    assert create.may_repeat(CreateUserRequest(request_id="1"))


async def test_deadline_of_the_request_is_that_of_its_calls(
    probe: ProbeServer, open_twin: OpenTwin
) -> None:
    answers = answering(probe)
    twin = open_twin(probe.clients.port, timeout=3_600)
    token = context.deadline.set(monotonic() - 1)
    with pytest.raises(ServiceTimeout):
        await twin.call(READ, REQUEST)
    assert answers.calls == 0
    context.deadline.reset(token)
    await twin.call(READ, REQUEST)
    probe.probe.answer = never
    context.deadline.set(monotonic() + 0.2)
    with pytest.raises(ServiceTimeout) as caught:
        await twin.call(READ, REQUEST)
    assert caught.value.is_retryable


async def never(_request: Any) -> None:
    await asyncio.Event().wait()


Answer = Callable[[Any], Awaitable[Any]]


@pytest.fixture
async def replicas(start_probe: StartProbe, settings: Settings) -> list[ProbeServer]:
    return [await start_probe(settings) for _ in range(2)]


def addresses(replicas: list[ProbeServer]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{each.clients.port}" for each in replicas)


async def test_calls_are_spread_and_survive_a_replica(
    replicas: list[ProbeServer], open_twin: OpenTwin
) -> None:
    counts = [answering(each) for each in replicas]
    twin = open_twin(addresses(replicas), server_name="localhost", timeout=60)
    while not all(each.calls for each in counts):
        await twin.call(READ, REQUEST)
    await replicas[0].stop()
    before = counts[1].calls
    for _ in range(20):
        await twin.call(READ, REQUEST)
    assert counts[1].calls == before + 20


async def test_refused_call_is_repeated_elsewhere_and_its_replica_left(
    replicas: list[ProbeServer], open_twin: OpenTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_NOTICE", 3_600.0)
    stopping = replicas[0]
    served = [answering(each) for each in replicas]
    twin = open_twin(addresses(replicas), server_name="localhost", timeout=60)
    while not all(each.calls for each in served):
        await twin.call(WRITE, LOGIN)
    draining = asyncio.ensure_future(stopping.server.drain(3_600))
    await asyncio.sleep(0)
    before = [each.calls for each in served]
    for _ in range(4):
        await twin.call(WRITE, LOGIN)
    assert [each.calls for each in served] == [before[0], before[1] + 4]
    # gRPC would have gone on using the connection, which is still open.
    assert count(stopping, "UNAVAILABLE", "SERVICE_STOPPING") == 1
    await draining


async def test_call_cut_off_by_stop_is_not_repeated(
    replicas: list[ProbeServer], open_twin: OpenTwin
) -> None:
    reached: list[ProbeServer] = []
    arrived = asyncio.Event()

    def held_by(replica: ProbeServer) -> Callable[[Any], Awaitable[None]]:
        async def hold(_request: Any) -> None:
            reached.append(replica)
            arrived.set()
            await asyncio.Event().wait()

        return hold

    for each in replicas:
        each.probe.answer = held_by(each)
    twin = open_twin(addresses(replicas), server_name="localhost", timeout=60)
    call = asyncio.ensure_future(twin.call(WRITE, LOGIN))
    await arrived.wait()
    await reached[0].server.drain(0.1)
    with pytest.raises(errors.ServiceStopping) as caught:
        await call
    assert caught.value.metadata == {"effect": "unknown"}
    assert (caught.value.without_effect, caught.value.is_retryable) == (False, False)
    assert len(reached) == 1


async def test_calls_refused_by_one_replica_need_no_budget(
    replicas: list[ProbeServer], open_twin: OpenTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_NOTICE", 3_600.0)
    served = [answering(each) for each in replicas]
    twin = open_twin(addresses(replicas), server_name="localhost", timeout=60)
    while not all(each.calls for each in served):
        await twin.call(WRITE, LOGIN)
    draining = asyncio.ensure_future(replicas[0].server.drain(3_600))
    await asyncio.sleep(0)
    twin.client.channel.settings.budget._tokens = 0.0
    for _ in range(4):
        await twin.call(WRITE, LOGIN)
    assert count(replicas[0], "UNAVAILABLE", "SERVICE_STOPPING") == 1
    await draining


async def test_call_that_found_no_connection_is_repeated_whatever_it_is(
    start_probe: StartProbe, settings: Settings, open_twin: OpenTwin
) -> None:
    holder, address = reserve()
    with holder:
        twin = open_twin(address, retries=1)
        with pytest.raises(ServiceUnavailable) as caught:
            await twin.call(WRITE, LOGIN)
        assert (caught.value.without_effect, caught.value.is_retryable) == (True, True)
        # Two attempts.
        assert twin.client.channel.settings.budget._tokens == 18
        twin = open_twin(address, timeout=60, retries=100)
        call = asyncio.ensure_future(twin.call(WRITE, LOGIN))
        probe = await start_probe(with_changes(settings, "grpc", address=address))
        await call
        await counted(probe, "OK")
        assert count(probe, "OK") == 1


def test_message_of_a_server_is_not_taken_for_that_of_this_client() -> None:
    said = "connections to all backends failing"
    own, of_a_server = (
        to_error(Failed(said, trailers), repeatable=False)
        for trailers in ((), (("server", "proxy"),))
    )
    assert (own.without_effect, of_a_server.without_effect) == (True, False)


class Failed:
    """What gRPC raises, with these details."""

    def __init__(self, details: str, trailers: Sequence[tuple[str, str]]) -> None:
        self._details, self._trailers = details, trailers

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Sequence[tuple[str, str]]:
        return self._trailers


async def test_slow_read_is_sent_to_another_replica(
    replicas: list[ProbeServer], open_twin: OpenTwin
) -> None:
    calls = 0

    async def first_hangs(_request: Any) -> ValidateTokenResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return ValidateTokenResponse(active=True)

    for each in replicas:
        each.probe.answer = first_hangs
    target = addresses(replicas)
    twin = open_twin(target, server_name="localhost", timeout=60, hedge_after=0.05)
    assert (await twin.call(READ, REQUEST)).active
    assert calls == 2


async def test_failed_attempt_waits_for_the_other(probe: ProbeServer, open_twin: OpenTwin) -> None:
    second_arrived = asyncio.Event()
    calls = 0

    async def first_fails(_request: Any) -> ValidateTokenResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            await second_arrived.wait()
            raise ServiceStopping
        second_arrived.set()
        while not count(probe, "UNAVAILABLE", "SERVICE_STOPPING", VALIDATE):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return ValidateTokenResponse(active=True)

    probe.probe.answer = first_fails
    twin = open_twin(probe.clients.port, timeout=60, hedge_after=0.05, retries=0)
    assert (await twin.call(READ, REQUEST)).active
    assert calls == 2


async def test_hedged_read_fails_with_the_reason(probe: ProbeServer, open_twin: OpenTwin) -> None:
    twin = open_twin(probe.clients.port, timeout=60, hedge_after=0.0, retries=0)
    for failure in (ServiceStopping(), FieldInvalid("a", "Wrong.")):
        answering(probe, *[failure] * 2)
        with pytest.raises(errors.AuthsvcError) as caught:
            await twin.call(READ, REQUEST)
        assert caught.value.reason == failure.reason


async def test_write_is_never_hedged(probe: ProbeServer, open_twin: OpenTwin) -> None:
    twin = open_twin(probe.clients.port, hedge_after=0.0)
    assert twin.client.auth.ValidateToken._hedge_after == 0.0
    # Repeatable is not enough: two at once could both take effect.
    for write in (twin.client.auth.Login, twin.client.auth.Logout):
        assert write._hedge_after is None


async def test_hedges_have_a_budget(probe: ProbeServer, open_twin: OpenTwin) -> None:
    answers = answering(probe)
    twin = open_twin(probe.clients.port, hedge_after=0.0, timeout=60)
    for _ in range(40):
        await twin.call(READ, REQUEST)
    # Ten tokens at first, and four earned.
    assert 40 <= answers.calls <= 55


async def test_nobody_there_is_unavailable(open_twin: OpenTwin, unused_tcp_port: int) -> None:
    with pytest.raises(ServiceUnavailable) as caught:
        await open_twin(unused_tcp_port, retries=1).call(READ, REQUEST)
    assert (caught.value.reason, caught.value.is_retryable) == ("", True)


async def test_cancelling_one_call_leaves_the_client_usable(
    probe: ProbeServer, open_async: OpenAsync
) -> None:
    client = open_async(probe.clients.port, timeout=60, hedge_after=0.0)
    arrived = asyncio.Event()

    async def hang(_request: Any) -> None:
        arrived.set()
        await asyncio.Event().wait()

    probe.probe.answer = hang
    task = asyncio.ensure_future(client.auth.ValidateToken(REQUEST))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    answering(probe)
    assert (await client.auth.ValidateToken(REQUEST)).active


@pytest.mark.parametrize("is_read", [True, False])
async def test_cut_connection_repeats_only_what_may_be(
    is_read: bool, probe: ProbeServer, open_twin: OpenTwin
) -> None:
    calls = 0
    arrived = asyncio.Event()

    async def first_hangs(_request: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            arrived.set()
            await asyncio.Event().wait()

    probe.probe.answer = first_hangs
    rpc, request = (READ, REQUEST) if is_read else (WRITE, LoginRequest(email="a"))
    async with Proxy(f"tcp://127.0.0.1:{probe.clients.port}") as proxy:
        twin = open_twin(proxy.address, timeout=60)
        call = asyncio.ensure_future(twin.call(rpc, request))
        await arrived.wait()
        proxy.cut()
        if is_read:
            await call
        else:
            with pytest.raises(ServiceUnavailable) as caught:
                await call
            assert not caught.value.is_retryable
        assert calls == (2 if is_read else 1)
        await twin.close()
