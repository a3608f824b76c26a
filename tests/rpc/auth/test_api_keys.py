"""The validation of API keys by a gateway, and how fast they end on every replica."""

from datetime import UTC, timedelta
from typing import Any

import pytest

from authsvc.config import Settings
from authsvc.core.api_keys.key_text import new_api_key
from authsvc.models.calls import Call
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.common_pb2 import INACTIVE_REASON_UNSPECIFIED, InactiveReason, Tokens
from tests.support.accounts import EMAIL
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.passkeys import bearer
from tests.support.probe import failure, outcome
from tests.support.service import Service, StartService, fields_of

CLI = Call("request-1", "cli")


async def create(service: Service, tokens: Tokens, **more: Any) -> account_pb.CreateApiKeyResponse:
    return await service.account().CreateApiKey(
        account_pb.CreateApiKeyRequest(name="ci", **more), metadata=bearer(tokens)
    )


async def judge(
    service: Service, api_key: str, *scopes: str, caller: str = "edge"
) -> pb.ValidateApiKeyResponse:
    request = pb.ValidateApiKeyRequest(api_key=api_key, required_scopes=scopes)
    return await service.auth(caller).ValidateApiKey(request)


async def reason(service: Service, api_key: str, *scopes: str) -> str:
    """Return why a key is not active, or "" if it is; the response must not reveal more."""
    response = await judge(service, api_key, *scopes)
    assert response.active == (response.inactive_reason == INACTIVE_REASON_UNSPECIFIED)
    if response.active:
        return ""
    fields = {field.name for field, _ in response.ListFields()}
    assert fields <= {"inactive_reason", "retry_after"}
    return InactiveReason.Name(response.inactive_reason).removeprefix("INACTIVE_REASON_")


@pytest.mark.fast
@pytest.mark.parametrize("caller", ["edge", "app"])
async def test_active_key_is_valid(caller: str, timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    created = await create(timed, tokens, scopes=["read"])
    for _ in range(2):
        response = await judge(timed, created.api_key, "read", caller=caller)
        assert response == pb.ValidateApiKeyResponse(
            active=True,
            user_id=tokens.user_id,
            key_id=created.key.key_id,
            scopes=["read"],
            expire_time=created.key.expire_time,
        )
    assert response.expire_time.ToDatetime(UTC) == clock.now() + timedelta(days=365)


async def test_each_inactive_reason_is_reported(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    short, created = [
        await create(timed, tokens, scopes=["read"], lifetime=lifetime)
        for lifetime in (timedelta(minutes=1), timedelta(days=1))
    ]
    assert await reason(timed, "x") == "MALFORMED"
    assert await reason(timed, "x" * 60_000) == "MALFORMED"
    assert await reason(timed, created.api_key + "x") == "MALFORMED"
    assert await reason(timed, tokens.access_token) == "MALFORMED"
    assert await reason(timed, new_api_key("authsvc")) == "KEY_UNKNOWN"
    assert await reason(timed, created.api_key, "write") == "SCOPE_MISSING"
    clock.advance(60)
    assert await reason(timed, short.api_key) == "EXPIRED"
    assert await reason(timed, created.api_key) == ""


async def test_key_is_required(service: Service) -> None:
    error = await failure(service.auth("edge").ValidateApiKey(pb.ValidateApiKeyRequest()))
    assert fields_of(error) == ["api_key"]
    request = pb.ValidateApiKeyRequest(api_key="x", required_scopes=[""])
    error = await failure(service.auth("edge").ValidateApiKey(request))
    assert fields_of(error) == ["required_scopes[0]"]
    for caller in ("issuer", "admin", "observer"):
        call = service.auth(caller).ValidateApiKey(pb.ValidateApiKeyRequest(api_key="x"))
        assert await outcome(call) == "CALLER_NOT_ALLOWED"


async def test_rate_limited_key_returns_retry_after(service: Service) -> None:
    created = await create(service, await service.new_session(), policy="upload")
    reasons = [await reason(service, created.api_key) for _ in range(11)]
    assert reasons == [""] * 10 + ["RATE_LIMITED"]
    response = await judge(service, created.api_key)
    assert 0 < response.retry_after.ToNanoseconds() <= 360 * 10**9


async def test_last_use_is_reported(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    created = await create(timed, tokens)
    await judge(timed, created.api_key)

    async def is_reported() -> bool:
        response = await timed.account().ListApiKeys(
            account_pb.ListApiKeysRequest(), metadata=bearer(tokens)
        )
        return response.keys[0].last_use_time.ToDatetime(UTC) == clock.now()

    await until(is_reported)


async def test_revoked_keys_end_on_every_replica(
    start_service: StartService, live_settings: Settings
) -> None:
    here, there = [await start_service(live_settings) for _ in range(2)]
    owner, bystander = await here.new_session(), await here.new_session("b@example.test")
    revoked, ended = await create(here, owner), await create(here, owner)
    other = await create(here, bystander)
    for created in (revoked, ended, other):
        assert await reason(there, created.api_key) == ""

    async def wait_for_reason(created: account_pb.CreateApiKeyResponse, expected: str) -> None:
        async def has_reason() -> bool:
            return await reason(there, created.api_key) == expected

        await until(has_reason)

    await here.account().RevokeApiKey(
        account_pb.RevokeApiKeyRequest(key_id=revoked.key.key_id), metadata=bearer(owner)
    )
    assert await reason(here, revoked.api_key) == "KEY_REVOKED"
    await wait_for_reason(revoked, "KEY_REVOKED")
    assert await reason(there, ended.api_key) == ""
    await here.app._parts.use.accounts.disable(CLI, EMAIL)
    await wait_for_reason(ended, "USER_DISABLED")
    await here.app._parts.use.accounts.enable(CLI, EMAIL)
    assert await reason(there, ended.api_key) == ""
    await here.account().DeleteAccount(
        account_pb.DeleteAccountRequest(), metadata=bearer(await here.login())
    )
    await wait_for_reason(ended, "KEY_UNKNOWN")
    assert await reason(there, other.api_key) == ""
