"""AccountService from its callers' side: it acts for the user of the access token."""

from datetime import UTC
from typing import Any

import grpc
import pytest

from authsvc.v1.account_service_pb2 import GetAccountRequest, UpdateAccountRequest
from authsvc.v1.auth_service_pb2 import LogoutRequest, RegisterRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of
from tests.support.service import Service, fields_of


def get_account(service: Service, *authorizations: str, caller: str = "app") -> Any:
    """Call GetAccount with these authorizations."""
    metadata = tuple(("authorization", text) for text in authorizations)
    return service.account(caller).GetAccount(GetAccountRequest(), metadata=metadata)


@pytest.mark.fast
async def test_account_of_token_user_is_returned(timed: Service, clock: FakeClock) -> None:
    await timed.auth().Register(
        RegisterRequest(email=EMAIL, password=PASSWORD, display_name="Ada 🧮")
    )
    tokens, other = await timed.login(), await timed.new_session("b@example.test")
    account = (await get_account(timed, f"Bearer {tokens.access_token}")).account
    assert (account.user_id, account.email) == (tokens.user_id, EMAIL)
    assert (account.display_name, list(account.roles)) == ("Ada 🧮", ["user"])
    assert account.create_time.ToDatetime(UTC) == clock.now()
    account = (await get_account(timed, f"bearer {other.access_token}")).account
    assert (account.user_id, account.email) == (other.user_id, "b@example.test")


async def test_account_shows_verified_email_and_second_factor(
    timed: Service, clock: FakeClock
) -> None:
    bearer = f"Bearer {(await timed.new_session()).access_token}"
    account = (await get_account(timed, bearer)).account
    assert not account.HasField("email_verify_time")
    assert not account.has_second_factor
    await timed.fetch(
        "UPDATE users SET email_verify_time = $1, has_second_factor = true", clock.now()
    )
    account = (await get_account(timed, bearer)).account
    assert account.email_verify_time.ToDatetime(UTC) == clock.now()
    assert account.has_second_factor


def update_account(service: Service, access_token: str, display_name: str) -> Any:
    return service.account().UpdateAccount(
        UpdateAccountRequest(display_name=display_name),
        metadata=(("authorization", f"Bearer {access_token}"),),
    )


async def test_display_name_is_changed(service: Service) -> None:
    tokens, other = await service.new_session(), await service.new_session("b@example.test")
    for name in ("Ada 🧮", "", "é" * 128):
        answer = await update_account(service, tokens.access_token, name)
        assert answer.account.display_name == name
        account = (await get_account(service, f"Bearer {tokens.access_token}")).account
        assert account == answer.account
    account = (await get_account(service, f"Bearer {other.access_token}")).account
    assert account.display_name == ""
    [*events] = await service.fetch(
        "SELECT user_id, session_id, detail FROM audit_events WHERE type = 'user.update'"
    )
    event_of_change = (tokens.user_id, tokens.session_id, "{}")
    assert [tuple(map(str, event)) for event in events] == [event_of_change] * 3


@pytest.mark.parametrize("name", ["é" * 129, "a\0", "a\nb", "a\x1b[2J", "a\u2028b", "\x85"])
async def test_display_name_must_be_one_line_of_text(name: str, service: Service) -> None:
    tokens = await service.new_session()
    error = await failure(update_account(service, tokens.access_token, name))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["display_name"])
    request = RegisterRequest(email="other@example.test", password=PASSWORD, display_name=name)
    error = await failure(service.auth().Register(request))
    assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["display_name"])


async def test_exactly_one_active_bearer_token_is_required(
    timed: Service, clock: FakeClock
) -> None:
    tokens = await timed.new_session()
    good = f"Bearer {tokens.access_token}"
    rejected: dict[str, tuple[str, ...]] = {
        "none": (),
        "two": (good, good),
        "empty": ("",),
        "bare": (tokens.access_token,),
        "basic": (f"Basic {tokens.access_token}",),
        "refresh token": (f"Bearer {tokens.refresh_token}",),
        "session token": (f"Bearer {tokens.session_token}",),
        "cut": (good[:-1],),
        "longer": (good + "=",),
        "9 KiB": (f"Bearer {'x' * 9_216}",),
    }
    results = {}
    for case, authorizations in rejected.items():
        error = await failure(get_account(timed, *authorizations))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        results[case] = (reason_of(error), error.details())
    # The response doesn't reveal which of the cases it is.
    assert results == dict.fromkeys(rejected, ("BEARER_INVALID", results["none"][1]))
    assert await outcome(get_account(timed, good)) == "OK"
    clock.advance(3_600)
    assert await outcome(get_account(timed, good)) == "BEARER_INVALID"


async def test_bearer_token_of_ended_session_is_rejected(service: Service) -> None:
    tokens = await service.new_session()
    await service.auth().Logout(LogoutRequest(refresh_token=tokens.refresh_token))
    call = get_account(service, f"Bearer {tokens.access_token}")
    assert await outcome(call) == "BEARER_INVALID"


@pytest.mark.parametrize("statement", ["UPDATE users SET status = 'disabled'", "DELETE FROM users"])
async def test_bearer_token_of_disabled_or_deleted_user_is_rejected(
    statement: str, service: Service
) -> None:
    tokens = await service.new_session()
    # The session may still be cached, but the account is always read.
    assert await service.judge_token(tokens.access_token) == ""
    await service.fetch(statement)
    call = get_account(service, f"Bearer {tokens.access_token}")
    assert await outcome(call) == "BEARER_INVALID"


async def test_other_callers_cannot_act_for_user(service: Service) -> None:
    tokens = await service.new_session()
    for caller in ("edge", "issuer", "admin", "observer"):
        call = get_account(service, f"Bearer {tokens.access_token}", caller=caller)
        assert await outcome(call) == "CALLER_NOT_ALLOWED"
