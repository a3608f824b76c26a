"""SessionService from its callers' side: the whole application, over mutual TLS."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest

from authsvc.config import Settings
from authsvc.core.sessions.secrets import new_session_token
from authsvc.v1 import session_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import ValidateTokenRequest
from authsvc.v1.common_pb2 import ClientContext
from tests.support.accounts import IP, OTHER_IP
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of, inactive

NOBODY = str(UUID(int=1))
DAY = timedelta(days=1)


# ValidateSession


@pytest.mark.fast
async def test_session_is_returned_as_opened(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session(ip="2001:DB8::0:1", user_agent="Browser/1", device_id="phone")
    response = await timed.sessions("edge").ValidateSession(
        pb.ValidateSessionRequest(session_token=tokens.session_token)
    )
    session, now = response.session, int(clock.now().timestamp())
    assert response.active
    assert (session.session_id, session.user_id) == (tokens.session_id, tokens.user_id)
    assert (session.ip, session.user_agent, session.device_id) == (
        *("2001:db8::1", "Browser/1", "phone"),
    )
    assert session.create_time.ToSeconds() == session.last_use_time.ToSeconds() == now
    assert session.idle_expire_time.ToSeconds() == now + 7 * 86_400
    assert session.absolute_expire_time.ToSeconds() == now + 30 * 86_400
    assert list(session.authentication_methods) == ["pwd"]
    assert not session.HasField("revoke_time")
    assert session == await timed.get_session(tokens.session_id)


@pytest.mark.fast
async def test_csrf_token_is_bound_to_its_session(service: Service) -> None:
    tokens, other = await service.new_session(), await service.login()

    async def is_valid(csrf_token: str) -> bool:
        response = await service.sessions("edge").ValidateSession(
            pb.ValidateSessionRequest(session_token=tokens.session_token, csrf_token=csrf_token)
        )
        assert response.active
        return response.csrf_valid

    assert await is_valid(tokens.csrf_token)
    for wrong in ("", "x", "a\0b", other.csrf_token, tokens.session_token, "x" * 10_000):
        assert not await is_valid(wrong)


async def test_each_inactive_reason_is_reported(timed: Service, clock: FakeClock) -> None:
    revoked, idle = await timed.new_session(), await timed.login()
    await timed.sessions().RevokeSession(pb.RevokeSessionRequest(session_id=revoked.session_id))
    assert await timed.judge_session(revoked.session_token) == "SESSION_REVOKED"
    assert await timed.judge_session(new_session_token()) == "SESSION_UNKNOWN"
    good = idle.session_token
    for garbage in ("x", good[:-1], good + "=", "a\0b", "é", "as1_" + "A" * 48, "x" * 9_216):
        assert await timed.judge_session(garbage) == "MALFORMED", garbage
    assert await timed.judge_session(good) == ""
    clock.advance(7 * DAY)
    assert await timed.judge_session(good) == "SESSION_EXPIRED"


async def test_session_of_a_disabled_user_is_inactive(service: Service) -> None:
    tokens = await service.new_session()
    await service.fetch("UPDATE users SET status = 'disabled'")
    assert await service.judge_session(tokens.session_token, strict=True) == "USER_DISABLED"


@pytest.mark.parametrize("strict", [False, True])
async def test_bound_session_is_rejected_for_other_client(
    strict: bool,
    start_service: StartService,
    live_settings: Settings,
) -> None:
    service = await start_service(
        with_changes(live_settings, "sessions", ip_binding="exact", user_agent_binding=True)
    )
    tokens = await service.new_session(ip=IP, user_agent="Browser/1")

    async def used_by(**client: str) -> str:
        context = ClientContext(**client)
        return await service.judge_session(tokens.session_token, client=context, strict=strict)

    assert await used_by(ip=IP, user_agent="Browser/1") == ""
    assert await used_by(ip=OTHER_IP, user_agent="Browser/1") == "IP_MISMATCH"
    assert await used_by(user_agent="Browser/1") == "IP_MISMATCH"
    assert await used_by(ip=IP, user_agent="Browser/2") == "USER_AGENT_MISMATCH"
    assert await used_by(ip=f"::ffff:{IP}", user_agent="Browser/1") == ""


async def test_use_keeps_session_alive_until_absolute_expiry(
    timed: Service, clock: FakeClock
) -> None:
    tokens = await timed.new_session()
    for _ in range(4):
        clock.advance(6 * DAY)
        assert await timed.judge_session(tokens.session_token) == ""
    clock.advance(6 * DAY - timedelta(seconds=1))
    assert await timed.judge_session(tokens.session_token) == ""
    clock.advance(1)
    assert await timed.judge_session(tokens.session_token) == "SESSION_EXPIRED"


async def test_revocation_reaches_other_replicas(
    start_service: StartService, live_settings: Settings
) -> None:
    one, two = await start_service(live_settings), await start_service(live_settings)
    tokens = await one.new_session()
    assert await two.judge_session(tokens.session_token) == ""
    await one.sessions().RevokeSession(pb.RevokeSessionRequest(session_id=tokens.session_id))
    assert await two.judge_session(tokens.session_token, strict=True) == "SESSION_REVOKED"
    async with asyncio.timeout(30):
        while await two.judge_session(tokens.session_token) != "SESSION_REVOKED":
            pass


# BatchValidateSessions


async def test_batch_returns_results_in_order_despite_garbage(service: Service) -> None:
    first, second = await service.new_session(), await service.new_session("b@example.test")
    check = pb.ValidateSessionRequest
    response = await service.sessions("edge").BatchValidateSessions(
        pb.BatchValidateSessionsRequest(
            checks=[
                check(session_token=first.session_token, csrf_token=first.csrf_token),
                check(session_token="a\0b"),
                check(session_token=second.session_token, csrf_token=first.csrf_token),
                check(session_token="x" * 100_000, csrf_token="x" * 100_000),
                check(session_token=new_session_token()),
                check(session_token=first.session_token, strict=True),
            ]
        )
    )
    assert [inactive(result) for result in response.results] == [
        *("", "MALFORMED", "", "MALFORMED", "SESSION_UNKNOWN", "")
    ]
    assert [result.csrf_valid for result in response.results] == [True] + [False] * 5
    users = [result.session.user_id for result in response.results]
    assert users == [first.user_id, "", second.user_id, "", "", first.user_id]


async def test_batch_size_is_one_to_a_thousand(service: Service) -> None:
    tokens = await service.new_session()
    one = pb.ValidateSessionRequest(session_token=tokens.session_token)
    validate = service.sessions("edge").BatchValidateSessions
    response = await validate(pb.BatchValidateSessionsRequest(checks=[one] * 1_000))
    assert [result.active for result in response.results] == [True] * 1_000
    for count in (0, 1_001):
        error = await failure(validate(pb.BatchValidateSessionsRequest(checks=[one] * count)))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["checks"])


async def test_invalid_check_is_named(service: Service) -> None:
    checks = [
        pb.ValidateSessionRequest(session_token="x"),
        pb.ValidateSessionRequest(session_token="x", client=ClientContext(ip="nowhere")),
    ]
    error = await failure(
        service.sessions("edge").BatchValidateSessions(
            pb.BatchValidateSessionsRequest(checks=checks)
        )
    )
    assert fields_of(error) == ["checks[1].client.ip"]


# CreateSession


@pytest.mark.fast
async def test_issuer_creates_session_for_authenticated_user(service: Service) -> None:
    user_id = await service.register()
    tokens = await service.create_session(user_id, "otp", "hwk", "otp", ip=IP)
    session = await service.get_session(tokens.session_id)
    assert (session.user_id, session.ip) == (user_id, IP)
    assert list(session.authentication_methods) == ["otp", "hwk"]
    assert await service.judge_session(tokens.session_token) == ""
    response = await service.auth("edge").ValidateToken(
        ValidateTokenRequest(access_token=tokens.access_token)
    )
    assert list(response.claims.authentication_methods) == ["otp", "hwk"]


async def test_sixth_session_replaces_oldest(service: Service) -> None:
    user_id = await service.register()
    opened = [await service.create_session(user_id) for _ in range(6)]
    ids = [tokens.session_id for tokens in opened]
    assert await service.list_sessions(user_id) == ids[:0:-1]
    assert await service.judge_session(opened[0].session_token) == "SESSION_REVOKED"
    oldest = await service.get_session(ids[0])
    assert oldest.revoke_reason == pb.REVOKE_REASON_REPLACED
    assert oldest.HasField("revoke_time")


async def test_unknown_or_disabled_user_gets_no_session(service: Service) -> None:
    user_id = await service.register()
    request = pb.CreateSessionRequest(user_id=NOBODY, authentication_methods=["pwd"])
    error = await failure(service.sessions("issuer").CreateSession(request))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND")
    await service.fetch("UPDATE users SET status = 'disabled'")
    request.user_id = user_id
    assert await outcome(service.sessions("issuer").CreateSession(request)) == "USER_NOT_FOUND"


BAD_CREATES: dict[str, dict[str, Any]] = {
    "user_id": {"user_id": NOBODY.replace("-", "")},
    "authentication_methods": {"authentication_methods": []},
    "authentication_methods[1]": {"authentication_methods": ["pwd", "PWD"]},
    "client.ip": {"client": ClientContext(ip="nowhere")},
}


@pytest.mark.parametrize("field", BAD_CREATES)
async def test_invalid_field_is_named(field: str, service: Service) -> None:
    good: dict[str, Any] = {"user_id": NOBODY, "authentication_methods": ["pwd"]}
    request = pb.CreateSessionRequest(**(good | BAD_CREATES[field]))
    error = await failure(service.sessions("issuer").CreateSession(request))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
