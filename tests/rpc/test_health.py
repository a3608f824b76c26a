"""grpc.health.v1: the reported states, who may query them, changes, and shutdown."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from authsvc.app.server import SERVICES
from authsvc.config import Settings
from authsvc.models.calls import Role
from authsvc.rpc.health import Health
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.probe import (
    STRANGER,
    ProbeServer,
    StartProbe,
    failure,
    identity_of,
    outcome,
    reason_of,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def stub(probe: ProbeServer, caller: str = STRANGER) -> Any:
    return HealthStub(probe.clients.channel(caller))


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


class Watch:
    """A client's watch; the server has started it once the first state arrives."""

    def __init__(self, probe: ProbeServer, service: str = "", caller: str = STRANGER) -> None:
        self.call = stub(probe, caller).Watch(asked(service))
        self._responses: AsyncIterator[Any] = aiter(self.call)

    async def state(self) -> int:
        async with asyncio.timeout(30):
            return int((await anext(self._responses)).status)

    async def last_state(self) -> int | None:
        """Read to the end; return the last state that was sent, if any."""
        state = None
        async with asyncio.timeout(30):
            async for response in self._responses:
                state = int(response.status)
        return state

    async def ended(self) -> bool:
        async with asyncio.timeout(30):
            return await anext(self._responses, None) is None


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_check_reports_serving_state(service: str, probe: ProbeServer) -> None:
    assert (await stub(probe).Check(asked(service))).status == SERVING
    probe.server.set_serving(serving=False)
    assert (await stub(probe).Check(asked(service))).status == NOT_SERVING


async def test_check_of_unknown_service_is_not_found(probe: ProbeServer) -> None:
    error = await failure(stub(probe).Check(asked("authsvc.v1.Nothing")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_list_returns_every_service(probe: ProbeServer) -> None:
    response = await stub(probe).List(health_pb2.HealthListRequest())
    states = {service: state.status for service, state in response.statuses.items()}
    assert states == dict.fromkeys(["", *SERVICES], SERVING)


@pytest.mark.parametrize("caller", [*Role, STRANGER])
async def test_any_certificate_can_query_health(caller: str, probe: ProbeServer) -> None:
    assert await outcome(stub(probe, caller).Check(asked())) == "OK"
    assert await outcome(stub(probe, caller).List(health_pb2.HealthListRequest())) == "OK"
    assert await Watch(probe, caller=caller).state() == SERVING


async def test_certificate_without_identity_can_query_health(
    probe: ProbeServer, authority: Authority
) -> None:
    channel = probe.clients.open(authority.issue(common_name="probe"))
    assert await outcome(HealthStub(channel).Check(asked())) == "OK"


async def test_expired_certificate_cannot_query_health(
    probe: ProbeServer, authority: Authority, clock: FakeClock
) -> None:
    certificate = authority.caller(identity_of("app"), not_after=clock.now())
    channel = probe.clients.open(certificate)
    assert await outcome(HealthStub(channel).Check(asked())) == "CALLER_NOT_ALLOWED"


async def test_health_is_not_serving_until_set(settings: Settings) -> None:
    health = Health(["a.B"])
    assert (await health.Check(asked("a.B"), None)).status == NOT_SERVING  # type: ignore[arg-type]  # not used


async def test_watch_sends_only_changes(probe: ProbeServer) -> None:
    watch = Watch(probe)
    assert await watch.state() == SERVING
    probe.server.set_serving(serving=True)
    probe.server.set_serving(serving=False)
    assert await watch.state() == NOT_SERVING
    probe.server.set_serving(serving=False)
    probe.server.set_serving(serving=True)
    assert await watch.state() == SERVING


async def test_watch_of_unknown_service_continues(probe: ProbeServer) -> None:
    watch = Watch(probe, "authsvc.v1.Nothing")
    assert await watch.state() == SERVICE_UNKNOWN
    probe.server.set_serving(serving=False)
    # The state of an unknown service never changes, so the end of the stream comes next.
    draining = asyncio.ensure_future(probe.server.drain(10))
    assert await watch.ended()
    await draining


async def test_watches_are_limited_and_free_their_slot(
    start_probe: StartProbe, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.rpc.load._WATCHES", (3, 2))
    probe = await start_probe(settings)
    first, second = Watch(probe), Watch(probe)
    assert (await first.state(), await second.state()) == (SERVING, SERVING)
    rejected = Watch(probe)
    assert reason_of(await failure(rejected.state())) == "OVERLOADED"
    first.call.cancel()
    # The server may notice the cancellation later.
    async with asyncio.timeout(30):
        while await outcome(Watch(probe).state()) != "OK":
            pass


async def test_watches_do_not_use_call_slots(start_probe: StartProbe, settings: Settings) -> None:
    grpc_settings = settings.grpc.model_copy(update={"max_concurrent_rpcs": 1})
    probe = await start_probe(settings.model_copy(update={"grpc": grpc_settings}))
    for _ in range(3):
        assert await Watch(probe).state() == SERVING
    assert await outcome(probe.login()) == "OK"


@pytest.mark.slow
async def test_watch_outlasts_call_timeout(start_probe: StartProbe, settings: Settings) -> None:
    grpc_settings = settings.grpc.model_copy(update={"call_timeout": timedelta(milliseconds=100)})
    probe = await start_probe(settings.model_copy(update={"grpc": grpc_settings}))
    watch = Watch(probe)
    assert await watch.state() == SERVING

    async def wait(_request: Any) -> None:
        await asyncio.Event().wait()

    # When a later call times out, the watch would have timed out as well.
    probe.probe.answer = wait
    for _ in range(2):
        assert await outcome(probe.login()) == "STORE_UNAVAILABLE"
    probe.server.set_serving(serving=False)
    assert await watch.state() == NOT_SERVING


async def test_drain_reports_not_serving_and_does_not_wait_for_watches(probe: ProbeServer) -> None:
    # Each on a connection of its own, as a client can lose what gRPC has buffered when it closes.
    watches = [Watch(probe, caller=caller) for caller in (*Role, STRANGER)]
    assert {await watch.state() for watch in watches} == {SERVING}
    last = [asyncio.create_task(watch.last_state()) for watch in watches]
    async with asyncio.timeout(30):
        await probe.server.drain(60)
    states = set(await asyncio.gather(*last))
    assert states in ({NOT_SERVING}, {NOT_SERVING, None})


async def test_health_stays_not_serving_after_end() -> None:
    health = Health(["a.B"])
    health.end()
    health.set_serving(serving=True)
    response = await health.Check(asked("a.B"), None)  # type: ignore[arg-type]  # not used
    assert response.status == NOT_SERVING
