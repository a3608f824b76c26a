"""Service tokens: issued as configured, bound to the certificate, never valid for a user."""

import json
from dataclasses import replace

import pytest

from authsvc.core.lib import base64url
from authsvc.errors import CallerNotAllowed, FieldInvalid, Reason, Unauthenticated
from authsvc.models.tokens import InactiveReason, ServiceClaims
from tests.support.issuing import BILLING, MINUTE, NOBODY, SHOP, Issuing, payload_of
from tests.support.sessions import CALL, DAY, SECOND, World

# Claims


async def test_service_token_carries_subject_audience_and_certificate(
    world: World,
) -> None:
    issuing = Issuing(world)
    token = await issuing.issue("billing", "invoices.read")
    assert token.expire_time == world.clock.now() + 10 * MINUTE
    payload = payload_of(token.text)
    assert payload.keys() == {*("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "cnf")}
    assert (payload["sub"], payload["aud"], payload["scope"]) == (
        *(SHOP.identity, "billing", "invoices.read"),
    )
    assert payload["cnf"] == {"x5t#S256": base64url.encode(SHOP.thumbprint)}
    for strict in (True, False):
        result = await issuing.judge(token.text, "billing", SHOP, ["invoices.read"], strict=strict)
        claims = result.claims
        assert isinstance(claims, ServiceClaims)
        assert claims.subject == SHOP.identity
        assert claims.certificate_thumbprint == SHOP.thumbprint
        assert claims.token_id == token.token_id
        assert claims.actors == ()
    other = await issuing.judge(token.text, "billing", SHOP, ["invoices.write"])
    assert other.reason is InactiveReason.SCOPE_MISSING


async def test_service_gets_all_its_scopes_by_default(world: World) -> None:
    token = await Issuing(world).issue()
    assert payload_of(token.text)["scope"] == "invoices.read invoices.write"


async def test_service_gets_only_configured_audiences_and_scopes(
    world: World,
) -> None:
    issuing = Issuing(world)
    for caller, audience, scopes in (
        (NOBODY, "", ()),
        (NOBODY, "billing", ()),
        (SHOP, "", ()),  # its audiences lack the service's default
        (SHOP, "authsvc", ()),
        (SHOP, "Billing", ()),
        (SHOP, "billing ", ()),
        (SHOP, "billing", ("read",)),
        (SHOP, "billing", ("invoices.read", "admin")),
        (SHOP, "billing", ("invoices.read invoices.write",)),
        (replace(SHOP, scopes=frozenset()), "billing", ("invoices.read",)),
    ):
        with pytest.raises(CallerNotAllowed):
            await issuing.issue(audience, *scopes, caller=caller)
    assert await world.events("token.issue_service") == []
    default = replace(SHOP, audiences=frozenset({"authsvc"}))
    assert payload_of((await issuing.issue("", caller=default)).text)["aud"] == "authsvc"


async def test_service_token_does_not_outlive_certificate(world: World) -> None:
    issuing = Issuing(world, service_lifetime="1h")
    now = world.clock.now()
    for left, lifetime in ((2 * DAY, 60 * MINUTE), (MINUTE, MINUTE), (SECOND, SECOND)):
        caller = replace(SHOP, certificate_expire_time=now + left)
        assert (await issuing.issue(caller=caller)).expire_time == now + lifetime


async def test_scopes_exceeding_token_size_are_rejected(world: World) -> None:
    scopes = frozenset(f"{n:0128}" for n in range(64))
    with pytest.raises(FieldInvalid) as caught:
        await Issuing(world).issue(caller=replace(SHOP, scopes=scopes))
    assert caught.value.violations[0].field == "scopes"


async def test_service_token_works_only_with_its_certificate(world: World) -> None:
    issuing = Issuing(world)
    token = (await issuing.issue()).text
    for caller in (None, BILLING, replace(SHOP, thumbprint=SHOP.thumbprint[:31] + b"x")):
        for strict in (True, False):
            result = await issuing.judge(token, "billing", caller, strict=strict)
            assert result.reason is InactiveReason.CERTIFICATE_MISMATCH
            assert result.claims is None
    (many,) = await issuing.validation.validate_many([token], "billing")
    assert many.reason is InactiveReason.CERTIFICATE_MISMATCH
    assert (await issuing.judge(token, "billing", SHOP)).active
    world.clock.advance(10 * MINUTE)
    result = await issuing.judge(token, "billing", SHOP)
    assert result.reason is InactiveReason.EXPIRED


async def test_issue_is_recorded(world: World) -> None:
    token = await Issuing(world).issue("billing", "invoices.read")
    (event,) = await world.events("token.issue_service")
    assert (event["caller"], event["user_id"], event["session_id"]) == (CALL.caller, None, None)
    assert json.loads(event["detail"]) == {
        "token_id": token.token_id,
        "audiences": ["billing"],
        "scopes": ["invoices.read"],
        "expire_time": token.expire_time.isoformat(),
    }


# Not accepted as users' tokens


async def test_exchanged_service_and_bound_tokens_are_no_bearer_tokens(world: World) -> None:
    issuing = Issuing(world)
    tokens = await issuing.login()
    default = replace(SHOP, audiences=frozenset({"authsvc"}))
    for token in (
        (await issuing.exchange(tokens.access_token)).text,
        (await issuing.issue("", caller=default)).text,
        await issuing.bound(tokens, SHOP),
    ):
        with pytest.raises(Unauthenticated) as caught:
            await issuing.validation.bearer(token)
        assert caught.value.reason is Reason.BEARER_INVALID
    assert (await issuing.validation.bearer(tokens.access_token)).subject == tokens.user_id
