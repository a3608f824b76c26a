"""The lookup, listing and ending of sessions, from a calling service's side."""

from datetime import timedelta
from uuid import UUID

import grpc
import pytest

from authsvc.config import Settings
from authsvc.v1 import session_service_pb2 as pb
from tests.support.accounts import IP
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of

NOBODY = str(UUID(int=1))


async def revoked(service: Service, session_id: str) -> str:
    """Return the outcome of a revocation."""
    return await outcome(
        service.sessions().RevokeSession(pb.RevokeSessionRequest(session_id=session_id))
    )


async def revoke_all(service: Service, user_id: str, spared: str = "") -> int:
    response = await service.sessions().RevokeUserSessions(
        pb.RevokeUserSessionsRequest(user_id=user_id, except_session_id=spared)
    )
    return response.revoked_count


# GetSession


@pytest.mark.fast
async def test_ended_session_is_still_found(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session(ip=IP)
    clock.advance(5)
    await revoked(timed, tokens.session_id)
    session = await timed.get_session(tokens.session_id)
    assert (session.user_id, session.ip) == (tokens.user_id, IP)
    assert session.revoke_time.ToSeconds() == session.create_time.ToSeconds() + 5
    assert session.revoke_reason == pb.REVOKE_REASON_REVOKED


async def test_unknown_session_is_not_found(service: Service) -> None:
    request = pb.GetSessionRequest(session_id=NOBODY)
    error = await failure(service.sessions().GetSession(request))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert await revoked(service, NOBODY) == "SESSION_NOT_FOUND"


@pytest.mark.parametrize("text", ["", "x", NOBODY.upper() + "F", "{" + NOBODY + "}", NOBODY[:-1]])
async def test_session_id_must_be_canonical_uuid(text: str, service: Service) -> None:
    sessions = service.sessions()
    for call in (
        sessions.GetSession(pb.GetSessionRequest(session_id=text)),
        sessions.RevokeSession(pb.RevokeSessionRequest(session_id=text)),
    ):
        error = await failure(call)
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["session_id"])


async def test_upper_case_id_is_rejected(service: Service) -> None:
    tokens = await service.new_session()
    assert await revoked(service, tokens.session_id.upper()) == "FIELD_INVALID"
    assert await service.judge_session(tokens.session_token) == ""


# ListSessions


async def test_pages_list_all_sessions_newest_first(service: Service) -> None:
    user_id = await service.register()
    ids = [(await service.create_session(user_id)).session_id for _ in range(5)]
    await service.new_session("b@example.test")
    seen, token = [], ""
    while True:
        response = await service.sessions().ListSessions(
            pb.ListSessionsRequest(user_id=user_id, page_size=2, page_token=token)
        )
        seen.append([session.session_id for session in response.sessions])
        token = response.next_page_token
        if not token:
            break
    assert seen == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


async def test_full_last_page_has_no_next_page_token(service: Service) -> None:
    user_id = await service.register()
    for _ in range(2):
        await service.create_session(user_id)
    response = await service.sessions().ListSessions(
        pb.ListSessionsRequest(user_id=user_id, page_size=2)
    )
    assert (len(response.sessions), response.next_page_token) == (2, "")


async def test_session_ended_between_pages_does_not_shift_others(service: Service) -> None:
    user_id = await service.register()
    ids = [(await service.create_session(user_id)).session_id for _ in range(4)]
    request = pb.ListSessionsRequest(user_id=user_id, page_size=2)
    first = await service.sessions().ListSessions(request)
    await revoked(service, ids[2])
    await revoked(service, ids[1])
    request.page_token = first.next_page_token
    second = await service.sessions().ListSessions(request)
    assert [session.session_id for session in second.sessions] == [ids[0]]


async def test_only_active_sessions_are_listed(timed: Service, clock: FakeClock) -> None:
    old = await timed.new_session()
    clock.advance(timedelta(days=1))
    ended, new = await timed.login(), await timed.login()
    await revoked(timed, ended.session_id)
    assert await timed.list_sessions(old.user_id) == [new.session_id, old.session_id]
    clock.advance(timedelta(days=6))
    assert await timed.list_sessions(old.user_id) == [new.session_id]


