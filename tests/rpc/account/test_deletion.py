"""A deleted account is gone: immediately, entirely, and despite concurrent calls."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from authsvc.config import Settings
from authsvc.core.lib.sealing import Keyring
from authsvc.core.messages import outbox
from authsvc.core.messages.outbox import MessageKind
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import ValidateApiKeyRequest
from authsvc.v1.common_pb2 import InactiveReason, Tokens
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.clock import FakeClock
from tests.support.databases import until
from tests.support.holdings import give_everything, tables_of_users, tables_that_say
from tests.support.probe import outcome
from tests.support.service import Service, StartService
from tests.test_contract import DOCUMENTED

OTHER = "b@example.test"
CLIENT = {"ip": "192.0.2.99", "user_agent": "Netscape/4", "device_id": "phone"}


def bearer(tokens: Tokens) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {tokens.access_token}"),)


def delete(service: Service, tokens: Tokens) -> Any:
    """Call DeleteAccount."""
    return service.account().DeleteAccount(pb.DeleteAccountRequest(), metadata=bearer(tokens))


async def test_only_events_without_personal_fields_remain(service: Service) -> None:
    tokens, other = await service.new_session(**CLIENT), await service.new_session(OTHER)
    await give_everything(service, tokens.user_id)
    everywhere = await tables_of_users(service) - {"revocations"}
    own = await service.fetch("SELECT * FROM audit_events WHERE user_id = $1", tokens.user_id)
    traces = (EMAIL, CLIENT["ip"], CLIENT["user_agent"], "phone")
    assert await tables_that_say(service, tokens.user_id, tokens.session_id) >= everywhere
    assert await tables_that_say(service, *traces)
    await delete(service, tokens)
    assert await tables_that_say(service, tokens.user_id) == {"audit_events", "revocations"}
    assert await tables_that_say(service, *traces) == set()
    assert [row["email"] for row in await service.fetch("SELECT email FROM users")] == [OTHER]
    left = await service.fetch("SELECT * FROM audit_events WHERE user_id = $1", tokens.user_id)
    kept = {event["event_id"]: (event["type"], event["occur_time"]) for event in own}
    assert {event["event_id"]: (event["type"], event["occur_time"]) for event in left} == kept | {
        event["event_id"]: (event["type"], event["occur_time"])
        for event in left
        if event["type"] == "user.delete"
    }
    assert len(left) == len(own) + 1
    assert {(event["ip"], event["user_agent"]) for event in left} == {(None, "")}
    assert await service.judge_token(other.access_token, strict=True) == ""


async def test_personal_event_details_are_removed(service: Service) -> None:
    tokens = await service.new_session()
    detail = {"cause": "password", "email": EMAIL, "name": "Ada's phone", "sessions": ["s"]}
    await service.fetch("UPDATE audit_events SET detail = $1", json.dumps(detail))
    await delete(service, tokens)
    rows = await service.fetch("SELECT DISTINCT detail FROM audit_events WHERE type = 'user.login'")
    assert [json.loads(row["detail"]) for row in rows] == [{"cause": "password", "sessions": ["s"]}]


@pytest.mark.fast
async def test_tokens_sessions_and_credentials_stop_working(service: Service) -> None:
    tokens, second = await service.new_session(), await service.login()
    # Fills the caches.
    assert await service.judge_token(tokens.access_token) == ""
    assert await service.judge_session(second.session_token) == ""
    await delete(service, tokens)
    for session in (tokens, second):
        for strict in (False, True):
            judged = await service.judge_token(session.access_token, strict=strict)
            assert judged == "SESSION_UNKNOWN"
            judged = await service.judge_session(session.session_token, strict=strict)
            assert judged == "SESSION_UNKNOWN"
        assert await outcome(service.refresh(session.refresh_token)) == "REFRESH_TOKEN_INVALID"
        assert await outcome(delete(service, session)) == "BEARER_INVALID"
    assert await outcome(service.login()) == "CREDENTIALS_INVALID"

    revoked = await service.fetch("SELECT user_id, session_id FROM revocations")
    assert {tuple(row) for row in revoked} == {
        (UUID(tokens.user_id), None),
        (None, UUID(tokens.session_id)),
        (None, UUID(second.session_id)),
    }


async def test_api_keys_stop_working(service: Service) -> None:
    tokens = await service.new_session()
    made = await service.account().CreateApiKey(
        pb.CreateApiKeyRequest(name="key"), metadata=bearer(tokens)
    )

    async def judge() -> str:
        request = ValidateApiKeyRequest(api_key=made.api_key)
        answer = await service.auth("edge").ValidateApiKey(request)
        return "" if answer.active else InactiveReason.Name(answer.inactive_reason)

    assert await judge() == ""
    await delete(service, tokens)
    assert await judge() == "INACTIVE_REASON_KEY_UNKNOWN"


async def test_deletion_notifies_user(service: Service) -> None:
    tokens = await service.new_session()
    await delete(service, tokens)
    [row] = await service.fetch("SELECT * FROM outbox")
    assert (row["kind"], row["user_id"]) == ("account_deleted", None)
    keyring = Keyring(service.settings.secrets.keyring)
    kind = MessageKind(row["kind"])
    message = outbox.unseal(keyring, row["message_id"], kind, None, row["sealed_content"])
    assert message.address == EMAIL


async def test_address_is_free_immediately(service: Service) -> None:
    tokens = await service.new_session()
    await delete(service, tokens)
    again = await service.new_session()
    assert again.user_id != tokens.user_id
    assert await outcome(delete(service, tokens)) == "BEARER_INVALID"
    assert await service.judge_token(again.access_token, strict=True) == ""


async def test_deletion_requires_recent_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    clock.advance(601)
    assert await outcome(delete(timed, tokens)) == "REAUTHENTICATION_REQUIRED"
    assert await outcome(delete(timed, await timed.login())) == "OK"


async def test_hundred_concurrent_deletions_succeed_once(service: Service) -> None:
    tokens = await service.new_session()
    outcomes = Counter(
        await asyncio.gather(*(outcome(delete(service, tokens)) for _ in range(100)))
    )
    assert outcomes == {"OK": 1, "BEARER_INVALID": 99}
    [[messages]] = await service.fetch("SELECT count(*) FROM outbox")
    [[events]] = await service.fetch("SELECT count(*) FROM audit_events WHERE type = 'user.delete'")
    assert (messages, events) == (1, 1)


async def test_deletion_reaches_other_replicas(
    service: Service, start_service: StartService, live_settings: Settings
) -> None:
    replica = await start_service(live_settings)
    tokens = await service.new_session()
    assert await replica.judge_token(tokens.access_token) == ""
    await delete(service, tokens)

    async def is_heard() -> bool:
        return await replica.judge_token(tokens.access_token) == "SESSION_UNKNOWN"

    await until(is_heard)


# Every RPC of AccountService, racing with the deletion

ID = "01b8dac5-b400-75e2-a9ec-f987224bcc24"
REQUESTS: Mapping[str, Callable[[], Message]] = {
    "GetAccount": pb.GetAccountRequest,
    "UpdateAccount": lambda: pb.UpdateAccountRequest(display_name="Ada"),
    "ChangePassword": lambda: pb.ChangePasswordRequest(
        current_password=PASSWORD, new_password=f"{random.random()}-Engine", end_other_sessions=True
    ),
    "RequestEmailChange": lambda: pb.RequestEmailChangeRequest(new_email="new@example.test"),
    "ConfirmEmailChange": lambda: pb.ConfirmEmailChangeRequest(
        new_email="new@example.test", code="12345678"
    ),
    "ListFactors": pb.ListFactorsRequest,
    "EnrollTotp": lambda: pb.EnrollTotpRequest(name="phone"),
    "ConfirmTotp": lambda: pb.ConfirmTotpRequest(factor_id=ID, code="123456"),
    "BeginPasskeyRegistration": pb.BeginPasskeyRegistrationRequest,
    "FinishPasskeyRegistration": lambda: pb.FinishPasskeyRegistrationRequest(
        challenge_id=ID, credential_json="{}"
    ),
    "RemoveFactor": lambda: pb.RemoveFactorRequest(factor_id=ID),
    "GenerateRecoveryCodes": pb.GenerateRecoveryCodesRequest,
    "ListIdentities": pb.ListIdentitiesRequest,
    "UnlinkIdentity": lambda: pb.UnlinkIdentityRequest(provider="github", subject="4711"),
    "CreateApiKey": lambda: pb.CreateApiKeyRequest(name="key"),
    "ListApiKeys": pb.ListApiKeysRequest,
    "RevokeApiKey": lambda: pb.RevokeApiKeyRequest(key_id=ID),
    "ListSecurityEvents": pb.ListSecurityEventsRequest,
    "ExportData": pb.ExportDataRequest,
    "DeleteAccount": pb.DeleteAccountRequest,
}
METHODS = pb.DESCRIPTOR.services_by_name["AccountService"].methods_by_name


async def call(service: Service, name: str, tokens: Tokens) -> None:
    answer = getattr(service.account(), name)(REQUESTS[name](), metadata=bearer(tokens))
    if METHODS[name].server_streaming:
        async for _ in answer:
            pass
    else:
        await answer


@pytest_asyncio.fixture
async def free(start_service: StartService, live_settings: Settings) -> Service:
    """A service with cheap passwords and without limits on attempts."""
    changes = {"brute_force": unlimited(), "passwords": cheap_passwords()}
    return await start_service(live_settings.model_copy(update=changes))


@pytest.mark.world  # 20 cases of several seconds
@pytest.mark.parametrize("name", METHODS)
async def test_calls_in_flight_end_with_documented_reasons(name: str, free: Service) -> None:
    allowed = {"OK", *DOCUMENTED[f"/authsvc.v1.AccountService/{name}"].reasons} - {"FIELD_INVALID"}
    for number in range(4):
        tokens = await free.new_session(f"user{number}@example.test")
        await give_everything(free, tokens.user_id)
        calls = [outcome(call(free, name, tokens)) for _ in range(12)]
        deletion = outcome(delete(free, tokens))
        # The deletion starts among the others.
        results = await asyncio.gather(*calls[: 3 * number], deletion, *calls[3 * number :])
        assert set(results) <= allowed | {"BEARER_INVALID"}, results
        assert await outcome(call(free, name, tokens)) == "BEARER_INVALID"
        assert await tables_that_say(free, tokens.user_id) <= {"audit_events", "revocations"}
