"""The request id in a response leads to the log and to the audit events of the call."""

import io
import json
from collections.abc import Iterator

import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.v1.auth_service_pb2 import LoginRequest, ValidateTokenRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import EMAIL, PASSWORD, WRONG
from tests.support.logs import caught
from tests.support.probe import failure, request_id_of
from tests.support.service import Service, StartService

CLIENT = ClientContext(ip="192.0.2.1")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    with caught() as stream:
        yield stream


@pytest_asyncio.fixture
async def logging_service(
    lines: io.StringIO, start_service: StartService, live_settings: Settings
) -> Service:
    """As `service`, logging to `lines`."""
    return await start_service(live_settings)


def events_of(lines: io.StringIO, request_id: str) -> list[str]:
    """Return the log events of a call, and the types of its audit events."""
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    found = [entry for entry in entries if entry.get("request_id") == request_id]
    return [entry.get("type", entry["event"]) for entry in found]


async def audited(service: Service, request_id: str) -> list[str]:
    rows = await service.fetch(
        "SELECT type FROM audit_events WHERE request_id = $1 ORDER BY event_id", request_id
    )
    return [row["type"] for row in rows]


async def test_successful_call_is_traceable_by_request_id(
    logging_service: Service, lines: io.StringIO
) -> None:
    await logging_service.register()
    call = logging_service.auth().Login(
        LoginRequest(email=EMAIL, password=PASSWORD, client=CLIENT),
        metadata=[("x-request-id", "from-the-edge")],
    )
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "from-the-edge"
    assert await audited(logging_service, "from-the-edge") == ["user.login"]
    assert events_of(lines, "from-the-edge") == ["user.login", "call"]


@pytest.mark.fast
async def test_failed_call_is_traceable_by_request_id(
    logging_service: Service, lines: io.StringIO
) -> None:
    request = LoginRequest(email=EMAIL, password=WRONG, client=CLIENT)
    request_id = request_id_of(await failure(logging_service.auth().Login(request)))
    assert await audited(logging_service, request_id) == ["user.login_failure"]
    assert events_of(lines, request_id) == ["user.login_failure", "call_failed"]


async def test_read_only_call_is_traceable_at_debug_level(
    logging_service: Service, lines: io.StringIO
) -> None:
    call = logging_service.auth().ValidateToken(ValidateTokenRequest(access_token="x"))
    await call
    request_id = str(dict(await call.trailing_metadata())["x-request-id"])
    assert events_of(lines, request_id) == ["call"]
    assert await audited(logging_service, request_id) == []
