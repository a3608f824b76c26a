"""AdminService over mutual TLS: the audit log, listed and watched."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.core.audit import listing
from authsvc.core.audit.recording import AuditEvent, AuditType, event_row
from authsvc.core.lib.clock import SystemClock
from authsvc.models.calls import Call, ClientContext
from authsvc.models.ids import SessionId, UserId
from authsvc.store import audit
from authsvc.v1.admin_service_pb2 import (
    AuditEventFilter,
    ListAuditEventsRequest,
    WatchAuditEventsRequest,
    WatchAuditEventsResponse,
)
from tests.support.databases import opened
from tests.support.probe import reason_of
from tests.support.service import Service, fields_of

_USER, _SESSION = uuid4(), uuid4()
_TYPES = [AuditType.LOGIN, AuditType.LOGOUT, AuditType.REFRESH]


async def _fill(service: Service) -> None:
    """Write 60 events, one a minute, the newest now."""
    now = SystemClock().now()
    async with (
        opened(service.settings.database.url.get_secret_value()) as database,
        database.transaction() as connection,
    ):
        for number in range(60):
            event = AuditEvent(
                _TYPES[number % 3],
                Call(f"r{number}", f"spiffe://test/{number % 4}"),
                UserId(_USER) if number % 5 == 0 else None,
                SessionId(_SESSION) if number % 6 == 0 else None,
                ClientContext(f"192.0.2.{number}" if number % 2 else f"2001:db8::{number:x}"),
                {"methods": ["pwd"]} if number % 3 == 0 else {},
            )
            row = event_row(now - timedelta(minutes=59 - number), event)
            await audit.insert(connection, row)


async def _listed(service: Service, page_size: int = 7, **request: object) -> list[int]:
    """Return the numbers of all events of a list, in its order."""
    found: list[int] = []
    token = ""
    while True:
        page = await service.admin("observer").ListAuditEvents(
            ListAuditEventsRequest(page_size=page_size, page_token=token, **request)  # type: ignore[arg-type] # any field
        )
        assert len(page.events) <= page_size
        # The service writes events of its own.
        found += [int(event.request_id[1:]) for event in page.events if event.request_id]
        token = page.next_page_token
        if not token:
            return found


async def test_every_filter_selects_by_page(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_LOOKS", 4)
    await _fill(service)
    newest = list(range(59, -1, -1))
    assert await _listed(service) == newest
    for fields, matches in (
        ({"types": ["user.login", "session.logout"]}, lambda n: n % 3 < 2),
        ({"user_id": str(_USER)}, lambda n: n % 5 == 0),
        ({"session_id": str(_SESSION)}, lambda n: n % 6 == 0),
        ({"caller": "spiffe://test/3"}, lambda n: n % 4 == 3),
        ({"network": "192.0.2.0/28"}, lambda n: n % 2 and n < 16),
        ({"network": "2001:db8::/32"}, lambda n: n % 2 == 0),
        ({"network": "192.0.2.7"}, lambda n: n == 7),
        ({"network": "::ffff:192.0.2.0/124"}, lambda n: n % 2 and n < 16),
        ({"request_id": "r31"}, lambda n: n == 31),
        ({"types": ["user.login"], "user_id": str(_USER)}, lambda n: n % 15 == 0),
        ({"types": ["no.such"]}, lambda _: False),
    ):
        wanted = AuditEventFilter(**fields)
        assert await _listed(service, filter=wanted) == [n for n in newest if matches(n)]


async def test_time_span_selects_from_its_start_until_before_its_end(service: Service) -> None:
    await _fill(service)
    page = await service.admin().ListAuditEvents(ListAuditEventsRequest(page_size=100))
    times = {
        int(event.request_id[1:]): event.occur_time for event in page.events if event.request_id
    }
    start, end = times[20], times[30]
    assert await _listed(service, start_time=start, end_time=end) == list(range(29, 19, -1))
    assert await _listed(service, start_time=times[30], end_time=times[20]) == []
    first = Timestamp(seconds=-62_135_596_800)
    last = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
    assert len(await _listed(service, start_time=first, end_time=last)) == 60


async def test_event_is_shown_whole(service: Service) -> None:
    await _fill(service)
    page = await service.admin().ListAuditEvents(
        ListAuditEventsRequest(filter=AuditEventFilter(request_id="r30"))
    )
    (event,) = page.events
    assert (event.type, event.caller) == ("user.login", "spiffe://test/2")
    assert (event.user_id, event.session_id) == (str(_USER), str(_SESSION))
    assert (event.ip, event.user_agent) == ("2001:db8::1e", "")
    assert json.loads(event.detail_json) == {"methods": ["pwd"]}


async def test_page_that_takes_too_long_is_short_and_can_be_continued(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a filter looks for, a call ends; the list does not."""
    monkeypatch.setattr(listing, "_LOOKS", 10)
    monkeypatch.setattr(listing, "_PATIENCE", 0.0)
    await _fill(service)
    wanted = AuditEventFilter(request_id="r3")
    request = ListAuditEventsRequest(filter=wanted)
    empty = 0
    while True:
        page = await service.admin().ListAuditEvents(request)
        if page.events:
            break
        empty += 1
        request.page_token = page.next_page_token
        assert request.page_token
    assert empty == 5
    assert await _listed(service, filter=wanted) == [3]


