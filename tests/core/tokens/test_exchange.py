"""Exchange of users' tokens: only for narrower ones, which name the actors."""

import json
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from authsvc.errors import CallerNotAllowed, FieldInvalid, Reason, ServiceError, Unauthenticated
from authsvc.models.tokens import InactiveReason
from tests.support.issuing import BILLING, MINUTE, NOBODY, SHOP, Issuing, payload_of
from tests.support.sessions import CALL, METHODS, World


async def test_exchanged_token_names_user_as_subject_and_caller_as_actor(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login("user", "editor")
    before = await issuing.claims(tokens.access_token)
    world.clock.advance(5)
    token = await issuing.exchange(tokens.access_token, "billing", "write", "read")
    after = await issuing.claims(token.text)
    assert (after.subject, after.session_id) == (tokens.user_id, tokens.session_id)
    assert after.authentication_time == before.authentication_time
    assert after.authentication_methods == METHODS
    assert after.audiences == ("billing",)
    assert after.scopes == ("write", "read")
    assert set(after.permissions) == {"read", "write"}
    assert after.roles == ()
    assert after.actors == (SHOP.identity,)
    assert after.certificate_thumbprint == b""
    assert after.token_id == token.token_id != before.token_id
    # Whatever refuses the user's token, refuses this one.
    assert after.issue_time == before.issue_time
    assert after.not_before_time == world.clock.now()
    assert after.expire_time == token.expire_time == world.clock.now() + 10 * MINUTE
    assert payload_of(token.text)["act"] == {"sub": SHOP.identity}
    assert (await issuing.judge(token.text, "authsvc")).reason is InactiveReason.AUDIENCE_MISMATCH


async def test_omitted_attributes_are_kept(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    after = await issuing.claims((await issuing.exchange(tokens.access_token)).text)
    assert (after.audiences, after.scopes) == (("authsvc",), ("read", "write"))
    same = await issuing.exchange(tokens.access_token, "authsvc", "read", caller=NOBODY)
    assert (await issuing.claims(same.text)).scopes == ("read",)


async def test_exchanged_token_does_not_outlive_original(world: World) -> None:
    issuing = Issuing(world, access_lifetime="15m")
    tokens = await issuing.login()
    for passed, left in ((0, 10), (5, 10), (1, 9), (8, 1)):
        world.clock.advance(passed * MINUTE)
        token = await issuing.exchange(tokens.access_token)
        assert token.expire_time == world.clock.now() + left * MINUTE
    world.clock.advance(MINUTE - timedelta(microseconds=1))
    assert (await issuing.judge(token.text)).active
    world.clock.advance(timedelta(microseconds=1))
    assert (await issuing.judge(token.text)).reason is InactiveReason.EXPIRED


@pytest.mark.slow
async def test_only_audiences_from_settings_or_token_are_granted(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    for caller, audience in ((NOBODY, "billing"), (BILLING, "billing"), (SHOP, "elsewhere")):
        with pytest.raises(CallerNotAllowed):
            await issuing.exchange(tokens.access_token, audience, caller=caller)
    narrow = (await issuing.exchange(tokens.access_token, "billing")).text
    with pytest.raises(CallerNotAllowed):
        # The original audience is no longer granted.
        await issuing.exchange(narrow, "authsvc", caller=BILLING)
    assert len(await world.events("token.exchange")) == 1


async def test_scope_missing_from_token_is_rejected(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    narrow = (await issuing.exchange(tokens.access_token, "", "read")).text
    for token, scopes, field in (
        (tokens.access_token, ("publish",), "scopes[0]"),
        (tokens.access_token, ("read", "invoices.read"), "scopes[1]"),
        (tokens.access_token, ("read write",), "scopes[0]"),
        (narrow, ("read", "write"), "scopes[1]"),
    ):
        with pytest.raises(FieldInvalid) as caught:
            await issuing.exchange(token, "", *scopes)
        assert caught.value.violations[0].field == field


async def test_each_exchange_adds_an_actor_up_to_four(world: World) -> None:
    issuing = Issuing(world)
    token = (await issuing.login()).access_token
    hands: tuple[str, ...] = ()
    for n in range(4):
        caller = replace(SHOP, identity=f"spiffe://authsvc.test/service-{n}")
        hands = (caller.identity, *hands)
        token = (await issuing.exchange(token, caller=caller)).text
        assert (await issuing.claims(token)).actors == hands
    with pytest.raises(FieldInvalid) as caught:
        await issuing.exchange(token)
    assert caught.value.violations[0].field == "subject_token"


async def test_actors_exceeding_token_size_are_rejected(world: World) -> None:
    issuing = Issuing(world)
    caller = replace(SHOP, identity="spiffe://authsvc.test/" + "x" * 2_020)
    token = (await issuing.login()).access_token
    for _ in range(2):
        token = (await issuing.exchange(token, caller=caller)).text
    with pytest.raises(FieldInvalid) as caught:
        await issuing.exchange(token, caller=caller)
    assert caught.value.violations[0].field == "subject_token"


@pytest.mark.parametrize("seed", range(20))
async def test_chain_of_exchanges_never_widens_token(world: World, seed: int) -> None:
    issuing, source = Issuing(world), random.Random(seed)
    token = (await issuing.login("user", "editor")).access_token
    before, refused = await issuing.claims(token), set[Reason]()
    for _ in range(12):
        world.clock.advance(source.randrange(60))
        scopes = source.sample(["read", "write", "publish", "admin", ""], source.randrange(4))
        audience = source.choice(["", "", "billing", "ledger", "authsvc", "elsewhere"])
        try:
            token = (
                await issuing.exchange(
                    token, audience, *scopes, caller=source.choice([SHOP, BILLING, NOBODY])
                )
            ).text
        except ServiceError as error:
            refused.add(error.reason)
            continue
        after = await issuing.claims(token)
        assert set(after.scopes) <= set(before.scopes)
        assert set(after.permissions) <= set(before.permissions) & set(after.scopes)
        assert after.expire_time <= before.expire_time
        assert after.roles == ()
        assert after.actors[1:] == before.actors
        assert set(after.audiences) <= set(before.audiences) | SHOP.audiences
        assert (after.subject, after.session_id) == (before.subject, before.session_id)
        before = after
    assert refused <= {Reason.FIELD_INVALID, Reason.CALLER_NOT_ALLOWED}


@pytest.mark.slow
@pytest.mark.parametrize("end", ["revoke", "delete", "disable"])
async def test_exchanged_tokens_end_with_session(world: World, end: str) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    exchanged = (await issuing.exchange(tokens.access_token, "billing")).text
    if end == "revoke":
        await issuing.replica.sessions.ending.revoke(CALL, tokens.session_id)
    elif end == "delete":
        await world.execute("DELETE FROM sessions")
    else:
        await world.disable(tokens.user_id)
    assert not (await issuing.judge(exchanged, strict=True)).active
    for token in (tokens.access_token, exchanged):
        # The session may still be in this replica's cache, so the database is queried.
        with pytest.raises(Unauthenticated) as caught:
            await issuing.exchange(token)
        assert caught.value.reason is Reason.CREDENTIALS_INVALID
    assert len(await world.events("token.exchange")) == 1


async def test_only_active_user_tokens_are_exchanged(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    service = (await issuing.issue()).text
    expired = (await issuing.exchange(tokens.access_token)).text
    world.clock.advance(10 * MINUTE)
    told = set()
    for token in ("x", service, expired, tokens.refresh_token, tokens.session_token, "x" * 9_000):
        with pytest.raises(Unauthenticated) as caught:
            await issuing.exchange(token)
        told.add((caught.value.reason, caught.value.message))
    assert told == {(Reason.CREDENTIALS_INVALID, "The credentials are not valid.")}


@pytest.mark.slow
async def test_bound_token_is_exchanged_only_by_its_holder(world: World) -> None:
    issuing = Issuing(world)
    bound = await issuing.bound(await issuing.login(), SHOP)
    assert (await issuing.judge(bound)).reason is InactiveReason.CERTIFICATE_MISMATCH
    with pytest.raises(Unauthenticated):
        await issuing.exchange(bound, "ledger", caller=BILLING)
    exchanged = (await issuing.exchange(bound, "ledger")).text
    assert (await issuing.judge(exchanged)).reason is InactiveReason.CERTIFICATE_MISMATCH
    result = await issuing.judge(exchanged, "ledger", SHOP)
    assert result.claims is not None
    assert result.claims.certificate_thumbprint == SHOP.thumbprint


@pytest.mark.slow
async def test_exchange_is_recorded(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    token = await issuing.exchange(tokens.access_token, "billing", "read")
    (event,) = await world.events("token.exchange")
    assert (event["caller"], event["user_id"], event["session_id"]) == (
        *(CALL.caller, tokens.user_id, tokens.session_id),
    )
    assert json.loads(event["detail"]) == {
        "token_id": token.token_id,
        "audiences": ["billing"],
        "scopes": ["read"],
        "expire_time": token.expire_time.isoformat(),
        "from_token_id": (await issuing.claims(tokens.access_token)).token_id,
    }
