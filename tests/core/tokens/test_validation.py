"""Access tokens validated by their claims and by the state of their session."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest

from authsvc.core.lib import base64url
from authsvc.core.lib.slices import Slices
from authsvc.core.signing.jwk import VerifyingKey
from authsvc.core.tokens.validation import TokenCheck
from authsvc.errors import Reason, ServiceError
from authsvc.models.revocations import Revocation
from authsvc.models.sessions import RevokeReason
from authsvc.models.tokens import Claims, InactiveReason
from authsvc.store import signing_keys as signing_keys_store
from authsvc.store.postgres.database import Connection
from authsvc.store.signing_keys import SigningKeyRow
from tests.support.sessions import CALL, DAY, SECOND, World
from tests.support.tokens import token_settings
from tests.support.turns import PER_TURN, Loop

MINUTE = timedelta(minutes=1)


@pytest.mark.slow
async def test_active_token_returns_its_claims(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for check in (
        TokenCheck(tokens.access_token),
        TokenCheck(tokens.access_token, audience="authsvc"),
        TokenCheck(tokens.access_token, required_scopes=("read", "write")),
        TokenCheck(tokens.access_token, strict=True),
    ):
        result = await replica.tokens.validate(check)
        assert result.active
        assert result.reason is None
        assert isinstance(result.claims, Claims)
        assert result.claims.subject == tokens.user_id
        assert result.claims.session_id == tokens.session_id


@pytest.mark.parametrize("warm", [True, False])
async def test_each_inactive_reason_is_reported(world: World, warm: bool) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    text = tokens.access_token
    if warm:
        await replica.tokens.bearer(text)
    header, payload, signature = text.split(".")
    changed = ("B" if signature[0] == "A" else "A") + signature[1:]
    for check, reason in (
        (TokenCheck("garbage"), InactiveReason.MALFORMED),
        (TokenCheck(f"{header}.{payload}.{changed}"), InactiveReason.SIGNATURE_INVALID),
        (TokenCheck(text, audience="elsewhere"), InactiveReason.AUDIENCE_MISMATCH),
        (TokenCheck(text, required_scopes=("read", "admin")), InactiveReason.SCOPE_MISSING),
    ):
        result = await replica.tokens.validate(check)
        assert not result.active
        assert result.reason is reason
        assert result.claims is None
    world.clock.advance(timedelta(hours=1))
    assert (await replica.tokens.validate(TokenCheck(text))).reason is InactiveReason.EXPIRED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("revoke", InactiveReason.SESSION_REVOKED),
        ("delete", InactiveReason.SESSION_UNKNOWN),
        ("disable", InactiveReason.USER_DISABLED),
    ],
)
async def test_token_ends_with_session(world: World, end: str, reason: InactiveReason) -> None:
    here, there = world.replica(), world.replica()
    tokens = await world.open(there)
    await here.tokens.bearer(tokens.access_token)
    if end == "revoke":
        await there.sessions.ending.revoke(CALL, tokens.session_id)
    elif end == "delete":
        await world.execute("DELETE FROM sessions WHERE session_id = $1", tokens.session_id)
    else:
        await world.disable(tokens.user_id)
    check = TokenCheck(tokens.access_token, required_scopes=("admin",), strict=True)
    assert (await here.tokens.validate(check)).reason is reason
    here.sessions.cache.on_revocation(Revocation("user", str(tokens.user_id)))
    assert (await here.tokens.validate(TokenCheck(tokens.access_token))).reason is reason
    (result,) = await here.tokens.validate_many([tokens.access_token])
    assert result.reason is reason


async def test_token_may_outlive_idle_expiry_of_session(world: World) -> None:
    short = token_settings(refresh_lifetime="1m", access_lifetime="1h")
    replica = world.replica(tokens=short)
    tokens = await world.open(replica)
    world.clock.advance(MINUTE)
    session = await replica.validate(tokens.session_token)
    assert session.reason is InactiveReason.SESSION_EXPIRED
    for strict in (True, False):
        check = TokenCheck(tokens.access_token, strict=strict)
        assert (await replica.tokens.validate(check)).active


async def test_token_does_not_outlive_absolute_expiry_of_session(world: World) -> None:
    replica = world.replica(absolute_lifetime="90s")
    tokens = await world.open(replica)
    assert tokens.access_token_expire_time == world.clock.now() + 90 * SECOND
    world.clock.advance(89)
    await replica.tokens.bearer(tokens.access_token)
    world.clock.advance(1)
    result = await replica.tokens.validate(TokenCheck(tokens.access_token))
    assert result.reason is InactiveReason.EXPIRED


async def test_five_day_tokens_last_five_days(world: World) -> None:
    long = token_settings(access_lifetime="5d")
    replica = world.replica(tokens=long)
    tokens = await world.open(replica)
    world.clock.advance(5 * DAY - SECOND)
    await replica.tokens.bearer(tokens.access_token)
    world.clock.advance(1)
    result = await replica.tokens.validate(TokenCheck(tokens.access_token))
    assert result.reason is InactiveReason.EXPIRED


async def test_token_use_counts_as_session_use_without_extending_it(
    world: World,
) -> None:
    long = token_settings(access_lifetime="7d")
    replica = world.replica(tokens=long)
    tokens = await world.open(replica)
    before = await world.row(tokens.session_id)
    for _ in range(2):  # from the database, from the cache
        world.clock.advance(3 * DAY)
        await replica.tokens.bearer(tokens.access_token)
        await replica.sessions.last_use.flush()
        row = await world.row(tokens.session_id)
        assert row["last_use_time"] == world.clock.now()
        assert row["idle_expire_time"] == before["idle_expire_time"]


async def test_batch_returns_results_in_order(world: World) -> None:
    replica = world.replica()
    cached, stored, revoked = [await world.open(replica) for _ in range(3)]
    await replica.tokens.bearer(cached.access_token)
    await replica.sessions.ending.revoke(CALL, revoked.session_id)
    texts = [
        stored.access_token,
        revoked.access_token,
        "garbage",
        cached.access_token,
        stored.access_token,
    ]
    results = await replica.tokens.validate_many(texts)
    claims = [result.claims for result in results]
    assert [found.session_id if isinstance(found, Claims) else found for found in claims] == [
        stored.session_id,
        None,
        None,
        cached.session_id,
        stored.session_id,
    ]
    assert results[1].reason is InactiveReason.SESSION_REVOKED
    assert results[2].reason is InactiveReason.MALFORMED
    assert await replica.tokens.validate_many([]) == []
    mismatch = await replica.tokens.validate_many(texts[:1], "elsewhere")
    assert mismatch[0].reason is InactiveReason.AUDIENCE_MISMATCH


@pytest.mark.slow
async def test_cached_tokens_cost_no_query(world: World) -> None:
    replica = world.replica()
    opened = [await world.open(replica) for _ in range(5)]
    texts = [tokens.access_token for tokens in opened]
    await replica.tokens.validate_many(texts)
    await world.database.close()
    assert all(result.active for result in await replica.tokens.validate_many(texts))
    assert (await replica.tokens.validate(TokenCheck(texts[0]))).active


async def test_tokens_of_other_kinds_are_no_bearer_tokens(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    for text in (tokens.refresh_token, tokens.session_token, tokens.csrf_token, ""):
        result = await replica.tokens.validate(TokenCheck(text))
        assert result.reason is InactiveReason.MALFORMED
        with pytest.raises(ServiceError) as caught:
            await replica.tokens.bearer(text)
        assert caught.value.reason is Reason.BEARER_INVALID


async def test_token_of_disabled_user_is_no_bearer_token(world: World) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    await replica.tokens.bearer(tokens.access_token)
    await world.disable(tokens.user_id)
    async with world.database.transaction() as connection:
        await replica.sessions.ending.revoke_in(
            connection, CALL, tokens.user_id, RevokeReason.USER_DISABLED
        )
    replica.sessions.cache.on_revocation(Revocation("session", str(tokens.session_id)))
    with pytest.raises(ServiceError) as caught:
        await replica.tokens.bearer(tokens.access_token)
    assert caught.value.reason is Reason.BEARER_INVALID


async def test_strict_validation_is_inactive_after_acknowledged_revocation(
    world: World,
) -> None:
    here, there = world.replica(), world.replica(max_per_user=100)
    user_id = await world.add_user()
    opened = [await world.open(there, user_id) for _ in range(20)]
    acknowledged: set[str] = set()

    async def revoke_all() -> None:
        for tokens in opened:
            await there.sessions.ending.revoke(CALL, tokens.session_id)
            acknowledged.add(tokens.access_token)

    async def ask(text: str) -> None:
        active = True
        while active:
            was_acknowledged = text in acknowledged
            active = (await here.tokens.validate(TokenCheck(text, strict=True))).active
            assert not (active and was_acknowledged)

    await asyncio.gather(revoke_all(), *(ask(tokens.access_token) for tokens in opened))


async def test_forged_token_in_a_batch_is_verified_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is what costs, and anybody can send a thousand of them."""
    replica = world.replica()
    tokens = await world.open(replica)
    signed, _, signature = tokens.access_token.rpartition(".")
    forged = [f"{signed}.{signature[:-4]}{number:03}A" for number in range(50)]
    verify, verified = VerifyingKey.verify, Counter[bytes]()

    def count(key: VerifyingKey, message: bytes, signature: bytes) -> bool:
        verified[signature] += 1
        return verify(key, message, signature)

    monkeypatch.setattr(VerifyingKey, "verify", count)
    results = await replica.tokens.validate_many(forged)
    assert {result.reason for result in results} == {InactiveReason.SIGNATURE_INVALID}
    assert set(verified.values()) == {1}
    assert len(verified) == 50


