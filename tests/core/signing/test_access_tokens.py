"""Access tokens: their claims about a session, their audiences and their validity period."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from authsvc.config import TokenSettings
from authsvc.core.signing import jws
from authsvc.core.signing.access_tokens import AccessTokens, TokenTooLong
from authsvc.core.signing.signing_keys import SigningKeys
from authsvc.errors import StoreUnavailable
from authsvc.models.calls import Call
from authsvc.models.revocations import Revocation
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock
from tests.support.tokens import PERMISSIONS, keyring, load_keys, make_session, token_settings

CALL = Call(request_id="test", caller="test")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def keys(database: Database, clock: FakeClock) -> SigningKeys:
    return await load_keys(database, clock)


@pytest.fixture
def tokens(keys: SigningKeys, clock: FakeClock) -> AccessTokens:
    return access_tokens(keys, clock)


def access_tokens(keys: SigningKeys, clock: FakeClock, **settings: object) -> AccessTokens:
    return AccessTokens(
        keys=keys, settings=token_settings(**settings), permissions=PERMISSIONS, clock=clock
    )


def verified(tokens: AccessTokens, token: str, audience: str = "") -> Claims:
    claims = tokens.verify(token, audience)
    assert isinstance(claims, Claims)
    return claims


def payload_of(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return payload


# Claims


async def test_token_carries_session_attributes(tokens: AccessTokens, clock: FakeClock) -> None:
    session = make_session(clock)
    token, expire_time = await tokens.issue(session, clock.now())
    claims = verified(tokens, token)
    assert claims.subject == session.user_id
    assert claims.session_id == session.session_id
    assert claims.issuer == "https://authsvc.dev"
    assert claims.audiences == ("authsvc",)
    assert claims.issue_time == claims.not_before_time == clock.now()
    assert claims.expire_time == expire_time == clock.now() + timedelta(hours=1)
    assert claims.authentication_time == session.authentication_time
    assert claims.authentication_methods == ("pwd", "otp")
    assert claims.roles == ("user",)
    assert claims.permissions == claims.scopes == ("read", "write")


async def test_payload_matches_specification(tokens: AccessTokens, clock: FakeClock) -> None:
    session = make_session(clock)
    token, _ = await tokens.issue(session, clock.now())
    payload = payload_of(token)
    now = int(clock.now().timestamp())
    assert len(base64.urlsafe_b64decode(payload.pop("jti") + "==")) == 16
    assert payload == {
        "iss": "https://authsvc.dev",
        "sub": str(session.user_id),
        "aud": "authsvc",
        "exp": now + 3600,
        "iat": now,
        "nbf": now,
        "sid": str(session.session_id),
        "roles": ["user"],
        "permissions": ["read", "write"],
        "scope": "read write",
        "amr": ["pwd", "otp"],
        "auth_time": now - 60,
    }


async def test_every_token_has_its_own_id(tokens: AccessTokens, clock: FakeClock) -> None:
    session = make_session(clock)
    ids = {
        verified(tokens, (await tokens.issue(session, clock.now()))[0]).token_id for _ in range(100)
    }
    assert len(ids) == 100


async def test_permissions_of_several_roles_are_combined(
    tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(
        make_session(clock, roles=("editor", "user", "unknown")), clock.now()
    )
    claims = verified(tokens, token)
    assert claims.roles == ("editor", "user", "unknown")
    assert claims.permissions == ("write", "publish", "read")


async def test_user_without_roles_has_no_scope(tokens: AccessTokens, clock: FakeClock) -> None:
    claims = verified(tokens, (await tokens.issue(make_session(clock, roles=()), clock.now()))[0])
    assert claims.roles == claims.permissions == claims.scopes == ()


async def test_roles_exceeding_token_size_are_rejected_at_issue(
    tokens: AccessTokens, clock: FakeClock
) -> None:
    with pytest.raises(ValueError, match="fit"):
        await tokens.issue(make_session(clock, roles=("x" * 7000,)), clock.now())


# Validity period


async def test_expiry_is_exact(tokens: AccessTokens, clock: FakeClock) -> None:
    token, expire_time = await tokens.issue(make_session(clock), clock.now())
    clock.advance(expire_time - clock.now() - timedelta(microseconds=1))
    verified(tokens, token)
    clock.advance(timedelta(microseconds=1))
    assert tokens.verify(token) is InactiveReason.EXPIRED


async def test_expired_uncached_token_is_reported_as_expired(
    tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    clock.advance(timedelta(hours=1))
    assert tokens.verify(token) is InactiveReason.EXPIRED


async def test_issuer_clock_may_be_ahead_by_skew(
    keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    ahead = FakeClock(clock.now() + 6 * SECOND)
    token, _ = await access_tokens(keys, ahead).issue(make_session(clock), clock.now())
    assert tokens.verify(token) is InactiveReason.NOT_YET_VALID
    clock.advance(SECOND)
    verified(tokens, token)
    clock.advance(-SECOND)
    assert tokens.verify(token) is InactiveReason.NOT_YET_VALID


async def test_five_day_token_is_valid_for_five_days(keys: SigningKeys, clock: FakeClock) -> None:
    tokens = access_tokens(keys, clock, access_lifetime="5d")
    token, expire_time = await tokens.issue(make_session(clock), clock.now())
    assert expire_time == clock.now() + timedelta(days=5)
    clock.advance(timedelta(days=5) - SECOND)
    verified(tokens, token)
    clock.advance(SECOND)
    assert tokens.verify(token) is InactiveReason.EXPIRED


async def test_token_expires_with_session(tokens: AccessTokens, clock: FakeClock) -> None:
    clock.advance(0.75)
    session = make_session(clock, days=0.01)
    token, expire_time = await tokens.issue(session, clock.now())
    assert session.absolute_expire_time - SECOND < expire_time <= session.absolute_expire_time
    assert verified(tokens, token).expire_time == expire_time


# Audiences


async def test_audience_must_be_in_token(
    keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await access_tokens(keys, clock, audience="orders").issue(
        make_session(clock), clock.now()
    )
    assert tokens.verify(token) is InactiveReason.AUDIENCE_MISMATCH
    assert verified(tokens, token, "orders").audiences == ("orders",)
    assert tokens.verify(token) is InactiveReason.AUDIENCE_MISMATCH
    assert tokens.verify(token, "order") is InactiveReason.AUDIENCE_MISMATCH


async def test_wrong_issuer_is_reported_as_issuer_mismatch(
    keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    other = access_tokens(keys, clock, issuer="https://other.example")
    token, _ = await other.issue(make_session(clock), clock.now())
    assert tokens.verify(token) is InactiveReason.ISSUER_MISMATCH
    verified(other, token)


@pytest.mark.parametrize(
    ("scopes", "reason"),
    [
        ([], None),
        (["read"], None),
        (["write", "read"], None),
        (["publish"], InactiveReason.SCOPE_MISSING),
        (["read", "publish"], InactiveReason.SCOPE_MISSING),
        (["rea"], InactiveReason.SCOPE_MISSING),
        (["read write"], InactiveReason.SCOPE_MISSING),
        ([""], InactiveReason.SCOPE_MISSING),
    ],
)
async def test_all_required_scopes_must_be_present(
    tokens: AccessTokens, clock: FakeClock, scopes: list[str], reason: InactiveReason | None
) -> None:
    claims = verified(tokens, (await tokens.issue(make_session(clock), clock.now()))[0])
    assert tokens.require_scopes(claims, scopes) is reason


# The cache of verified tokens


async def test_cached_token_returns_same_claims(tokens: AccessTokens, clock: FakeClock) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    assert verified(tokens, token) is verified(tokens, str(token.encode(), "ascii"))


async def test_cached_token_becomes_invalid_with_its_key(
    keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    verified(tokens, token)
    keys.on_revocation(Revocation("key", keys.active.key_id))
    assert tokens.verify(token) is InactiveReason.SIGNATURE_INVALID


async def test_token_cache_is_bounded_and_keeps_tokens_in_use(
    keys: SigningKeys, clock: FakeClock
) -> None:
    tokens = AccessTokens(
        keys=keys, settings=token_settings(), permissions=PERMISSIONS, clock=clock, cache_size=10
    )
    session = make_session(clock)
    favourite, _ = await tokens.issue(session, clock.now())
    claims = verified(tokens, favourite)
    for _ in range(100):
        verified(tokens, (await tokens.issue(session, clock.now()))[0])
        assert verified(tokens, favourite) is claims
        assert len(tokens._verified._young) + len(tokens._verified._old) <= 20


async def test_rejected_token_is_not_cached(
    keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    tokens.verify(token[:-5] + "AAAAA")
    tokens.verify(token, "other")
    assert not tokens._verified._young


# Keys that this replica has not read yet


async def test_token_signed_by_key_of_another_replica_is_accepted(
    database: Database, keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    elsewhere = await load_keys(database, clock)
    await elsewhere.rotate(CALL, now=True)
    await elsewhere.rotate(CALL, now=True)
    token, _ = await access_tokens(elsewhere, clock).issue(make_session(clock), clock.now())
    assert tokens.verify(token) is InactiveReason.SIGNATURE_INVALID
    assert isinstance(await tokens.verify_with_new_keys(token), Claims)
    verified(tokens, token)


async def test_key_revoked_by_other_replica_is_rejected_if_strict(
    database: Database, keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    elsewhere = await load_keys(database, clock)
    assert (await elsewhere.revoke(CALL, keys.active.key_id)).is_new
    assert isinstance(await tokens.verify_with_new_keys(token), Claims)
    outcome = await tokens.verify_with_new_keys(token, strict=True)
    assert outcome is InactiveReason.SIGNATURE_INVALID
    assert tokens.verify(token) is InactiveReason.SIGNATURE_INVALID


async def test_key_revoked_by_other_replica_is_rejected_if_listener_is_down(
    database: Database, clock: FakeClock
) -> None:
    heard = True
    keys = SigningKeys(
        database=database,
        keyring=keyring(),
        settings=token_settings(),
        clock=clock,
        is_fresh=lambda: heard,
    )
    await keys.load()
    tokens = access_tokens(keys, clock)
    token, _ = await tokens.issue(make_session(clock), clock.now())
    elsewhere = await load_keys(database, clock)
    await elsewhere.revoke(CALL, keys.active.key_id)
    assert isinstance(await tokens.verify_with_new_keys(token), Claims)
    heard = False
    assert await tokens.verify_with_new_keys(token) is InactiveReason.SIGNATURE_INVALID


async def test_key_revoked_by_other_replica_is_rejected_after_gap(
    database: Database, keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    elsewhere = await load_keys(database, clock)
    await elsewhere.revoke(CALL, keys.active.key_id)
    keys.on_gap()
    assert await tokens.verify_with_new_keys(token) is InactiveReason.SIGNATURE_INVALID


async def test_database_is_queried_only_when_necessary(
    database: Database, keys: SigningKeys, tokens: AccessTokens, clock: FakeClock
) -> None:
    token, _ = await tokens.issue(make_session(clock), clock.now())
    elsewhere = await load_keys(database, clock)
    await elsewhere.rotate(CALL, now=True)
    await elsewhere.rotate(CALL, now=True)
    unknown, _ = await access_tokens(elsewhere, clock).issue(make_session(clock), clock.now())
    await database.close()
    assert isinstance(await tokens.verify_with_new_keys(token), Claims)
    assert await tokens.verify_with_new_keys("junk", strict=True) is InactiveReason.MALFORMED
    forged = token[:-5] + "AAAAA"
    outcome = await tokens.verify_with_new_keys(forged, strict=True)
    assert outcome is InactiveReason.SIGNATURE_INVALID
    for fails in (
        tokens.verify_with_new_keys(unknown),
        tokens.verify_with_new_keys(token, strict=True),
    ):
        with pytest.raises(StoreUnavailable):
            await fails


async def test_signed_token_is_hidden_in_repr(tokens: AccessTokens, clock: FakeClock) -> None:
    signed = await tokens.sign({}, ("authsvc",), clock.now() + SECOND)
    assert signed.text not in repr(signed)


async def test_token_may_be_as_long_as_is_accepted(tokens: AccessTokens, clock: FakeClock) -> None:
    async def length(padding: int) -> int:
        members = {"padding": "a" * padding}
        return len((await tokens.sign(members, ("authsvc",), clock.now() + SECOND)).text)

    # Three bytes more of the payload are four characters more of the token.
    assert jws.MAX_TOKEN_BYTES == 8192
    padding = (jws.MAX_TOKEN_BYTES - await length(0)) * 3 // 4 - 4
    while await length(padding) < jws.MAX_TOKEN_BYTES:
        padding += 1
    assert await length(padding) == jws.MAX_TOKEN_BYTES
    with pytest.raises(TokenTooLong):
        await length(padding + 1)


async def test_token_cache_keeps_most_recently_used_tokens(
    keys: SigningKeys, clock: FakeClock
) -> None:
    tokens = AccessTokens(
        keys=keys, settings=token_settings(), permissions=PERMISSIONS, clock=clock, cache_size=10
    )
    issued = [(await tokens.issue(make_session(clock), clock.now()))[0] for _ in range(15)]
    claims = [verified(tokens, token) for token in issued]
    for token, expected in list(zip(issued, claims, strict=True))[5:]:
        assert verified(tokens, token) is expected


@pytest.mark.parametrize("audiences", [("one",), ("one", "two"), ("one", "two", "three")])
async def test_several_audiences_are_a_list(
    tokens: AccessTokens, clock: FakeClock, audiences: tuple[str, ...]
) -> None:
    payload = payload_of((await tokens.sign({}, audiences, clock.now() + SECOND)).text)
    assert payload["aud"] == (list(audiences) if len(audiences) > 1 else audiences[0])


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 3600), (0.5, 3510), (1.0, 3420)])
async def test_lifetime_is_shortened_by_a_random_part_of_at_most_the_jitter(
    keys: SigningKeys, clock: FakeClock, drawn: float, seconds: int
) -> None:
    tokens = AccessTokens(
        keys=keys,
        settings=token_settings(lifetime_jitter=0.05),
        permissions=PERMISSIONS,
        clock=clock,
        draw=lambda: drawn,
    )
    token, expire_time = await tokens.issue(make_session(clock), clock.now())
    assert expire_time == clock.now() + seconds * SECOND
    assert verified(tokens, token).expire_time == expire_time


async def test_tokens_issued_together_do_not_expire_together(
    keys: SigningKeys, clock: FakeClock
) -> None:
    jitter = TokenSettings().lifetime_jitter
    tokens = access_tokens(keys, clock, lifetime_jitter=jitter)
    expiries = {(await tokens.issue(make_session(clock), clock.now()))[1] for _ in range(200)}
    assert len(expiries) > 50
    assert clock.now() + 3420 * SECOND <= min(expiries)
    assert max(expiries) <= clock.now() + 3600 * SECOND
    # Never later than the session's end.
    soon = make_session(clock, days=1 / 24 / 60)
    assert {(await tokens.issue(soon, clock.now()))[1] for _ in range(20)} == {
        soon.absolute_expire_time
    }
