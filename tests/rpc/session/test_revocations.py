"""WatchRevocations over mutual TLS: what verifiers are sent, and how their streams end."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
import pytest

from authsvc.config import Settings
from authsvc.core.revocations import validity
from authsvc.core.revocations.cursors import WatchCursor, write_watch_cursor
from authsvc.store.log_reading import Position
from authsvc.v1.admin_service_pb2 import RevokeSigningKeyRequest
from authsvc.v1.session_service_pb2 import (
    Revocation,
    RevokeSessionRequest,
    RevokeUserSessionsRequest,
    WatchRevocationsRequest,
    WatchRevocationsResponse,
)
from tests.support.certificates import Authority
from tests.support.clock import FakeClock
from tests.support.probe import Clients, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of

# Only bounds a failing test.
_PATIENCE = 60.0


class Stream:
    """A watcher, and what it has been sent."""

    def __init__(self, call: AsyncIterable[WatchRevocationsResponse], cursor: str) -> None:
        self._responses = aiter(call)
        self.cursor = cursor
        self.revocations: list[Revocation] = []

    async def next(self) -> WatchRevocationsResponse:
        async with asyncio.timeout(_PATIENCE):
            response = await anext(self._responses)
        self.cursor = response.cursor
        self.revocations += response.revocations
        return response

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.next()

    async def revoked(self, session_id: str) -> Revocation:
        """Read until a session has been revoked."""
        while True:
            for revocation in self.revocations:
                if revocation.session_id == session_id:
                    return revocation
            await self.next()

    async def complete(self) -> WatchRevocationsResponse:
        while not (response := await self.next()).complete:
            pass
        return response

    async def end(self) -> grpc.aio.AioRpcError:
        """Read until the stream fails."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.until(lambda: False)
        return error.value


@asynccontextmanager
async def watching(
    service: Service, cursor: str = "", caller: str = "edge"
) -> AsyncIterator[Stream]:
    call = service.sessions(caller).WatchRevocations(WatchRevocationsRequest(cursor=cursor))
    try:
        yield Stream(call, cursor)
    finally:
        call.cancel()


async def _revoke(service: Service, session_id: str) -> None:
    await service.sessions().RevokeSession(RevokeSessionRequest(session_id=session_id))


