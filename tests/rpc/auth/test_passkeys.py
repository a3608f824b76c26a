"""Logins by passkey, from the callers' side."""

import asyncio
import json
from collections import Counter

import pytest
import pytest_asyncio

from authsvc.config import PolicySettings, Settings
from authsvc.dev.authenticator import Authenticator, encode
from authsvc.store.postgres.database import Database
from authsvc.v1.account_service_pb2 import ListFactorsRequest
from authsvc.v1.auth_service_pb2 import LoginRequest, ValidateTokenRequest, VerifyMfaRequest
from authsvc.v1.common_pb2 import Tokens
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.clock import FakeClock
from tests.support.passkeys import (
    NOBODY,
    ORIGIN,
    SoftDevice,
    allowed,
    bearer,
    begin_login,
    finish_login,
    login,
    new_holder,
)
from tests.support.probe import outcome, with_changes
from tests.support.service import Service, StartService


@pytest_asyncio.fixture
async def free(start_service: StartService, live_settings: Settings, clock: FakeClock) -> Service:
    """The whole application, without limits."""
    changes = {"brute_force": unlimited(), "passwords": cheap_passwords()}
    return await start_service(live_settings.model_copy(update=changes), clock)


@pytest.fixture
def device() -> Authenticator:
    return Authenticator(ORIGIN)


async def _methods(service: Service, tokens: Tokens) -> list[str]:
    request = ValidateTokenRequest(access_token=tokens.access_token)
    claims = (await service.auth("edge").ValidateToken(request)).claims
    return list(claims.authentication_methods)


@pytest.mark.fast
@pytest.mark.parametrize("email", ["", EMAIL, EMAIL.lower()])
async def test_passkey_alone_counts_as_both_factors(
    free: Service, device: Authenticator, email: str
) -> None:
    registered = await new_holder(free, EMAIL, device)
    tokens = await login(free, device, email)
    assert tokens.user_id == registered.user_id
    assert await free.judge_token(tokens.access_token) == ""
    assert await _methods(free, tokens) == ["hwk", "user", "mfa"]


async def test_passkey_login_sets_last_login_time(
    free: Service, device: Authenticator, clock: FakeClock, database: Database
) -> None:
    await new_holder(free, EMAIL, device)
    clock.advance(60)
    await login(free, device)
    async with database.connection() as connection:
        last_login_time = await connection.fetchval("SELECT last_login_time FROM users")
    assert last_login_time == clock.now()


