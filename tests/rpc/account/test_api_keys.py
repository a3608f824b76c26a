"""A user's own API keys, created, listed and revoked by a calling service."""

from datetime import UTC, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo

from authsvc.config import Settings
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.common_pb2 import Tokens
from tests.support.clock import FakeClock
from tests.support.passkeys import bearer
from tests.support.probe import details_of, failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of

NOBODY = str(UUID(int=1))


def create(service: Service, tokens: Tokens, name: str = "ci", **more: Any) -> Any:
    """Call CreateApiKey."""
    request = pb.CreateApiKeyRequest(name=name, **more)
    return service.account().CreateApiKey(request, metadata=bearer(tokens))


def revoke(service: Service, tokens: Tokens, key_id: str) -> Any:
    """Call RevokeApiKey."""
    request = pb.RevokeApiKeyRequest(key_id=key_id)
    return service.account().RevokeApiKey(request, metadata=bearer(tokens))


async def page(
    service: Service, tokens: Tokens, size: int = 0, token: str = ""
) -> pb.ListApiKeysResponse:
    request = pb.ListApiKeysRequest(page_size=size, page_token=token)
    return await service.account().ListApiKeys(request, metadata=bearer(tokens))


@pytest.mark.fast
async def test_key_is_shown_once_and_identified_by_prefix(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    lifetime = Duration(seconds=90, nanos=500_000_000)
    created = await create(timed, tokens, "Büro", scopes=["read"], lifetime=lifetime, policy="api")
    key = created.key
    assert created.api_key.startswith(key.prefix)
    assert (key.name, list(key.scopes), key.policy) == ("Büro", ["read"], "api")
    assert key.create_time.ToDatetime(UTC) == clock.now()
    assert key.expire_time.ToDatetime(UTC) == clock.now() + timedelta(seconds=90.5)
    assert not key.HasField("last_use_time")
    assert not key.HasField("revoke_time")
    (listed,) = (await page(timed, tokens)).keys
    assert listed == key
    assert created.api_key not in str(await page(timed, tokens))


async def test_defaults_come_from_settings(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    changed = with_changes(
        live_settings, "api_keys", policy="upload", prefix="acme", max_lifetime=timedelta(days=2)
    )
    service = await start_service(changed, clock)
    tokens = await service.new_session()
    created = await create(service, tokens)
    assert created.api_key.startswith("acme_")
    assert (list(created.key.scopes), created.key.policy) == (["read", "write"], "upload")
    assert created.key.expire_time.ToDatetime(UTC) == clock.now() + timedelta(days=2)


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "x" * 65}),
        ("name", {"name": "é" * 33}),
        ("name", {"name": "a\0b"}),
        ("scopes", {"scopes": ["read"] * 65}),
        ("scopes[0]", {"scopes": [""]}),
        ("scopes[1]", {"scopes": ["read", "admin"]}),
        ("scopes[0]", {"scopes": ["invoices.read"]}),
        ("policy", {"policy": "API"}),
        ("lifetime", {"lifetime": Duration()}),
        ("lifetime", {"lifetime": Duration(seconds=59, nanos=999_999_999)}),
        ("lifetime", {"lifetime": Duration(seconds=60, nanos=-1)}),
        ("lifetime", {"lifetime": Duration(seconds=-60)}),
        ("lifetime", {"lifetime": Duration(seconds=60, nanos=1_000_000_000)}),
        ("lifetime", {"lifetime": Duration(seconds=365 * 86_400, nanos=1_000)}),
        ("lifetime", {"lifetime": Duration(seconds=2**63 - 1)}),
        ("lifetime", {"lifetime": Duration(seconds=-(2**63), nanos=-(2**31))}),
    ],
)
async def test_invalid_field_is_named(
    field: str, request_: dict[str, Any], service: Service
) -> None:
    tokens = await service.new_session()
    error = await failure(create(service, tokens, **request_))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
    assert not (await page(service, tokens)).keys


async def test_unknown_or_internal_policy_is_rejected(service: Service) -> None:
    tokens = await service.new_session()
    for policy in ("nobody-s", "authsvc.login.account"):
        error = await failure(create(service, tokens, policy=policy))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "POLICY_UNKNOWN")


async def test_create_requires_recent_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    clock.advance(601)
    tokens = await timed.refresh(tokens.refresh_token)
    error = await failure(create(timed, tokens))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(error) == "REAUTHENTICATION_REQUIRED"
    assert await outcome(create(timed, await timed.login())) == "OK"


async def test_create_beyond_limit_is_rejected(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "api_keys", max_per_user=1))
    tokens = await service.new_session()
    first = await create(service, tokens)
    error = await failure(create(service, tokens))
    info = ErrorInfo()
    assert details_of(error).details[0].Unpack(info)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (info.reason, dict(info.metadata)) == ("LIMIT_REACHED", {"limit": "1"})
    await revoke(service, tokens, first.key.key_id)
    assert await outcome(create(service, tokens)) == "OK"


async def test_list_is_paginated(service: Service) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.test")
    made = [(await create(service, tokens, str(n))).key.key_id for n in range(3)]
    first = await page(service, tokens, 2)
    second = await page(service, tokens, 2, first.next_page_token)
    assert [key.key_id for key in (*first.keys, *second.keys)] == made[::-1]
    assert second.next_page_token == ""
    assert not (await page(service, other)).keys
    for who, token in ((other, first.next_page_token), (tokens, "x")):
        error = await failure(page(service, who, 2, token))
        assert fields_of(error) == ["page_token"]
    for size in (-1, 1_001):
        assert fields_of(await failure(page(service, tokens, size))) == ["page_size"]


@pytest.mark.fast
async def test_revoked_key_stays_in_list(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    key_id = (await create(timed, tokens)).key.key_id
    clock.advance(5)
    for _ in range(2):
        assert await outcome(revoke(timed, tokens, key_id)) == "OK"
    (key,) = (await page(timed, tokens)).keys
    assert key.revoke_time.ToDatetime(UTC) == clock.now()


async def test_key_of_another_user_is_not_found(service: Service) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.test")
    key_id = (await create(service, tokens)).key.key_id
    for who, what in ((other, key_id), (tokens, NOBODY)):
        error = await failure(revoke(service, who, what))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert fields_of(await failure(revoke(service, tokens, "x"))) == ["key_id"]
    (key,) = (await page(service, tokens)).keys
    assert not key.HasField("revoke_time")


@pytest.mark.parametrize("statement", ["UPDATE users SET status = 'disabled'", "DELETE FROM users"])
async def test_disabled_or_deleted_user_cannot_create_key(statement: str, service: Service) -> None:
    tokens = await service.new_session()
    assert await service.judge_token(tokens.access_token) == ""
    await service.fetch(statement)
    assert await outcome(create(service, tokens)) == "BEARER_INVALID"


async def test_other_callers_are_rejected(service: Service) -> None:
    tokens = await service.new_session()
    account = service.account("edge")
    calls = (
        account.CreateApiKey(pb.CreateApiKeyRequest(name="ci"), metadata=bearer(tokens)),
        account.ListApiKeys(pb.ListApiKeysRequest(), metadata=bearer(tokens)),
        account.RevokeApiKey(pb.RevokeApiKeyRequest(key_id=NOBODY), metadata=bearer(tokens)),
    )
    assert [await outcome(call) for call in calls] == ["CALLER_NOT_ALLOWED"] * 3
    assert await outcome(service.account().ListApiKeys(pb.ListApiKeysRequest())) == "BEARER_INVALID"
