"""The refresh, validation and ending of tokens, from a calling service's side."""

import base64
import json
from datetime import timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from authsvc.config import Settings
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1 import common_pb2
from authsvc.v1 import session_service_pb2 as session_pb
from tests.support.accounts import IP
from tests.support.clock import FakeClock
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of, inactive

WEEK = timedelta(days=7)


async def refreshed(service: Service, token: str) -> str:
    """Return the outcome of a refresh."""
    return await outcome(service.auth().RefreshTokens(pb.RefreshTokensRequest(refresh_token=token)))


async def logged_out(service: Service, token: str) -> str:
    """Return the outcome of a logout."""
    return await outcome(service.auth().Logout(pb.LogoutRequest(refresh_token=token)))


# RefreshTokens


@pytest.mark.fast
async def test_refresh_returns_next_pair_of_same_session(timed: Service, clock: FakeClock) -> None:
    first = await timed.new_session()
    clock.advance(60)
    second = await timed.refresh(first.refresh_token)
    assert (second.session_id, second.user_id) == (first.session_id, first.user_id)
    assert second.refresh_token not in {"", first.refresh_token}
    assert second.access_token not in {"", first.access_token}
    assert (second.session_token, second.csrf_token) == ("", "")
    gained = (
        second.access_token_expire_time.ToSeconds() - first.access_token_expire_time.ToSeconds()
    )
    assert gained == 60
    for token in (first.access_token, second.access_token):
        assert await timed.judge_token(token) == ""
    assert await timed.judge_session(first.session_token) == ""


async def test_replaced_token_returns_current_pair_within_grace_window(
    timed: Service, clock: FakeClock
) -> None:
    tokens = await timed.new_session()
    current = await timed.refresh(tokens.refresh_token)
    clock.advance(9.999)
    again = await timed.refresh(tokens.refresh_token)
    assert again.refresh_token == current.refresh_token
    assert await timed.judge_token(again.access_token) == ""


@pytest.mark.fast
async def test_reuse_ends_session(timed: Service, clock: FakeClock) -> None:
    stolen = await timed.new_session()
    current = await timed.refresh(stolen.refresh_token)
    other = await timed.login()
    clock.advance(10)
    assert await refreshed(timed, stolen.refresh_token) == "REFRESH_TOKEN_REUSED"
    for token in (stolen.refresh_token, current.refresh_token):
        assert await refreshed(timed, token) == "REFRESH_TOKEN_INVALID"
    for token in (stolen.access_token, current.access_token):
        assert await timed.judge_token(token, strict=True) == "SESSION_REVOKED"
        assert await timed.judge_token(token) == "SESSION_REVOKED"
    assert await timed.judge_session(stolen.session_token) == "SESSION_REVOKED"
    session = await timed.get_session(stolen.session_id)
    assert session.revoke_reason == session_pb.REVOKE_REASON_REFRESH_TOKEN_REUSED
    assert await timed.judge_token(other.access_token) == ""
    events = await timed.fetch("SELECT type FROM audit_events ORDER BY event_id")
    assert [row["type"] for row in events].count("session.refresh_reuse") == 1


async def test_refresh_token_expires(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    clock.advance(WEEK)
    assert await refreshed(timed, tokens.refresh_token) == "REFRESH_TOKEN_INVALID"


async def test_refresh_from_other_client_fails_if_sessions_are_bound(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "sessions", ip_binding="exact"))
    tokens = await service.new_session(ip=IP)
    assert await refreshed(service, tokens.refresh_token) == "SESSION_BINDING_MISMATCH"
    client = common_pb2.ClientContext(ip=IP)
    again = pb.RefreshTokensRequest(refresh_token=tokens.refresh_token, client=client)
    assert await outcome(service.auth().RefreshTokens(again)) == "OK"


KINDS = ("access_token", "refresh_token", "session_token", "csrf_token")