async def test_token_belongs_to_its_list(service: Service) -> None:
    await _fill(service)
    first = await service.admin().ListAuditEvents(ListAuditEventsRequest(page_size=1))
    for other in (
        ListAuditEventsRequest(filter=AuditEventFilter(types=["user.login"])),
        ListAuditEventsRequest(filter=AuditEventFilter(network="192.0.2.0/24")),
        ListAuditEventsRequest(end_time=Timestamp(seconds=1)),
    ):
        other.page_token = first.next_page_token
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.admin().ListAuditEvents(other)
        assert reason_of(error.value) == "FIELD_INVALID"
        assert fields_of(error.value) == ["page_token"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (AuditEventFilter(types=["x"] * 65), "filter.types"),
        (AuditEventFilter(types=["ok", "x" * 65]), "filter.types[1]"),
        (AuditEventFilter(types=[""]), "filter.types[0]"),
        (AuditEventFilter(user_id="u"), "filter.user_id"),
        (AuditEventFilter(session_id="s"), "filter.session_id"),
        (AuditEventFilter(caller="x" * 513), "filter.caller"),
        (AuditEventFilter(network="192.0.2.1/24"), "filter.network"),
        (AuditEventFilter(network="fe80::1%eth0"), "filter.network"),
        (AuditEventFilter(network="1"), "filter.network"),
        (AuditEventFilter(request_id="x" * 129), "filter.request_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_invalid_filter_is_rejected_by_both(
    service: Service, wanted: AuditEventFilter, field: str
) -> None:
    admin = service.admin("observer")
    with pytest.raises(grpc.aio.AioRpcError) as listed:
        await admin.ListAuditEvents(ListAuditEventsRequest(filter=wanted))
    with pytest.raises(grpc.aio.AioRpcError) as watched:
        await anext(aiter(admin.WatchAuditEvents(WatchAuditEventsRequest(filter=wanted))))
    for error in (listed.value, watched.value):
        assert reason_of(error) == "FIELD_INVALID"
        assert fields_of(error) == [field]


async def _until(
    stream: AsyncIterator[WatchAuditEventsResponse], event_type: str
) -> WatchAuditEventsResponse:
    async with asyncio.timeout(60):
        async for response in stream:
            if event_type in [event.type for event in response.events]:
                return response
    raise AssertionError("the stream ended")


async def test_login_is_seen_by_a_watcher_which_continues_by_its_cursor(service: Service) -> None:
    admin = service.admin("observer")
    stream = admin.WatchAuditEvents(WatchAuditEventsRequest())
    responses = aiter(stream)
    first = await anext(responses)
    assert first.cursor
    assert not first.events
    tokens = await service.new_session(ip="192.0.2.9")
    response = await _until(responses, "user.login")
    event = next(each for each in response.events if each.type == "user.login")
    assert (event.user_id, event.session_id) == (tokens.user_id, tokens.session_id)
    assert event.ip == "192.0.2.9"
    stream.cancel()
    await service.refresh(tokens.refresh_token)
    wanted = AuditEventFilter(types=["session.refresh", "user.login"])
    request = WatchAuditEventsRequest(cursor=response.cursor, filter=wanted)
    stream = admin.WatchAuditEvents(request)
    response = await _until(aiter(stream), "session.refresh")
    assert [each.type for each in response.events] == ["session.refresh"]
    stream.cancel()


@pytest.mark.parametrize("cursor", ["x", "AQ", "é", "A" * 16_385])
async def test_invalid_cursor_is_rejected(service: Service, cursor: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(aiter(service.admin().WatchAuditEvents(WatchAuditEventsRequest(cursor=cursor))))
    assert reason_of(error.value) == "FIELD_INVALID"
    assert fields_of(error.value) == ["cursor"]


async def test_cursor_of_another_run_is_out_of_range(service: Service) -> None:
    stream = service.admin().WatchAuditEvents(WatchAuditEventsRequest())
    first = await anext(aiter(stream))
    await service.fetch("DELETE FROM server_runs")
    stream.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await anext(
            aiter(service.admin().WatchAuditEvents(WatchAuditEventsRequest(cursor=first.cursor)))
        )
    assert error.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert reason_of(error.value) == "CURSOR_TOO_OLD"
