"""Squatters who create an account with somebody else's address cannot keep the owner out."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.core.messages.outbox import MessageKind
from authsvc.dev.authenticator import Authenticator
from authsvc.v1 import account_service_pb2 as pb
from authsvc.v1.auth_service_pb2 import (
    LoginRequest,
    RefreshTokensRequest,
    RegisterRequest,
    ResetPasswordRequest,
    ValidateApiKeyRequest,
    ValidateTokenRequest,
    VerifyEmailRequest,
)
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support import factor_requests
from tests.support.accounts import EMAIL, PASSWORD, unlimited
from tests.support.clock import FakeClock
from tests.support.code_requests import sent
from tests.support.databases import until
from tests.support.passkeys import ORIGIN, bearer, begin_registration, register, text
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService
from tests.support.ways import WAYS, Victim, affordable

Make = Callable[[Service, Tokens], Awaitable[Any]]
UNPROVED = "EMAIL_NOT_VERIFIED"
KEPT = ("users", "factors", "recovery_codes", "outbox", "audit_events")


@pytest_asyncio.fixture
async def free(start_service: StartService, live_settings: Settings) -> Service:
    """The service without limits, except that on consecutive failures."""
    return await start_service(affordable(live_settings, brute_force=unlimited()))


async def app(_service: Service, _tokens: Tokens) -> pb.EnrollTotpRequest:
    return pb.EnrollTotpRequest()


async def passkey(_service: Service, _tokens: Tokens) -> pb.BeginPasskeyRegistrationRequest:
    return pb.BeginPasskeyRegistrationRequest()


async def made_passkey(service: Service, tokens: Tokens) -> pb.FinishPasskeyRegistrationRequest:
    await service.prove(tokens.user_id)
    begun = await begin_registration(service, tokens)
    return pb.FinishPasskeyRegistrationRequest(
        challenge_id=begun.challenge_id,
        credential_json=text(Authenticator(ORIGIN).create(begun.options_json)),
    )


ADDITIONS: Mapping[str, Make] = {
    "EnrollTotp": app,
    "ConfirmTotp": factor_requests.confirm,
    "BeginPasskeyRegistration": passkey,
    "FinishPasskeyRegistration": made_passkey,
}


def add(service: Service, tokens: Tokens, name: str, request: Any) -> Awaitable[Any]:
    call: Awaitable[Any] = getattr(service.account(), name)(request, metadata=bearer(tokens))
    return call


async def rows(service: Service, *tables: str) -> list[list[str]]:
    """Return the contents of these tables."""
    return [
        [row[0] for row in await service.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]
        for table in tables
    ]


@pytest.mark.parametrize("name", ADDITIONS)
async def test_factor_requires_verified_address(timed: Service, name: str) -> None:
    tokens = await timed.new_session()
    # The step that is completed was begun by the previous version, which did not check this.
    request = await ADDITIONS[name](timed, tokens)
    await timed.prove(tokens.user_id, proved=False)
    before, waiting = await rows(timed, *KEPT), len((await rows(timed, "challenges"))[0])
    error = await failure(add(timed, tokens, name, request))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.FAILED_PRECONDITION, UNPROVED)
    assert await rows(timed, *KEPT) == before
    assert len((await rows(timed, "challenges"))[0]) <= waiting

    again = await ADDITIONS[name](timed, tokens)
    await timed.prove(tokens.user_id)
    assert await outcome(add(timed, tokens, name, again)) == "OK"


@pytest.mark.parametrize("way", ["login code", "reset"])
async def test_owner_gets_in_whatever_squatter_tried(free: Service, way: str) -> None:
    squatter = await Victim(free, EMAIL).register()
    for name in ("EnrollTotp", "BeginPasskeyRegistration"):
        request = await ADDITIONS[name](free, squatter.tokens)
        assert await outcome(add(free, squatter.tokens, name, request)) == UNPROVED
    answer: Any = await WAYS[way](squatter, True, ClientContext())
    owner = answer.tokens if way == "login code" else await free.login()
    assert owner.user_id == squatter.tokens.user_id
    assert await free.judge_session(owner.session_token) == ""
    assert await free.judge_session(squatter.tokens.session_token) == "SESSION_REVOKED"
    assert await rows(free, "factors", "recovery_codes", "challenges") == [[], [], []]
    # That verified the address, so the owner may add a factor.
    await register(free, owner, Authenticator(ORIGIN))


async def squat(service: Service) -> tuple[Tokens, str, str]:
    """Register EMAIL, log in, make a key; return the tokens, the key and the registration token."""
    registered = await service.auth().Register(RegisterRequest(email=EMAIL, password=PASSWORD))
    login = LoginRequest(email=EMAIL, password=PASSWORD, client=ClientContext(device_id="theirs"))
    tokens = (await service.auth().Login(login)).tokens
    created = await service.account().CreateApiKey(
        pb.CreateApiKeyRequest(name="k"), metadata=bearer(tokens)
    )
    return tokens, created.api_key, registered.registration_token


async def is_active(service: Service, tokens: Tokens, api_key: str) -> tuple[bool, bool, bool]:
    """Return whether the session, the access token and the API key are good."""
    auth = service.auth()
    token = ValidateTokenRequest(access_token=tokens.access_token, strict=True)
    key = ValidateApiKeyRequest(api_key=api_key)
    return (
        await service.judge_session(tokens.session_token) == "",
        (await auth.ValidateToken(token)).active,
        (await auth.ValidateApiKey(key)).active,
    )


async def until_ended(service: Service, tokens: Tokens, api_key: str) -> None:
    """Wait until none of the three is good, which takes up to a second where they are cached."""

    async def ended() -> bool:
        return await is_active(service, tokens, api_key) == (False, False, False)

    await until(ended)


async def test_owner_who_enters_code_gets_account_without_what_squatter_left(
    free: Service,
) -> None:
    tokens, api_key, token = await squat(free)
    assert await is_active(free, tokens, api_key) == (True, True, True)
    code = await sent(free, MessageKind.VERIFY_EMAIL)
    verified = await free.auth().VerifyEmail(VerifyEmailRequest(email=EMAIL, code=code))
    assert verified.credentials_removed
    await until_ended(free, tokens, api_key)
    login = LoginRequest(email=EMAIL, password=PASSWORD, client=ClientContext(device_id="theirs"))
    assert await outcome(free.auth().Login(login)) == "CREDENTIALS_INVALID"
    refresh = RefreshTokensRequest(refresh_token=tokens.refresh_token)
    assert await outcome(free.auth().RefreshTokens(refresh)) == "REFRESH_TOKEN_INVALID"
    for name in ADDITIONS:
        request = await factor_requests_of(free, tokens, name)
        assert await outcome(add(free, tokens, name, request)) == "BEARER_INVALID"
    # What the squatter still holds proves nothing.
    again = VerifyEmailRequest(email=EMAIL, code=code, registration_token=token)
    assert await outcome(free.auth().VerifyEmail(again)) == "CREDENTIALS_INVALID"

    reset = ResetPasswordRequest(
        email=EMAIL,
        code=await sent(free, MessageKind.RESET_PASSWORD),
        new_password="Sketch-Of-The-Engine-1843",
    )
    await free.auth().ResetPassword(reset)
    login.password = reset.new_password
    owner = (await free.auth().Login(login)).tokens
    assert owner.user_id == tokens.user_id
    await register(free, owner, Authenticator(ORIGIN))


@pytest.mark.parametrize("proof", ["registration_token", "access_token", "password"])
async def test_who_registered_keeps_everything_by_proof(free: Service, proof: str) -> None:
    tokens, api_key, token = await squat(free)
    proofs = {
        "registration_token": token,
        "access_token": tokens.access_token,
        "password": PASSWORD,
    }
    request = VerifyEmailRequest(email=EMAIL, code=await sent(free, MessageKind.VERIFY_EMAIL))
    for wrong in ("x", ""):
        setattr(request, proof, wrong)
        expected = "CREDENTIALS_INVALID" if wrong else "FIELD_INVALID"
        assert await outcome(free.auth().VerifyEmail(request)) == expected
    setattr(request, proof, proofs[proof])
    assert not (await free.auth().VerifyEmail(request)).credentials_removed
    assert await is_active(free, tokens, api_key) == (True, True, True)
    await register(free, tokens, Authenticator(ORIGIN))


async def factor_requests_of(service: Service, tokens: Tokens, name: str) -> Any:
    """Return a request to add a factor that needs nothing of the service."""
    if name == "ConfirmTotp":
        return pb.ConfirmTotpRequest(factor_id=tokens.user_id, code="123456")
    if name == "FinishPasskeyRegistration":
        return pb.FinishPasskeyRegistrationRequest(
            challenge_id=tokens.user_id, credential_json="{}"
        )
    return await ADDITIONS[name](service, tokens)


async def test_concurrent_squatter_gets_no_factor(free: Service) -> None:
    squatter = await Victim(free, EMAIL).register()
    tries = [
        outcome(add(free, squatter.tokens, name, await ADDITIONS[name](free, squatter.tokens)))
        for name in ("EnrollTotp", "BeginPasskeyRegistration")
        for _ in range(20)
    ]
    arrival = outcome(WAYS["login code"](squatter, True, ClientContext()))
    arrived, *ends = await asyncio.gather(arrival, *tries)
    assert arrived == "OK"
    assert set(ends) <= {UNPROVED, "BEARER_INVALID"}
    assert await rows(free, "factors", "challenges") == [[], []]


async def test_role_requiring_factor_does_not_let_squatter_enroll(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    settings = with_changes(live_settings, "second_factors", required_for_roles={"user"})
    service = await start_service(affordable(settings, brute_force=unlimited()), clock)
    squatter = Victim(service, EMAIL)
    await service.register()
    login = service.auth().Login(LoginRequest(email=EMAIL, password=PASSWORD))
    assert await outcome(login) == UNPROVED
    assert await rows(service, "factors", "challenges") == [[], []]
    answer: Any = await WAYS["login code"](squatter, True, ClientContext())
    assert answer.mfa.HasField("totp_enrollment")
