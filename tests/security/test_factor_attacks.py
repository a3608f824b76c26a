"""Attacks on second factors: guessing, replay, bypass, and reading what is stored."""

import asyncio
import base64
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pyotp
import pytest
import pytest_asyncio

from authsvc.config import Settings
from authsvc.v1 import account_service_pb2 as account_pb
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.common_pb2 import ClientContext, Tokens
from tests.support.accounts import EMAIL, PASSWORD, cheap_passwords, unlimited
from tests.support.clock import FakeClock
from tests.support.logs import caught
from tests.support.passkeys import bearer
from tests.support.probe import failure, outcome
from tests.support.service import Service, StartService

REFUSED = "CREDENTIALS_INVALID"
TABLES = ("factors", "recovery_codes", "challenges", "outbox", "audit_events", "devices", "users")


class Victim:
    """A user with an app and recovery codes, and the calls made in the user's name."""

    def __init__(self, service: Service, clock: FakeClock) -> None:
        self.service = service
        self.clock = clock

    async def enroll(self) -> "Victim":
        self.tokens = await self.service.proved_session()
        account, metadata = self.service.account(), bearer(self.tokens)
        enrolled = await account.EnrollTotp(account_pb.EnrollTotpRequest(), metadata=metadata)
        self.factor_id = enrolled.enrollment.factor_id
        self.app = pyotp.TOTP(enrolled.enrollment.secret)
        request = account_pb.ConfirmTotpRequest(factor_id=self.factor_id, code=self.code())
        confirmed = await account.ConfirmTotp(request, metadata=metadata)
        self.recovery_codes = list(confirmed.recovery_codes)
        self.clock.advance(30)
        return self

    def code(self, steps: int = 0) -> str:
        return self.app.at(self.clock.now(), counter_offset=steps)

    def wrong(self) -> str:
        near = {self.code(steps) for steps in range(-100, 100)}
        return next(code for number in range(10**6) if (code := f"{number:06}") not in near)

    async def token(self, **client: str) -> str:
        request = pb.LoginRequest(email=EMAIL, password=PASSWORD, client=ClientContext(**client))
        return (await self.service.auth().Login(request)).mfa.mfa_token

    async def is_locked(self) -> bool:
        request = pb.LoginRequest(email=EMAIL, password=PASSWORD)
        return await outcome(self.service.auth().Login(request)) == REFUSED

    def verify(self, token: str, **more: Any) -> Any:
        return self.service.auth().VerifyMfa(pb.VerifyMfaRequest(mfa_token=token, **more))


@pytest.fixture
def log() -> Iterator[StringIO]:
    """The log of a service that is started after this fixture."""
    with caught() as lines:
        yield lines


