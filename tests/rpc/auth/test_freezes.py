"""Every way to log in and to register is refused while it is frozen, and sessions go on."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from uuid import uuid4

import pytest
from google.protobuf.descriptor import Descriptor

from authsvc.config import Settings
from authsvc.core.incidents import steps
from authsvc.errors import FailedPrecondition, Reason
from authsvc.models.calls import Call
from authsvc.models.incidents import LoginMethod
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from authsvc.v1.session_service_pb2 import CreateSessionRequest
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.api import OWN
from tests.support.databases import until
from tests.support.probe import outcome
from tests.support.service import Service, StartService

IP = "198.51.100.7"
CLIENT = ClientContext(ip=IP, device_id="phone")
OPERATOR = Call("request-1", "cli:test")
HOUR = timedelta(hours=1)

# A call of each RPC that is or begins a login, by what freezes it.
CALLS: Mapping[str, tuple[LoginMethod, Callable[[Service], Awaitable[object]]]] = {
    "Register": (
        LoginMethod.REGISTRATION,
        lambda service: service.auth().Register(
            pb.RegisterRequest(email="new@example.test", password=PASSWORD, client=CLIENT)
        ),
    ),
    "Login": (
        LoginMethod.PASSWORD,
        lambda service: service.auth().Login(
            pb.LoginRequest(email=EMAIL, password=PASSWORD, client=CLIENT)
        ),
    ),
    "VerifyMfa": (
        LoginMethod.PASSWORD,
        lambda service: service.auth().VerifyMfa(
            pb.VerifyMfaRequest(mfa_token="x" * 43, totp_code="123456", client=CLIENT)
        ),
    ),
    "RequestLoginCode": (
        LoginMethod.CODE,
        lambda service: service.auth().RequestLoginCode(
            pb.RequestLoginCodeRequest(email=EMAIL, client=CLIENT)
        ),
    ),
    "LoginWithCode": (
        LoginMethod.CODE,
        lambda service: service.auth().LoginWithCode(
            pb.LoginWithCodeRequest(challenge_id=str(uuid4()), code="123456", client=CLIENT)
        ),
    ),
    "BeginPasskeyLogin": (
        LoginMethod.PASSKEY,
        lambda service: service.auth().BeginPasskeyLogin(
            pb.BeginPasskeyLoginRequest(client=CLIENT)
        ),
    ),
    "LoginWithPasskey": (
        LoginMethod.PASSKEY,
        lambda service: service.auth().LoginWithPasskey(
            pb.LoginWithPasskeyRequest(
                challenge_id=str(uuid4()), assertion_json="{}", client=CLIENT
            )
        ),
    ),
    "BeginOAuth": (
        LoginMethod.FEDERATED,
        lambda service: service.auth().BeginOAuth(
            pb.BeginOAuthRequest(provider="github", redirect_uri="https://a.test", client=CLIENT)
        ),
    ),
    "CompleteOAuth": (
        LoginMethod.FEDERATED,
        lambda service: service.auth().CompleteOAuth(
            pb.CompleteOAuthRequest(state="state", code="code", client=CLIENT)
        ),
    ),
    "RequestPasswordReset": (
        LoginMethod.PASSWORD_RESET,
        lambda service: service.auth().RequestPasswordReset(
            pb.RequestPasswordResetRequest(email=EMAIL, client=CLIENT)
        ),
    ),
    "ResetPassword": (
        LoginMethod.PASSWORD_RESET,
        lambda service: service.auth().ResetPassword(
            pb.ResetPasswordRequest(
                email=EMAIL, code="123456", new_password=PASSWORD, client=CLIENT
            )
        ),
    ),
    "CreateSession": (
        LoginMethod.ISSUED,
        lambda service: service.sessions("issuer").CreateSession(
            CreateSessionRequest(
                user_id=str(uuid4()), client=CLIENT, authentication_methods=["hwk"]
            )
        ),
    ),
}
# They answer with tokens of a session that there is already.
_REFRESHING = {"RefreshTokens"}


def _holds_tokens(message: Descriptor) -> bool:
    return any(
        field.message_type is not None
        and field.message_type.full_name == Tokens.DESCRIPTOR.full_name
        for field in message.fields
    )


def _opening() -> Iterator[str]:
    for path, method in OWN.items():
        if _holds_tokens(method.output_type) and "AdminService" not in path:
            yield method.name


async def freeze(service: Service, *methods: LoginMethod, network: str | None = None) -> None:
    """Freeze logins and wait until the service knows."""
    parts = service.app._parts
    before = parts.use.login_freezes.in_force
    await parts.use.incident_steps.freeze(OPERATOR, methods, network, HOUR, "drill")

    async def known() -> bool:
        return parts.use.login_freezes.in_force > before

    await until(known)


async def unfreeze(service: Service) -> None:
    """Lift all freezes and wait until the service knows."""
    parts = service.app._parts
    steps = parts.use.incident_steps
    await steps.unfreeze(OPERATOR, [one.freeze_id for one in await steps.freezes()], "over")

    async def known() -> bool:
        return parts.use.login_freezes.in_force == 0

    await until(known)


def test_every_rpc_that_opens_a_session_can_be_frozen() -> None:
    assert set(_opening()) - _REFRESHING <= set(CALLS)


async def test_each_login_is_refused_while_its_method_is_frozen_and_sessions_go_on(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(live_settings)
    await service.register()
    # Of a user of its own, whose sessions no login replaces.
    tokens = await service.new_session("grace@example.test", ip=IP)
    session_token = tokens.session_token
    for method in LoginMethod:
        await freeze(service, method)
        for name, (frozen_by, call) in CALLS.items():
            frozen = await outcome(call(service)) == "LOGIN_FROZEN"
            assert frozen == (frozen_by is method), name
            if name == "Register" and not frozen:
                await service.fetch("DELETE FROM users WHERE email = 'new@example.test'")
        assert await service.judge_session(session_token) == ""
        tokens = await service.refresh(tokens.refresh_token)
        assert await service.judge_token(tokens.access_token) == ""
        await unfreeze(service)

    await freeze(service, network="198.51.100.0/24")
    for name, (_, call) in CALLS.items():
        assert await outcome(call(service)) == "LOGIN_FROZEN", name
    # Of each way to log in, the call that would have ended it.
    ends = service.app._parts.use.logins.counts.read().items()
    frozen_logins = {method: count for (method, end), count in ends if end == "frozen"}
    assert frozen_logins == dict.fromkeys(
        ("password", "code", "passkey", "federated", "issued", "second_factor"), 2
    )
    elsewhere = pb.LoginRequest(
        email=EMAIL, password=PASSWORD, client=ClientContext(ip="203.0.113.1")
    )
    assert await outcome(service.auth().Login(elsewhere)) == "OK"


async def test_number_of_freezes_is_bounded_and_their_ends_can_always_be_changed(
    start_service: StartService, live_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start_service(live_settings)
    monkeypatch.setattr(steps, "_MAX_FREEZES", 1)
    use = service.app._parts.use.incident_steps
    first = await use.freeze(OPERATOR, [LoginMethod.CODE], None, HOUR, "drill")
    with pytest.raises(FailedPrecondition) as raised:
        await use.freeze(OPERATOR, [LoginMethod.PASSWORD], None, HOUR, "drill")
    assert raised.value.reason is Reason.LIMIT_REACHED
    longer = await use.freeze(OPERATOR, [LoginMethod.CODE], None, 2 * HOUR, "drill")
    assert longer.expire_time > first.expire_time
    assert await use.freezes() == [longer]


async def test_freeze_on_one_replica_holds_on_the_other(
    start_service: StartService, live_settings: Settings
) -> None:
    here, there = await start_service(live_settings), await start_service(live_settings)
    await here.register()
    await here.app._parts.use.incident_steps.freeze(
        OPERATOR, [LoginMethod.PASSWORD], None, HOUR, "drill"
    )

    async def known() -> bool:
        return there.app._parts.use.login_freezes.in_force == 1

    await until(known)
    _, log_in = CALLS["Login"]
    assert await outcome(log_in(there)) == "LOGIN_FROZEN"


@pytest.mark.parametrize("method", [LoginMethod.PASSWORD, LoginMethod.CODE])
async def test_login_begun_before_the_freeze_is_not_completed_by_a_second_factor(
    method: LoginMethod, start_service: StartService, live_settings: Settings
) -> None:
    """A challenge outlives the beginning of a freeze; only its own method counts."""
    service = await start_service(live_settings)
    user = await service.register()
    begun = {LoginMethod.PASSWORD: "pwd", LoginMethod.CODE: "otp"}[method]
    token = "t" * 43
    await service.fetch(
        "INSERT INTO challenges (challenge_id, kind, user_id, token_hash, methods, create_time,"
        " expire_time) VALUES ($1, 'mfa', $2, sha256($3), $4, now(), now() + interval '5 min')",
        uuid4(),
        user,
        token.encode(),
        [begun],
    )
    request = pb.VerifyMfaRequest(mfa_token=token, totp_code="123456", client=CLIENT)
    other = {LoginMethod.PASSWORD: LoginMethod.CODE, LoginMethod.CODE: LoginMethod.PASSWORD}
    await freeze(service, other[method])
    assert await outcome(service.auth().VerifyMfa(request)) == "CREDENTIALS_INVALID"
    await freeze(service, method)
    assert await outcome(service.auth().VerifyMfa(request)) == "LOGIN_FROZEN"