async def test_tokens_of_other_kinds_are_rejected(service: Service) -> None:
    tokens = await service.new_session()
    judged = {}
    for kind in KINDS:
        token = getattr(tokens, kind)
        judged[kind] = [
            await service.judge_token(token),
            await refreshed(service, token),
            await service.judge_session(token),
        ]
    refused = "REFRESH_TOKEN_INVALID"
    assert judged == {
        "access_token": ["", refused, "MALFORMED"],
        "refresh_token": ["MALFORMED", "OK", "MALFORMED"],
        "session_token": ["MALFORMED", refused, ""],
        "csrf_token": ["MALFORMED", refused, "MALFORMED"],
    }


@pytest.mark.parametrize("token", ["x", "ar1_", "ar1_" + "A" * 60, "é" * 256])
async def test_garbage_refresh_token_is_rejected(token: str, service: Service) -> None:
    assert await refreshed(service, token) == "REFRESH_TOKEN_INVALID"
    assert await logged_out(service, token) == "REFRESH_TOKEN_INVALID"


# Logout


@pytest.mark.fast
async def test_logout_ends_only_its_session(service: Service) -> None:
    tokens, other = await service.new_session(), await service.login()
    assert await logged_out(service, tokens.refresh_token) == "OK"
    assert await service.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
    assert await service.judge_token(tokens.access_token) == "SESSION_REVOKED"
    assert await service.judge_session(tokens.session_token) == "SESSION_REVOKED"
    assert await refreshed(service, tokens.refresh_token) == "REFRESH_TOKEN_INVALID"
    assert await service.judge_token(other.access_token) == ""
    assert await service.judge_session(other.session_token) == ""


async def test_logout_twice_is_harmless(service: Service) -> None:
    tokens = await service.new_session()
    current = await service.refresh(tokens.refresh_token)
    for token in (tokens.refresh_token, current.refresh_token, tokens.refresh_token):
        assert await logged_out(service, token) == "OK"
    events = await service.fetch("SELECT 1 FROM audit_events WHERE type = 'session.logout'")
    assert len(events) == 1


# ValidateToken


@pytest.mark.fast
async def test_claims_describe_user(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    response = await timed.auth("edge").ValidateToken(
        pb.ValidateTokenRequest(access_token=tokens.access_token, required_scopes=["read"])
    )
    claims, now = response.claims, int(clock.now().timestamp())
    assert response.active
    assert (claims.subject, claims.session_id) == (tokens.user_id, tokens.session_id)
    assert (claims.issuer, list(claims.audiences)) == ("https://authsvc.dev", ["authsvc"])
    assert list(claims.roles) == ["user"]
    assert list(claims.permissions) == list(claims.scopes) == ["read", "write"]
    assert list(claims.authentication_methods) == ["pwd"]
    times = (claims.issue_time, claims.not_before_time, claims.authentication_time)
    assert [time.ToSeconds() for time in times] == [now] * 3
    assert claims.expire_time == tokens.access_token_expire_time
    assert claims.token_id


async def test_each_inactive_reason_is_reported(timed: Service, clock: FakeClock) -> None:
    tokens = await timed.new_session()
    head, payload, signature = tokens.access_token.split(".")
    forged = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"roles": ["admin"]}
    forgery = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    good = tokens.access_token
    assert await timed.judge_token(good, audience="elsewhere") == "AUDIENCE_MISMATCH"
    assert await timed.judge_token(good, required_scopes=["read", "admin"]) == "SCOPE_MISSING"
    assert await timed.judge_token(f"{head}.{forgery}.{signature}") == "SIGNATURE_INVALID"
    for garbage in ("x", good[:-1], good + "=", f"{head}.{payload}.", "a\0b", "é", "x" * 9_216):
        assert await timed.judge_token(garbage) == "MALFORMED", garbage
    assert await timed.judge_token(good) == ""
    clock.advance(3_600)
    assert await timed.judge_token(good) == "EXPIRED"


async def test_tokens_of_a_disabled_user_are_inactive(service: Service) -> None:
    tokens = await service.new_session()
    await service.fetch("UPDATE users SET status = 'disabled'")
    assert await service.judge_token(tokens.access_token, strict=True) == "USER_DISABLED"
    assert await refreshed(service, tokens.refresh_token) == "REFRESH_TOKEN_INVALID"