@pytest_asyncio.fixture
async def service(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> Service:
    """The whole application, limited only by challenges and consecutive failures."""
    changes = {"brute_force": unlimited(), "passwords": cheap_passwords()}
    return await start_service(live_settings.model_copy(update=changes), clock)


@pytest_asyncio.fixture
async def victim(service: Service, clock: FakeClock) -> Victim:
    return await Victim(service, clock).enroll()


async def test_guesses_across_challenges_end_at_account_lock(victim: Victim) -> None:
    """Each login by password allows five guesses, and at most 100 may fail in a row."""
    evaluated = 0
    token = await victim.token()
    while evaluated < 200 and not await victim.is_locked():
        token = await victim.token()
        calls = (outcome(victim.verify(token, totp_code=victim.wrong())) for _ in range(8))
        assert set(await asyncio.gather(*calls)) == {REFUSED}
        rows = await victim.service.fetch("SELECT attempts FROM challenges ORDER BY challenge_id")
        assert rows[-1]["attempts"] == 5
        evaluated += 5
    assert 0 < evaluated <= 100
    assert await outcome(victim.verify(token, totp_code=victim.code())) == REFUSED


async def test_account_lock_is_invisible_in_response(victim: Victim) -> None:
    token = await victim.token()
    wrong = await failure(victim.verify(token, totp_code=victim.wrong()))
    await victim.service.fetch("UPDATE users SET failed_logins = 100")
    locked = await failure(victim.verify(token, totp_code=victim.code()))
    unknown = await failure(victim.verify(token[::-1], totp_code=victim.code()))
    shown = {(error.code(), error.details()) for error in (wrong, locked, unknown)}
    assert len(shown) == 1


@pytest.mark.parametrize("kind", ["totp_code", "recovery_code"])
async def test_factor_sent_a_hundred_times_logs_in_once(victim: Victim, kind: str) -> None:
    factor = victim.code() if kind == "totp_code" else victim.recovery_codes[0]
    tokens = [await victim.token() for _ in range(20)]
    calls = (outcome(victim.verify(token, **{kind: factor})) for token in tokens * 5)
    assert Counter(await asyncio.gather(*calls)) == {"OK": 1, REFUSED: 99}
    (row,) = await victim.service.fetch(
        "SELECT count(*) FROM sessions WHERE 'mfa' = any(authentication_methods)"
    )
    assert row["count"] == 1


async def test_mfa_token_is_accepted_only_by_second_step(victim: Victim) -> None:
    """The token from the first step is valid for nothing except the second."""
    token = await victim.token()
    auth = victim.service.auth()
    assert await victim.service.judge_token(token) == "MALFORMED"
    assert await victim.service.judge_session(token) != ""
    refresh = auth.RefreshTokens(pb.RefreshTokensRequest(refresh_token=token))
    assert await outcome(refresh) == "REFRESH_TOKEN_INVALID"
    get = victim.service.account().GetAccount(
        account_pb.GetAccountRequest(), metadata=bearer(Tokens(access_token=token))
    )
    assert await outcome(get) == "BEARER_INVALID"


async def test_password_change_ends_trust_and_pending_logins(victim: Victim) -> None:
    token = await victim.token(device_id="phone")
    await victim.service.auth().VerifyMfa(
        pb.VerifyMfaRequest(
            mfa_token=token,
            totp_code=victim.code(),
            client=ClientContext(device_id="phone"),
            trust_device=True,
        )
    )
    victim.clock.advance(30)
    assert await victim.token(device_id="phone") == ""
    waiting = await victim.token(device_id="laptop")
    new = "Sketch-Of-The-Engine-1842"
    await victim.service.account().ChangePassword(
        account_pb.ChangePasswordRequest(current_password=PASSWORD, new_password=new),
        metadata=bearer(victim.tokens),
    )
    assert await outcome(victim.verify(waiting, totp_code=victim.code())) == REFUSED
    client = ClientContext(device_id="phone")
    request = pb.LoginRequest(email=EMAIL, password=new, client=client)
    assert (await victim.service.auth().Login(request)).HasField("mfa")


@pytest.mark.parametrize("kind", ["totp_code", "recovery_code", "passkey_assertion"])
async def test_garbage_is_rejected_like_wrong_code(victim: Victim, kind: str) -> None:
    garbage = ("0", "' OR 1=1 --", "💥" * 16, "\u202e\ufffe", "%00%s%n", "{}", "[]", "-", "null")
    token = await victim.token()
    for at, text in enumerate(garbage):
        if at % 5 == 0:
            token = await victim.token()
        assert await outcome(victim.verify(token, **{kind: text})) == REFUSED
    token = await victim.token()
    assert await outcome(victim.verify(token, totp_code=victim.code())) == "OK"


async def test_no_secret_is_stored_or_logged(log: StringIO, victim: Victim) -> None:
    token = await victim.token()
    await failure(victim.verify(token, totp_code=victim.wrong()))
    code = victim.code()
    await victim.verify(token, totp_code=code)
    other = await victim.token()
    await victim.verify(other, recovery_code=victim.recovery_codes[0])
    await victim.token()
    written = log.getvalue()
    assert '"user.mfa_required"' in written
    assert f'"{code}"' not in written
    for table in TABLES:
        written += str([tuple(row) for row in await victim.service.fetch(f"SELECT * FROM {table}")])
    seed = base64.b32decode(victim.app.secret)
    secrets = [token, other, victim.app.secret, seed.hex(), str(seed)[2:-1]]
    for recovery_code in victim.recovery_codes:
        secrets += [recovery_code, recovery_code.replace("-", "")]
    assert [secret for secret in secrets if secret in written] == []