async def test_batches_are_verified_in_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches together verify no more in a turn of the event loop than a slice holds."""
    loop = Loop()
    replica = world.replica(slices=Slices(lambda: loop.now))
    tokens = await world.open(replica)
    signed, _, signature = tokens.access_token.rpartition(".")
    forged = [f"{signed}.{signature[:-4]}{number:03}A" for number in range(52)]

    def verify(_key: VerifyingKey, _message: bytes, signature: bytes) -> bool:
        return loop.work(len(signature)) > 0

    monkeypatch.setattr(VerifyingKey, "verify", verify)
    batches = await asyncio.gather(*(replica.tokens.validate_many(forged) for _ in range(4)))
    assert [len(results) for results in batches] == [52] * 4
    assert loop.done.total() == 208
    assert max(loop.done.values()) == PER_TURN


async def test_made_up_keys_in_a_batch_cost_one_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = world.replica()
    tokens = await world.open(replica)
    reads = []
    list_all = signing_keys_store.list_all

    async def count(connection: Connection) -> Sequence[SigningKeyRow]:
        reads.append(1)
        return await list_all(connection)

    monkeypatch.setattr(signing_keys_store, "list_all", count)
    _, payload, signature = tokens.access_token.split(".")
    texts = []
    for number in range(20):
        header = {"typ": "at+jwt", "alg": "ES256", "kid": f"{number:043}"}
        text = base64url.encode(json.dumps(header, separators=(",", ":")).encode())
        texts.append(f"{text}.{payload}.{signature}")
    results = await replica.tokens.validate_many([*texts, tokens.access_token])
    assert [result.reason for result in results[:-1]] == [InactiveReason.SIGNATURE_INVALID] * 20
    assert results[-1].active
    assert len(reads) == 1