async def test_five_day_token_is_valid_for_five_days(
    start_service: StartService, live_settings: Settings, clock: FakeClock
) -> None:
    days = timedelta(days=5)
    service = await start_service(
        with_changes(live_settings, "tokens", access_lifetime=days), clock
    )
    tokens = await service.new_session()
    clock.advance(days - timedelta(seconds=1))
    assert await service.judge_token(tokens.access_token) == ""
    clock.advance(1)
    assert await service.judge_token(tokens.access_token) == "EXPIRED"


# BatchValidateTokens


@pytest.mark.fast
async def test_batch_returns_results_in_order_despite_garbage(service: Service) -> None:
    first, second = await service.new_session(), await service.new_session("b@example.test")
    ended = await service.login()
    await logged_out(service, ended.refresh_token)
    good, fine, dead = (tokens.access_token for tokens in (first, second, ended))
    sent = [good, "x", fine, "a\0b", dead, "x" * 100_000, good, first.refresh_token]
    response = await service.auth("edge").BatchValidateTokens(
        pb.BatchValidateTokensRequest(access_tokens=sent)
    )
    bad = "MALFORMED"
    assert [inactive(result) for result in response.results] == [
        *("", bad, "", bad, "SESSION_REVOKED", bad, "", bad)
    ]
    subjects = [result.claims.subject for result in response.results]
    assert subjects == [first.user_id, "", second.user_id, "", "", "", first.user_id, ""]


async def test_batch_size_is_one_to_a_thousand(service: Service) -> None:
    tokens = await service.new_session()
    validate = service.auth("edge").BatchValidateTokens
    response = await validate(
        pb.BatchValidateTokensRequest(access_tokens=[tokens.access_token] * 1_000)
    )
    assert [result.active for result in response.results] == [True] * 1_000
    for count in (0, 1_001):
        error = await failure(validate(pb.BatchValidateTokensRequest(access_tokens=["x"] * count)))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["access_tokens"])


async def test_batch_checks_requested_audience(service: Service) -> None:
    tokens = await service.new_session()
    for audience, expected in (("", ""), ("authsvc", ""), ("elsewhere", "AUDIENCE_MISMATCH")):
        response = await service.auth("edge").BatchValidateTokens(
            pb.BatchValidateTokensRequest(access_tokens=[tokens.access_token], audience=audience)
        )
        assert inactive(response.results[0]) == expected


# GetJwks


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # the name is deprecated by RFC 9864
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_third_party_verifies_tokens_with_public_keys(
    algorithm: str, start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "tokens", algorithm=algorithm))
    tokens = await service.new_session()
    response = await service.auth("observer").GetJwks(pb.GetJwksRequest())
    keys = json.loads(response.jwks_json)
    token = jwt.decode(tokens.access_token, KeySet.import_key_set(keys), [algorithm])
    assert token.header["typ"] == "at+jwt"
    assert token.claims["sub"] == tokens.user_id
    assert not {"d", "p", "q", "k"} & {name for key in keys["keys"] for name in key}
    assert response.expire_time.ToSeconds() > int(token.claims["iat"])
    assert response.HasField("has_secret_keys")
    assert not response.has_secret_keys


async def test_keys_that_are_not_published_are_told_of(
    start_service: StartService, live_settings: Settings
) -> None:
    service = await start_service(with_changes(live_settings, "tokens", algorithm="HS256"))
    response = await service.auth().GetJwks(pb.GetJwksRequest())
    assert json.loads(response.jwks_json) == {"keys": []}
    assert response.has_secret_keys


async def test_replicas_verify_tokens_of_each_other(
    start_service: StartService, live_settings: Settings
) -> None:
    one, two = await start_service(live_settings), await start_service(live_settings)
    tokens = await one.new_session()
    assert await two.judge_token(tokens.access_token) == ""
    assert await logged_out(two, tokens.refresh_token) == "OK"
    assert await one.judge_token(tokens.access_token, strict=True) == "SESSION_REVOKED"
