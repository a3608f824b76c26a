"""The clock that tests move: everything that ends, refills or steps by time does so at once."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pyotp
import pytest

import authsvc
from authsvc.client import Client
from authsvc.client.errors import CodeInvalid, CredentialsInvalid, TooManyAttempts
from authsvc.testing import TestService, clock
from authsvc.v1.account_service_pb2 import ConfirmTotpRequest, EnrollTotpRequest
from authsvc.v1.admin_service_pb2 import (
    AuditEventFilter,
    ListUsersRequest,
    WatchAuditEventsRequest,
)
from authsvc.v1.auth_service_pb2 import (
    LoginRequest,
    LoginWithCodeRequest,
    RefreshTokensRequest,
    RequestLoginCodeRequest,
    ValidateTokenRequest,
    VerifyMfaRequest,
)
from authsvc.v1.common_pb2 import InactiveReason, Tokens
from authsvc.v1.rate_limit_service_pb2 import Charge, CheckRateLimitRequest
from authsvc.v1.session_service_pb2 import RevokeSessionRequest, ValidateSessionRequest

_HOUR = 3_600
_DAY = 24 * _HOUR


@pytest.fixture
def app(authsvc_service: TestService) -> Iterator[Client]:
    with authsvc_service.client() as client:
        yield client


def _token(app: Client, tokens: Tokens) -> str:
    """Return why the access token is not active, or "" if it is."""
    answer = app.auth.ValidateToken(ValidateTokenRequest(access_token=tokens.access_token))
    return "" if answer.active else InactiveReason.Name(answer.inactive_reason)


def _session(app: Client, tokens: Tokens) -> str:
    """Return why the session is not active, or "" if it is."""
    request = ValidateSessionRequest(session_token=tokens.session_token)
    answer = app.sessions.ValidateSession(request)
    return "" if answer.active else InactiveReason.Name(answer.inactive_reason)


def test_time_passes_only_forwards(authsvc_service: TestService) -> None:
    clock = authsvc_service.clock
    clock.move(_HOUR)
    clock.move(0.5)
    assert clock.now() - datetime.now(UTC) >= timedelta(hours=1)
    with pytest.raises(ValueError, match="reset"):
        clock.move(-1)
    clock.reset()
    assert clock.now() - datetime.now(UTC) < timedelta(seconds=1)


def test_access_token_expires_and_is_refreshed(authsvc_service: TestService, app: Client) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    assert _token(app, tokens) == ""
    authsvc_service.clock.move(2 * _HOUR)
    assert _token(app, tokens) == "INACTIVE_REASON_EXPIRED"
    assert _session(app, tokens) == ""
    request = RefreshTokensRequest(refresh_token=tokens.refresh_token)
    assert _token(app, app.auth.RefreshTokens(request).tokens) == ""


def test_session_idles_out(authsvc_service: TestService, app: Client) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    assert _session(app, tokens) == ""
    authsvc_service.clock.move(8 * _DAY)
    assert _session(app, tokens) == "INACTIVE_REASON_SESSION_EXPIRED"


def test_used_session_reaches_its_absolute_end(authsvc_service: TestService, app: Client) -> None:
    tokens = authsvc_service.tokens(authsvc_service.user())
    for _ in range(5):
        authsvc_service.clock.move(5 * _DAY)
        assert _session(app, tokens) == ""
    authsvc_service.clock.move(6 * _DAY)
    assert _session(app, tokens) == "INACTIVE_REASON_SESSION_EXPIRED"


def test_revocation_holds_at_moved_time(authsvc_service: TestService, app: Client) -> None:
    authsvc_service.clock.move(40 * _DAY)
    user = authsvc_service.user()
    ended, kept = authsvc_service.tokens(user), authsvc_service.tokens(user)
    app.sessions.RevokeSession(RevokeSessionRequest(session_id=ended.session_id))
    assert _token(app, ended) == "INACTIVE_REASON_SESSION_REVOKED"
    assert _session(app, ended) == "INACTIVE_REASON_SESSION_REVOKED"
    assert _token(app, kept) == _session(app, kept) == ""


def test_limit_refills(authsvc_service: TestService, app: Client) -> None:
    charge = Charge(policy="login", key=uuid4().hex)
    check = CheckRateLimitRequest(charges=[charge])
    for _ in range(5):
        assert app.limits.CheckRateLimit(check).allowed
    assert not app.limits.CheckRateLimit(check).allowed
    authsvc_service.clock.move(5 * 60)
    assert app.limits.CheckRateLimit(check).allowed


@pytest.mark.parametrize("seconds", [60, _DAY])
def test_limits_of_moved_time_are_forgotten_with_it(
    authsvc_service: TestService, app: Client, seconds: int
) -> None:
    check = CheckRateLimitRequest(charges=[Charge(policy="login", key=uuid4().hex)])
    authsvc_service.clock.move(seconds)
    while app.limits.CheckRateLimit(check).allowed:
        pass
    authsvc_service.clock.reset()
    assert app.limits.CheckRateLimit(check).allowed


def test_lockout_ends(authsvc_service: TestService, app: Client) -> None:
    user = authsvc_service.user()
    wrong = LoginRequest(email=user.email, password="Wrong-password-1")
    for _ in range(100):
        with pytest.raises((CredentialsInvalid, TooManyAttempts)) as refused:
            app.auth.Login(wrong)
        if refused.type is TooManyAttempts:
            break
    with pytest.raises(TooManyAttempts):
        authsvc_service.tokens(user)
    authsvc_service.clock.move(2 * _HOUR)
    assert _token(app, authsvc_service.tokens(user)) == ""


def test_code_expires(authsvc_service: TestService, app: Client) -> None:
    user = authsvc_service.user()
    request = RequestLoginCodeRequest(email=user.email)
    challenge = app.auth.RequestLoginCode(request).challenge_id
    (message,) = authsvc_service.messages(user.email)
    authsvc_service.clock.move(11 * 60)
    late = LoginWithCodeRequest(challenge_id=challenge, code=message.code)
    with pytest.raises(CodeInvalid):
        app.auth.LoginWithCode(late)
    challenge = app.auth.RequestLoginCode(request).challenge_id
    code = authsvc_service.messages(user.email, count=2)[-1].code
    in_time = LoginWithCodeRequest(challenge_id=challenge, code=code)
    assert app.auth.LoginWithCode(in_time).tokens.user_id == user.user_id


def test_totp_step_passes(authsvc_service: TestService, app: Client) -> None:
    user = authsvc_service.user()
    account = app.as_user(authsvc_service.tokens(user).access_token)
    enrollment = account.EnrollTotp(EnrollTotpRequest()).enrollment
    totp, clock = pyotp.TOTP(enrollment.secret), authsvc_service.clock
    confirm = ConfirmTotpRequest(factor_id=enrollment.factor_id, code=totp.at(clock.now()))
    account.ConfirmTotp(confirm)
    login = LoginRequest(email=user.email, password=user.password)
    mfa_token = app.auth.Login(login).mfa.mfa_token
    used = VerifyMfaRequest(mfa_token=mfa_token, totp_code=confirm.code)
    with pytest.raises(CredentialsInvalid):
        app.auth.VerifyMfa(used)
    clock.move(60)
    fresh = VerifyMfaRequest(mfa_token=mfa_token, totp_code=totp.at(clock.now()))
    assert app.auth.VerifyMfa(fresh).tokens.user_id == user.user_id
    with pytest.raises(ValueError, match="second factor"):
        authsvc_service.tokens(user)


def test_service_goes_on_after_years_passed_and_were_taken_back(
    authsvc_service: TestService, app: Client
) -> None:
    before = authsvc_service.tokens(authsvc_service.user())
    authsvc_service.clock.move(300 * _DAY)
    during = authsvc_service.tokens(authsvc_service.user())
    assert _token(app, during) == ""
    authsvc_service.clock.reset()
    after = authsvc_service.tokens(authsvc_service.user())
    assert _token(app, after) == _session(app, after) == ""
    assert _token(app, before) == _session(app, before) == ""
    with authsvc_service.client("admin") as admin:
        assert admin.admin.ListUsers(ListUsersRequest()).users


def test_audit_log_is_watched_at_moved_time(authsvc_service: TestService) -> None:
    with authsvc_service.client("observer") as observer:
        authsvc_service.clock.move(100 * _DAY)
        watch = observer.admin.WatchAuditEvents(WatchAuditEventsRequest(filter=AuditEventFilter()))
        next(watch)
        user = authsvc_service.user()
        subjects = (event.user_id for answer in watch for event in answer.events)
        assert user.user_id in subjects
        watch.cancel()


_NAMES = ("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp")


async def test_database_goes_by_moved_clock(database_dsn: str) -> None:
    await clock.install(database_dsn)
    connection = await asyncpg.connect(database_dsn)
    try:
        await connection.execute("UPDATE authsvc_testing.clock SET shift = '400 days'")
        for name in _NAMES:
            moved = await connection.fetchval(f"SELECT {name}() - pg_catalog.{name}()")
            assert abs(moved - timedelta(days=400)) < timedelta(seconds=1), name
        limits = await connection.fetchval("SELECT rate_limit_now(NULL) / 1e6")
        assert float(limits) > (datetime.now(UTC) + timedelta(days=399)).timestamp()
    finally:
        await connection.close()


def test_sql_asks_only_for_times_that_can_be_moved() -> None:
    """Keywords are not looked up in the search path, and qualified names in no other schema."""
    immovable = re.compile(
        r"\b(CURRENT_TIMESTAMP|CURRENT_DATE|CURRENT_TIME|LOCALTIME|LOCALTIMESTAMP)\b"
        r"|\btimeofday\(|pg_catalog\.\w*(now|timestamp)\(|search_path"
    )
    root = Path(authsvc.__file__).parent
    files = [*root.glob("store/**/*.py"), *root.glob("store/**/*.sql"), *root.glob("core/**/*.py")]
    assert files
    assert [file.name for file in files if immovable.search(file.read_text())] == []
