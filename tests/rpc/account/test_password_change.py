"""ChangePassword from its callers' side."""

from typing import Any

import pytest

from authsvc.v1.account_service_pb2 import ChangePasswordRequest
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.accounts import EMAIL, PASSWORD, WRONG
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, fields_of

NEW = "Sketch-Of-The-Engine-1842"


def change(service: Service, tokens: Tokens, **request: Any) -> Any:
    """Call ChangePassword, by default with valid passwords."""
    fields = {"current_password": PASSWORD, "new_password": NEW} | request
    return service.account().ChangePassword(
        ChangePasswordRequest(**fields),
        metadata=(("authorization", f"Bearer {tokens.access_token}"),),
    )


@pytest.mark.fast
@pytest.mark.parametrize("end", [True, False])
async def test_other_sessions_end_immediately_on_request(end: bool, service: Service) -> None:
    tokens, other = await service.new_session(), await service.login()
    assert await service.judge_token(other.access_token) == ""
    answer = await change(service, tokens, end_other_sessions=end)
    assert answer.ended_session_count == int(end)
    ended = "SESSION_REVOKED" if end else ""
    assert await service.judge_session(other.session_token, strict=True) == ended
    assert await service.judge_session(tokens.session_token, strict=True) == ""
    assert await outcome(service.refresh(tokens.refresh_token)) == "OK"
    assert await outcome(service.refresh(other.refresh_token)) == (
        "REFRESH_TOKEN_INVALID" if end else "OK"
    )
    assert await outcome(service.login()) == "CREDENTIALS_INVALID"
    assert await outcome(service.login(password=NEW)) == "OK"


async def test_guesses_with_stolen_token_are_throttled_by_ip(
    service: Service,
) -> None:
    tokens = await service.new_session(ip="192.0.2.1")
    client = ClientContext(ip="198.51.100.7")
    for _ in range(5):
        call = change(service, tokens, current_password=WRONG, client=client)
        assert await outcome(call) == "CREDENTIALS_INVALID"
    assert await outcome(change(service, tokens, client=client)) == "TOO_MANY_ATTEMPTS"
    assert await outcome(service.login(ip="198.51.100.7")) == "TOO_MANY_ATTEMPTS"
    assert await outcome(service.login(ip="192.0.2.1")) == "OK"


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        ({"new_password": ""}, "FIELD_INVALID", "new_password"),
        ({"new_password": "x" * 1_025}, "FIELD_INVALID", "new_password"),
        ({"new_password": "a\0b"}, "FIELD_INVALID", "new_password"),
        ({"current_password": ""}, "FIELD_INVALID", "current_password"),
        ({"current_password": "a\0b"}, "FIELD_INVALID", "current_password"),
        ({"new_password": "password1234"}, "PASSWORD_WEAK", "new_password"),
        ({"new_password": PASSWORD}, "PASSWORD_WEAK", "new_password"),
        ({"client": ClientContext(ip="nowhere")}, "FIELD_INVALID", "client.ip"),
    ],
)
async def test_rejected_field_is_named(
    request_: dict[str, Any], reason: str, field: str, service: Service
) -> None:
    tokens = await service.new_session()
    error = await failure(change(service, tokens, **request_))
    assert (reason_of(error), set(fields_of(error))) == (reason, {field})
    assert await outcome(service.login()) == "OK"


async def test_first_password_requires_recent_login(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    await timed.fetch("UPDATE users SET password_hash = NULL, pepper_id = NULL")
    clock.advance(601)
    assert await outcome(change(timed, tokens, current_password="")) == "REAUTHENTICATION_REQUIRED"
    recent = await timed.create_session(tokens.user_id)
    assert await outcome(change(timed, recent, current_password="")) == "OK"
    assert await outcome(timed.login(EMAIL, NEW)) == "OK"


async def test_change_with_current_password_requires_no_recent_login(
    timed: Service, clock: FakeClock
) -> None:
    tokens = await timed.new_session()
    clock.advance(601)
    assert await outcome(change(timed, tokens)) == "OK"
