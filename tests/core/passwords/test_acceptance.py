"""Every place where a password is set asks for breached ones: by the charge, and over the API."""

from collections.abc import Awaitable, Callable

import aiohttp
import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest

from authsvc.config import PolicySettings, Settings
from authsvc.v1.account_service_pb2 import ChangePasswordRequest
from authsvc.v1.auth_service_pb2 import (
    RegisterRequest,
    RequestPasswordResetRequest,
    ResetPasswordRequest,
)
from authsvc.v1.common_pb2 import DELIVERY_RETURN, ClientContext
from tests.rpc.auth.test_codes import PORTAL, with_portal
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.breached import RangeServer
from tests.support.probe import outcome
from tests.support.provider import saying
from tests.support.service import Service, StartService, detail

BREACHED = "Analytical-Engine-Breached-1"
IP = "192.0.2.7"


@pytest.fixture
def settings_with(live_settings: Settings, ranges: RangeServer) -> Callable[..., Settings]:
    def settings_with(**more: object) -> Settings:
        ranges.counts[BREACHED] = 3
        passwords = cheap_passwords().model_copy(update={"breached": ranges.asked_by(**more)})
        changes = {"passwords": passwords, "brute_force": unlimited()}
        return with_portal(live_settings).model_copy(update=changes)

    return settings_with


@pytest_asyncio.fixture
async def asking(start_service: StartService, settings_with: Callable[..., Settings]) -> Service:
    """A service that refuses breached passwords, and all if it can't find out."""
    return await start_service(settings_with(on_failure="refuse"))


def register(service: Service, password: str, **client: str) -> Awaitable[object]:
    request = RegisterRequest(
        email="new@example.test", password=password, client=ClientContext(**client)
    )
    return service.auth().Register(request)


async def change(service: Service, password: str) -> object:
    tokens = await service.login()
    request = ChangePasswordRequest(current_password=PASSWORD, new_password=password)
    metadata = (("authorization", f"Bearer {tokens.access_token}"),)
    return await service.account().ChangePassword(request, metadata=metadata)


async def reset(service: Service, password: str) -> object:
    code = await service.auth(PORTAL).RequestPasswordReset(
        RequestPasswordResetRequest(email=EMAIL, delivery=DELIVERY_RETURN)
    )
    request = ResetPasswordRequest(email=EMAIL, code=code.code, new_password=password)
    return await service.auth().ResetPassword(request)


Set = Callable[[Service, str], Awaitable[object]]


@pytest.mark.parametrize("set_password", [register, change, reset])
async def test_breached_password_is_weak_wherever_it_is_set(
    set_password: Set, asking: Service, ranges: RangeServer
) -> None:
    await asking.register()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await set_password(asking, BREACHED)
    [violation] = detail(caught.value, BadRequest).field_violations
    assert violation.field in {"password", "new_password"}
    assert "in lists of breached passwords" in violation.description
    assert await outcome(set_password(asking, BREACHED)) == "PASSWORD_WEAK"
    ranges.handler = saying("", 500)
    assert await outcome(set_password(asking, "Difference-Engine-1822-x")) == "PROVIDER_UNAVAILABLE"
    ranges.handler = None
    assert await outcome(set_password(asking, "Difference-Engine-1822-x")) == "OK"


async def test_nobody_is_asked_before_the_charge(
    start_service: StartService, settings_with: Callable[..., Settings], ranges: RangeServer
) -> None:
    """Nor for a password that is refused anyway."""
    few = PolicySettings.model_validate({"requests": 2, "window": "1h"})
    limits = unlimited(registrations_per_ip=few, proofs_per_ip=few)
    service = await start_service(settings_with().model_copy(update={"brute_force": limits}))
    assert await outcome(register(service, "short", ip=IP)) == "PASSWORD_WEAK"
    assert ranges.asked == []
    assert await outcome(register(service, BREACHED, ip=IP)) == "PASSWORD_WEAK"
    assert len(ranges.asked) == 1
    assert await outcome(register(service, "Another-Engine-1843-x", ip=IP)) == "TOO_MANY_ATTEMPTS"
    request = ResetPasswordRequest(
        email=EMAIL, code="0" * 8, new_password="Another-Engine-1843-x", client=ClientContext(ip=IP)
    )
    for _ in range(3):
        last = await outcome(service.auth().ResetPassword(request))
    assert last == "TOO_MANY_ATTEMPTS"
    # Two wrong codes were let through, with one password.
    assert len(ranges.asked) == 2


async def test_metrics_count_requests_failures_and_refusals(
    asking: Service, ranges: RangeServer
) -> None:
    await outcome(register(asking, BREACHED))
    ranges.handler = saying("", 500)
    await outcome(register(asking, "Another-Engine-1843-x"))
    address = f"http://127.0.0.1:{asking.app.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        text = await response.text()
    assert "authsvc_breached_password_requests 2.0" in text
    assert "authsvc_breached_password_failures 1.0" in text
    assert "authsvc_breached_passwords_refused 1.0" in text
