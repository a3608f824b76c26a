"""Owns the first chapter: register, log in, validate, refresh, revoke, limit."""

import asyncio
import secrets

import jwt

from authsvc.cli.demo.tour import Tour, bearer, new_email
from authsvc.v1 import (
    account_service_pb2,
    auth_service_pb2,
    common_pb2,
    rate_limit_service_pb2,
    session_service_pb2,
)


async def main_job(tour: Tour) -> None:
    """Show what every service uses authsvc for."""
    await _register(tour)
    tokens = await _login(tour)
    await _validate(tour, tokens)
    await _account(tour, tokens)
    await _refresh(tour, tokens)
    await _sessions(tour)
    await _limits(tour)
    tour.title("A caller may do only what its roles allow")
    request = auth_service_pb2.LoginRequest(email=tour.email, password="x")  # noqa: S106 - not a password
    await tour.rejected("the gateway tries to log somebody in", tour.auth("edge").Login(request))
    tour.title("Somebody guesses passwords of an account that does not exist")
    nobody = new_email("nobody")
    for number in range(1, 7):
        await tour.rejected(f"guess {number}", tour.login(nobody, "Guess-Me-123456"))


async def _register(tour: Tour) -> None:
    tour.title("A user registers")
    await tour.rejected("a weak password", tour.register(tour.email, "password1234"))
    registered = await tour.register(tour.email, tour.password, "Ada")
    tour.say(f"{tour.email} has the user id", registered.user_id)
    await tour.rejected("the same address again", tour.register(tour.email, tour.password))


async def _login(tour: Tour) -> common_pb2.Tokens:
    tour.title("She logs in")
    await tour.rejected("with a wrong password", tour.login(tour.email, "Wrong-Password-1"))
    tokens = await tour.tokens()
    tour.say("with the right one, session", tokens.session_id)
    return tokens


async def _validate(tour: Tour, tokens: common_pb2.Tokens) -> None:
    tour.title("A gateway validates her access token")
    for what, token, expected in (
        ("her access token", tokens.access_token, True),
        ("a forged one", tokens.access_token[:-8] + "AAAAAAAA", False),
        ("her refresh token instead", tokens.refresh_token, False),
    ):
        request = auth_service_pb2.ValidateTokenRequest(access_token=token)
        answer = await tour.auth("edge").ValidateToken(request)
        tour.answer(what, _activity(answer), accepted=answer.active, expected=expected)
    jwks = await tour.auth().GetJwks(auth_service_pb2.GetJwksRequest())
    key_id = jwt.get_unverified_header(tokens.access_token)["kid"]
    key = jwt.PyJWKSet.from_json(jwks.jwks_json)[key_id]
    claims = jwt.decode(
        tokens.access_token,
        key,
        algorithms=[key.algorithm_name],
        options={"verify_aud": False, "require": ["exp", "sub"]},
    )
    tour.say("verified offline with the published keys, roles", claims["roles"])


async def _account(tour: Tour, tokens: common_pb2.Tokens) -> None:
    tour.title("A service acts for her with her token")
    request = account_service_pb2.GetAccountRequest()
    await tour.rejected("without it", tour.account().GetAccount(request))
    answer = await tour.account().GetAccount(request, metadata=bearer(tokens))
    tour.say("with it, the account of", answer.account.email)


async def _refresh(tour: Tour, first: common_pb2.Tokens) -> None:
    tour.title("Her tokens are refreshed, and reuse of an old one is detected")

    async def refresh(token: str) -> common_pb2.Tokens:
        request = auth_service_pb2.RefreshTokensRequest(refresh_token=token, client=tour.client)
        return (await tour.auth().RefreshTokens(request)).tokens

    pairs = await asyncio.gather(*(refresh(first.refresh_token) for _ in range(10)))
    distinct = len({pair.refresh_token for pair in pairs})
    tour.say("new refresh tokens from ten parallel refreshes of one token", distinct)
    latest = await refresh(pairs[0].refresh_token)
    await tour.rejected("the first token, used again later", refresh(first.refresh_token))
    await tour.rejected("which ends the session: its latest token", refresh(latest.refresh_token))
    answer = await tour.auth("edge").ValidateToken(
        auth_service_pb2.ValidateTokenRequest(access_token=latest.access_token, strict=True)
    )
    tour.answer("and its access token", _activity(answer), accepted=answer.active)


async def _sessions(tour: Tour) -> None:
    tour.title("Sessions: validated by cookie, listed, revoked")
    tokens = await tour.tokens()
    request = session_service_pb2.ValidateSessionRequest(
        session_token=tokens.session_token, csrf_token=tokens.csrf_token, client=tour.client
    )
    answer = await tour.sessions("edge").ValidateSession(request)
    tour.say("her cookie", f"{_activity(answer)}, csrf valid: {answer.csrf_valid}")
    listed = await tour.sessions().ListSessions(
        session_service_pb2.ListSessionsRequest(user_id=tokens.user_id)
    )
    tour.say("her active sessions", len(listed.sessions))
    await tour.sessions().RevokeSession(
        session_service_pb2.RevokeSessionRequest(session_id=tokens.session_id)
    )
    request.strict = True
    answer = await tour.sessions("edge").ValidateSession(request)
    tour.answer("after it is revoked", _activity(answer), accepted=answer.active)


async def _limits(tour: Tour) -> None:
    tour.title("Rate limits: the policy “login” allows five in five minutes")
    limits = tour.limits("edge")
    login = rate_limit_service_pb2.Charge(policy="login", key=secrets.token_hex(8))
    request = rate_limit_service_pb2.CheckRateLimitRequest(charges=[login])
    answers = [await limits.CheckRateLimit(request) for _ in range(6)]
    for number, answer in enumerate(answers, start=1):
        verdict = answer.verdicts[0]
        wait = f"retry after {verdict.retry_after.ToTimedelta().total_seconds():.0f} s"
        text = f"{verdict.remaining} left" if answer.allowed else wait
        tour.answer(f"check {number}", text, accepted=answer.allowed, expected=number <= 5)
    api = rate_limit_service_pb2.Charge(policy="api", key=secrets.token_hex(8))
    both = await limits.CheckRateLimit(
        rate_limit_service_pb2.CheckRateLimitRequest(charges=[login, api])
    )
    text = f"“api” still has all of its {both.verdicts[1].remaining}"
    tour.answer("two charges at once, all or none", text, accepted=both.allowed)


def _activity(
    answer: auth_service_pb2.ValidateTokenResponse | session_service_pb2.ValidateSessionResponse,
) -> str:
    if answer.active:
        return "active"
    name = common_pb2.InactiveReason.Name(answer.inactive_reason)
    return f"inactive, {name.removeprefix('INACTIVE_REASON_')}"
