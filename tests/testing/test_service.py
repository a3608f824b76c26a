"""The service that tests of other projects start: users in a line, real calls, no way in."""

import asyncio

import pytest

from authsvc.client.errors import CallerNotAllowed, EmailTaken
from authsvc.testing import TestService
from authsvc.v1.admin_service_pb2 import GetUserRequest
from authsvc.v1.auth_service_pb2 import RequestLoginCodeRequest, ValidateTokenRequest
from authsvc.v1.session_service_pb2 import ListSessionsRequest, ValidateSessionRequest


def test_users_are_unique_and_hold_their_roles(authsvc_service: TestService) -> None:
    one, other = authsvc_service.user(), authsvc_service.user(roles=["user"])
    assert one.email != other.email
    assert one.roles == other.roles == ("user",)
    with authsvc_service.client("admin") as client:
        stored = client.admin.GetUser(GetUserRequest(user_id=one.user_id)).user
    assert stored.email == one.email
    with pytest.raises(EmailTaken):
        authsvc_service.user(one.email)


def test_tokens_and_sessions_are_the_real_ones(authsvc_service: TestService) -> None:
    user = authsvc_service.user()
    logged_in = authsvc_service.tokens(user, ip="203.0.113.7")
    opened = authsvc_service.session(user, methods=["hwk"], device_id="phone")
    with authsvc_service.client("edge") as edge, authsvc_service.client() as app:
        for tokens in (logged_in, opened):
            request = ValidateTokenRequest(access_token=tokens.access_token)
            assert edge.auth.ValidateToken(request).claims.subject == user.user_id
            check = ValidateSessionRequest(session_token=tokens.session_token)
            assert edge.sessions.ValidateSession(check).active
        listed = app.sessions.ListSessions(ListSessionsRequest(user_id=user.user_id)).sessions
    assert {session.session_id for session in listed} == {logged_in.session_id, opened.session_id}
    assert {session.ip for session in listed} == {"203.0.113.7", ""}


async def test_async_client_runs_on_loop_of_its_test(authsvc_service: TestService) -> None:
    user = authsvc_service.user()
    tokens = authsvc_service.tokens(user)
    request = ValidateTokenRequest(access_token=tokens.access_token)
    async with authsvc_service.async_client("edge") as client:
        answers = await asyncio.gather(*(client.auth.ValidateToken(request) for _ in range(20)))
    assert {answer.claims.subject for answer in answers} == {user.user_id}


def test_roles_have_certificates_of_their_own(authsvc_service: TestService) -> None:
    files = authsvc_service.certificate("observer")
    assert files.cert.name == "observer.crt"
    assert files.cert.is_file()
    assert files.key.is_file()
    with authsvc_service.client("observer") as client, pytest.raises(CallerNotAllowed):
        client.admin.GetUser(GetUserRequest(user_id=authsvc_service.user().user_id))


def test_messages_bring_their_code(authsvc_service: TestService) -> None:
    user, other = authsvc_service.user(), authsvc_service.user()
    with authsvc_service.client() as client:
        client.auth.RequestLoginCode(RequestLoginCodeRequest(email=user.email))
    (message,) = authsvc_service.messages(user.email)
    assert message.email == user.email
    assert "log in" in message.subject
    assert len(message.code) == 8
    assert message.code.isdecimal()
    assert authsvc_service.messages(other.email, count=0) == []
    with pytest.raises(TimeoutError, match=f"0 of 1 messages to {other.email}"):
        authsvc_service.messages(other.email, timeout=0)