async def test_user_without_sessions_gets_empty_list(service: Service) -> None:
    assert await service.list_sessions(await service.register()) == []
    assert await service.list_sessions(NOBODY) == []


async def test_page_size_is_at_most_a_thousand(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "sessions", max_per_user=60))
    user_id = await service.register()
    for _ in range(51):
        await service.create_session(user_id)
    for size, held in ((0, 50), (1_000, 51)):
        response = await service.sessions().ListSessions(
            pb.ListSessionsRequest(user_id=user_id, page_size=size)
        )
        assert len(response.sessions) == held
    for size in (-1, 1_001):
        request = pb.ListSessionsRequest(user_id=user_id, page_size=size)
        error = await failure(service.sessions().ListSessions(request))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["page_size"])


async def test_page_token_is_bound_to_user(service: Service) -> None:
    tokens = await service.new_session()
    await service.login()
    stranger = await service.register("b@example.test")
    request = pb.ListSessionsRequest(user_id=tokens.user_id, page_size=1)
    page = await service.sessions().ListSessions(request)
    for user_id, token in ((stranger, page.next_page_token), (tokens.user_id, "x")):
        error = await failure(
            service.sessions().ListSessions(
                pb.ListSessionsRequest(user_id=user_id, page_token=token)
            )
        )
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["page_token"])


# RevokeSession


@pytest.mark.fast
async def test_revoke_ends_only_its_session(service: Service) -> None:
    tokens, other = await service.new_session(), await service.login()
    assert await revoked(service, tokens.session_id) == "OK"
    for strict in (True, False):
        state = await service.judge_session(tokens.session_token, strict=strict)
        assert state == "SESSION_REVOKED"
        state = await service.judge_token(tokens.access_token, strict=strict)
        assert state == "SESSION_REVOKED"
    assert await service.list_sessions(tokens.user_id) == [other.session_id]
    assert await service.judge_token(other.access_token) == ""


async def test_revoking_twice_is_harmless(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    assert await revoked(timed, tokens.session_id) == "OK"
    first = await timed.get_session(tokens.session_id)
    clock.advance(60)
    assert await revoked(timed, tokens.session_id) == "OK"
    assert await timed.get_session(tokens.session_id) == first
    assert len(await timed.fetch("SELECT 1 FROM revocations")) == 1


# RevokeUserSessions


@pytest.mark.fast
async def test_revoke_all_ends_every_session_of_user(service: Service) -> None:
    opened = [await service.new_session(), await service.login(), await service.login()]
    other = await service.new_session("b@example.test")
    user_id = opened[0].user_id
    assert await revoke_all(service, user_id) == 3
    for tokens in opened:
        assert await service.judge_session(tokens.session_token) == "SESSION_REVOKED"
        assert await service.judge_token(tokens.access_token) == "SESSION_REVOKED"
    assert await service.list_sessions(user_id) == []
    assert await revoke_all(service, user_id) == 0
    assert await service.judge_session(other.session_token) == ""


async def test_revoke_all_can_spare_one_session(service: Service) -> None:
    opened = [await service.new_session(), await service.login(), await service.login()]
    user_id, spared = opened[1].user_id, opened[1].session_id
    assert await revoke_all(service, user_id, spared) == 2
    assert await service.list_sessions(user_id) == [spared]
    assert await service.judge_session(opened[1].session_token) == ""
    assert await service.judge_session(opened[0].session_token) == "SESSION_REVOKED"


async def test_sparing_session_of_another_user_has_no_effect(service: Service) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.test")
    assert await revoke_all(service, tokens.user_id, other.session_id) == 1
    assert await service.judge_session(other.session_token) == ""


async def test_revoke_all_of_unknown_user_ends_nothing(service: Service) -> None:
    assert await revoke_all(service, NOBODY) == 0
    for field, request in (
        ("user_id", pb.RevokeUserSessionsRequest()),
        ("except_session_id", pb.RevokeUserSessionsRequest(user_id=NOBODY, except_session_id="x")),
    ):
        error = await failure(service.sessions().RevokeUserSessions(request))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