async def test_begin_login_returns_request_options(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    anybody = json.loads((await begin_login(free)).options_json)
    assert (anybody["rpId"], anybody["allowCredentials"]) == ("localhost", [])
    assert (anybody["userVerification"], anybody["timeout"]) == ("required", 300_000)
    ada = await begin_login(free, EMAIL)
    assert allowed(ada.options_json) == [encode(device.credentials[0].credential_id)]
    challenges = {json.loads((await begin_login(free)).options_json)["challenge"] for _ in range(9)}
    assert len(challenges) == 9


async def test_synced_passkey_without_counter_is_accepted(free: Service) -> None:
    device = Authenticator(ORIGIN, synced=True)
    await new_holder(free, EMAIL, device)
    for _ in range(2):
        tokens = await login(free, device)
    assert await _methods(free, tokens) == ["swk", "user", "mfa"]


@pytest.mark.parametrize("soft", [False, True])
async def test_user_presence_suffices_for_second_factor(free: Service, soft: bool) -> None:
    device = SoftDevice() if soft else Authenticator(ORIGIN)
    if isinstance(device, Authenticator):
        device.verifies_user = False
    await new_holder(free, EMAIL, device)
    answer = await free.auth().Login(LoginRequest(email=EMAIL, password=PASSWORD))
    assert json.loads(answer.mfa.passkey_options_json)["userVerification"] == "preferred"
    assertion = device.get(answer.mfa.passkey_options_json)
    verified = await free.auth().VerifyMfa(
        VerifyMfaRequest(mfa_token=answer.mfa.mfa_token, passkey_assertion=json.dumps(assertion))
    )
    assert await _methods(free, verified.tokens) == ["pwd", "hwk", "user", "mfa"]
    # On its own it is only one factor, but two are required.
    assert await outcome(login(free, device)) == "CREDENTIALS_INVALID"


async def test_challenge_is_single_use(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    begun = await begin_login(free)
    answers = [device.get(begun.options_json) for _ in range(100)]
    calls = (outcome(finish_login(free, begun.challenge_id, answer)) for answer in answers)
    ends = Counter(await asyncio.gather(*calls))
    assert ends == {"OK": 1, "CREDENTIALS_INVALID": 99}
    (opened,) = await free.fetch(
        "SELECT count(*) FROM sessions WHERE 'mfa' = ANY (authentication_methods)"
    )
    assert opened["count"] == 1


async def test_wrong_answer_consumes_challenge(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    begun = await begin_login(free)
    right = device.get(begun.options_json)
    assert await outcome(finish_login(free, begun.challenge_id, "{}")) == "CREDENTIALS_INVALID"
    assert await outcome(finish_login(free, begun.challenge_id, right)) == "CREDENTIALS_INVALID"


async def test_challenge_expires(free: Service, device: Authenticator, clock: FakeClock) -> None:
    await new_holder(free, EMAIL, device)
    for seconds, end in ((299, "OK"), (300, "CREDENTIALS_INVALID")):
        begun = await begin_login(free)
        clock.advance(seconds)
        answer = device.get(begun.options_json)
        assert await outcome(finish_login(free, begun.challenge_id, answer)) == end


async def test_rejected_users_get_same_response(free: Service, device: Authenticator) -> None:
    await new_holder(free, EMAIL, device)
    begun = await begin_login(free)
    answer = device.get(begun.options_json)
    assert await outcome(finish_login(free, NOBODY, answer)) == "CREDENTIALS_INVALID"
    steps = {
        "UPDATE users SET status = 'disabled'": "CREDENTIALS_INVALID",
        "UPDATE users SET status = 'active'": "OK",
        # Guesses lock nobody out whose proof can't be guessed.
        "UPDATE users SET failed_logins = 100": "OK",
        "DELETE FROM factors": "CREDENTIALS_INVALID",
    }
    ends = {}
    for statement in steps:
        await free.fetch(statement)
        ends[statement] = await outcome(login(free, device))
    assert ends == steps


async def test_settings_can_require_verified_email(
    start_service: StartService, live_settings: Settings, device: Authenticator
) -> None:
    first = await start_service(live_settings)
    holder = await new_holder(first, EMAIL, device)
    await first.prove(holder.user_id, proved=False)
    strict = await start_service(with_changes(live_settings, "codes", require_verified_email=True))
    assert await outcome(login(strict, device)) == "EMAIL_NOT_VERIFIED"
    await strict.prove(holder.user_id)
    assert await outcome(login(strict, device)) == "OK"


async def test_forged_signatures_use_up_nothing(service: Service, device: Authenticator) -> None:
    await new_holder(service, EMAIL, device)
    ends = []
    for _ in range(6):
        begun = await begin_login(service, EMAIL)
        answer = device.get(begun.options_json)
        answer["response"]["signature"] = "AAAA"
        ends.append(
            await outcome(finish_login(service, begun.challenge_id, answer, ip="192.0.2.1"))
        )
    assert ends == ["CREDENTIALS_INVALID"] * 6
    # What can be guessed has its own limits.
    request = LoginRequest(email=EMAIL, password=PASSWORD)
    request.client.ip = "192.0.2.1"
    assert await outcome(service.auth().Login(request)) == "OK"


async def test_login_starts_are_limited_per_ip(
    start_service: StartService, live_settings: Settings
) -> None:
    two = PolicySettings.model_validate({"requests": 2, "window": "1h"})
    service = await start_service(
        with_changes(live_settings, "brute_force", passkey_logins_per_ip=two)
    )
    ends = [await outcome(begin_login(service, ip="192.0.2.1")) for _ in range(3)]
    assert ends == ["OK", "OK", "TOO_MANY_ATTEMPTS"]
    assert await outcome(begin_login(service, ip="192.0.2.2")) == "OK"


async def test_last_use_is_recorded(free: Service, device: Authenticator, clock: FakeClock) -> None:
    tokens = await new_holder(free, EMAIL, device)
    clock.advance(60)
    await login(free, device)
    factors = await free.account().ListFactors(ListFactorsRequest(), metadata=bearer(tokens))
    (factor,) = factors.factors
    assert factor.last_use_time.seconds == int(clock.now().timestamp())


async def test_invalid_fields_are_named(free: Service) -> None:
    assert await outcome(begin_login(free, "no address")) == "EMAIL_INVALID"
    assert await outcome(begin_login(free, "a" * 255)) == "FIELD_INVALID"
    assert await outcome(finish_login(free, "x", "{}")) == "FIELD_INVALID"
    for text in ("", "x" * 16_385, "\0"):
        assert await outcome(finish_login(free, NOBODY, text)) == "FIELD_INVALID"