async def test_new_watcher_is_sent_what_concerns_tokens_of_a_longer_lifetime_set_before(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    days = with_changes(live_settings, "tokens", access_lifetime=timedelta(days=5))
    before = await start_service(days, clock)
    session_id = (await before.new_session()).session_id
    await _revoke(before, session_id)
    await before.app.stop()
    clock.advance(timedelta(days=4))
    after = await start_service(live_settings, clock)
    async with watching(after) as stream:
        await stream.complete()
        (revocation,) = stream.revocations
        assert revocation.session_id == session_id
        expiry = revocation.expire_time.ToDatetime(UTC) - revocation.revoke_time.ToDatetime(UTC)
        assert expiry > timedelta(days=5)


async def test_revocation_matters_as_long_as_a_lifetime_says_that_the_replica_does_not_know_yet(
    start_service: StartService, live_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "_READ_SECONDS", 3_600.0)
    before = await start_service(live_settings)
    days = with_changes(live_settings, "tokens", access_lifetime=timedelta(days=5))
    after = await start_service(days)
    async with watching(before) as live:
        await live.complete()
        session_id = (await after.new_session()).session_id
        await _revoke(after, session_id)
        sent_at_once = await live.revoked(session_id)
    async with watching(before) as late:
        sent_later = await late.revoked(session_id)
    for revocation in (sent_at_once, sent_later):
        expiry = revocation.expire_time.ToDatetime(UTC) - revocation.revoke_time.ToDatetime(UTC)
        assert expiry > timedelta(days=5)


async def test_revocation_is_seen_and_the_stream_resumed_on_another_replica(
    service: Service, start_service: StartService, live_settings: Settings
) -> None:
    tokens = [await service.new_session(f"u{number}@example.com") for number in range(3)]
    other = await start_service(live_settings)
    async with watching(service) as stream:
        await stream.complete()
        assert stream.revocations == []
        before = datetime.now(UTC)
        await _revoke(service, tokens[0].session_id)
        revocation = await stream.revoked(tokens[0].session_id)
        revoked = revocation.revoke_time.ToDatetime(UTC)
        assert abs(revoked - before) < timedelta(minutes=1)
        expiry = revocation.expire_time.ToDatetime(UTC) - revoked
        assert expiry > live_settings.tokens.access_lifetime + live_settings.tokens.clock_skew
    await _revoke(service, tokens[1].session_id)
    async with watching(other, stream.cursor) as resumed:
        await resumed.revoked(tokens[1].session_id)
        await _revoke(service, tokens[2].session_id)
        await resumed.revoked(tokens[2].session_id)
        assert len(resumed.revocations) == 2
    async with watching(other, caller="app") as beginner:
        await beginner.complete()
        assert [each.session_id for each in beginner.revocations] == [
            each.session_id for each in tokens
        ]


async def test_all_kinds_of_revocations_have_their_subject(service: Service) -> None:
    tokens = await service.new_session()
    async with watching(service) as stream:
        await stream.complete()
        [key] = await service.fetch("SELECT key_id FROM signing_keys WHERE state = 'active'")
        await service.admin().RevokeSigningKey(RevokeSigningKeyRequest(key_id=key["key_id"]))
        await stream.until(lambda: key["key_id"] in [each.key_id for each in stream.revocations])
        await service.sessions().RevokeUserSessions(
            RevokeUserSessionsRequest(user_id=tokens.user_id)
        )
        await stream.until(
            lambda: (
                tokens.user_id in [each.user_id for each in stream.revocations]
                or tokens.session_id in [each.session_id for each in stream.revocations]
            )
        )


@pytest.mark.parametrize("cursor", ["x", "AQ", "é", "A" * 16_385])
async def test_invalid_cursor_is_rejected(service: Service, cursor: str) -> None:
    async with watching(service, cursor) as stream:
        error = await stream.end()
    assert reason_of(error) == "FIELD_INVALID"
    assert fields_of(error) == ["cursor"]


async def test_cursor_that_names_very_many_transactions_is_refused(service: Service) -> None:
    """Each of them is looked up, so a caller must not name as many as a message has room for."""
    position = Position(UUID(int=7), 10_000, tuple(range(2_000)), datetime.now(UTC))
    cursor = write_watch_cursor(WatchCursor(position))
    async with watching(service, cursor) as stream:
        error = await stream.end()
    assert fields_of(error) == ["cursor"]


async def test_cursor_of_another_run_is_out_of_range(service: Service) -> None:
    async with watching(service) as stream:
        await stream.complete()
    await service.fetch("DELETE FROM server_runs")
    async with watching(service, stream.cursor) as stream:
        error = await stream.end()
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert reason_of(error) == "CURSOR_TOO_OLD"


@pytest.mark.parametrize("caller", ["issuer", "admin", "observer"])
async def test_others_may_not_watch(service: Service, caller: str) -> None:
    async with watching(service, caller=caller) as stream:
        assert reason_of(await stream.end()) == "CALLER_NOT_ALLOWED"


async def test_streams_of_a_caller_are_limited(
    start_service: StartService, live_settings: Settings
) -> None:
    grpc_settings = live_settings.grpc.model_copy(update={"max_concurrent_rpcs_per_caller": 2})
    service = await start_service(live_settings.model_copy(update={"grpc": grpc_settings}))
    async with watching(service) as one, watching(service) as two:
        await one.complete()
        await two.complete()
        async with watching(service) as third:
            error = await third.end()
        assert reason_of(error) == "OVERLOADED"
        async with watching(service, caller="app") as other:
            await other.complete()


async def test_streams_end_at_once_when_the_service_stops(
    start_service: StartService, live_settings: Settings
) -> None:
    """Although calls in progress would have an hour."""
    grpc_settings = live_settings.grpc.model_copy(update={"drain_timeout": timedelta(hours=1)})
    service = await start_service(live_settings.model_copy(update={"grpc": grpc_settings}))
    async with watching(service) as stream:
        await stream.complete()
        stopping = asyncio.create_task(service.app.stop())
        error = await stream.end()
        assert reason_of(error) == "SERVICE_STOPPING"
        await stopping


async def test_stream_survives_the_age_of_its_connection(
    start_service: StartService, live_settings: Settings, authority: Authority
) -> None:
    """gRPC ends it; what was revoked meanwhile is sent to the next one."""
    changes = {"max_connection_age": timedelta(seconds=1), "drain_timeout": timedelta(0)}
    lasting = await start_service(live_settings)
    tokens = await lasting.new_session()
    service = await start_service(
        live_settings.model_copy(update={"grpc": live_settings.grpc.model_copy(update=changes)})
    )
    async with watching(service) as stream:
        await stream.complete()
        error = await stream.end()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    clients = Clients(service.app.grpc_port, authority)
    again = Service(service.app, clients, service.settings)
    try:
        await _revoke(lasting, tokens.session_id)
        async with watching(again, stream.cursor) as resumed:
            await resumed.revoked(tokens.session_id)
    finally:
        await clients.close()
