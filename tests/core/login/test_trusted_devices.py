"""Trusted devices, which need no second factor: for how long, and for which user."""

from datetime import timedelta

import pytest

from authsvc.config import SecondFactorSettings
from authsvc.errors import FieldInvalid
from authsvc.models.calls import ClientContext
from authsvc.models.factors import MfaChallenge
from authsvc.models.tokens import Tokens
from authsvc.store import devices
from tests.support.accounts import CALL, EMAIL, IP, OTHER_IP, PASSWORD, WRONG, unlimited
from tests.support.factors import STEP, App, Secured, reason
from tests.support.logins import PHONE, Replicas

EVE = "eve@example.test"


async def trusted(secured: Secured, email: str = EMAIL) -> App:
    """Enroll an app for the user, and trust the phone."""
    app, _ = await secured.secure(await secured.user(email))
    token = (await secured.challenge(email, device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE, trust=True)
    secured.clock.advance(STEP)
    return app


async def is_trusted(secured: Secured, email: str = EMAIL, device: str = PHONE) -> bool:
    """Return whether the password suffices on this device."""
    client = ClientContext(OTHER_IP, "Test", device)
    outcome = await secured.service.password_login.log_in(CALL, email, PASSWORD, client)
    return isinstance(outcome, Tokens)


@pytest.mark.slow
async def test_trusted_device_skips_second_factor(secured: Secured) -> None:
    await trusted(secured)
    client = ClientContext(IP, "Test", PHONE)
    tokens = await secured.service.log_in(CALL, EMAIL, PASSWORD, client)
    session = await secured.service.sessions.listing.get(tokens.session_id)
    # It is still a single factor.
    assert session.authentication_methods == ("pwd",)
    assert await secured.events("factor.device_trust") == {"factor.device_trust": 1}
    assert await secured.service.login(WRONG, device=PHONE) == "CREDENTIALS_INVALID"


async def test_device_is_trusted_only_on_request(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE)).mfa_token
    await secured.verify(token, app.code(), device=PHONE)
    assert not await is_trusted(secured)


@pytest.mark.slow
async def test_wrong_factor_earns_no_trust(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge(device=PHONE)).mfa_token
    wrong = secured.verify(token, app.wrong(), device=PHONE, trust=True)
    assert await reason(wrong) == "CREDENTIALS_INVALID"
    assert not await is_trusted(secured)


@pytest.mark.slow
async def test_trust_is_bound_to_device(secured: Secured) -> None:
    await trusted(secured)
    assert await is_trusted(secured)
    assert not await is_trusted(secured, device="laptop")
    assert not await is_trusted(secured, device="")


@pytest.mark.slow
async def test_trust_is_bound_to_user(secured: Secured) -> None:
    await trusted(secured)
    eves, _ = await secured.secure(await secured.user(EVE))
    assert not await is_trusted(secured, EVE)
    # Not even after Eve has logged in there.
    token = (await secured.challenge(EVE, device=PHONE)).mfa_token
    await secured.verify(token, eves.code(), device=PHONE)
    assert not await is_trusted(secured, EVE)


@pytest.mark.slow
async def test_trust_expires(secured: Secured) -> None:
    await trusted(secured)
    secured.clock.advance(timedelta(days=30) - timedelta(seconds=STEP + 1))
    assert await is_trusted(secured)
    # Using it did not prolong it.
    secured.clock.advance(1)
    assert not await is_trusted(secured)


async def test_removing_factor_ends_trust(secured: Secured) -> None:
    app = await trusted(secured)
    ada = await secured.user()
    await secured.secure(ada)
    assert await is_trusted(secured)
    await secured.own.remove(CALL, secured.claims(ada), app.factor_id)
    assert not await is_trusted(secured)


@pytest.mark.slow
async def test_forgetting_trust_affects_only_one_user(secured: Secured) -> None:
    await trusted(secured)
    await trusted(secured, EVE)
    async with secured.service.database.transaction() as connection:
        await devices.forget_trust(connection, await secured.user())
    assert not await is_trusted(secured)
    assert await is_trusted(secured, EVE)


@pytest.mark.slow
async def test_device_without_id_cannot_be_trusted(secured: Secured) -> None:
    app, _ = await secured.secure(await secured.user())
    token = (await secured.challenge()).mfa_token
    with pytest.raises(FieldInvalid) as refused:
        await secured.verify(token, app.code(), trust=True)
    assert refused.value.violations[0].field == "client.device_id"
    # That used nothing up.
    await secured.verify(token, app.code(), device=PHONE, trust=True)


@pytest.mark.slow
async def test_trusted_device_does_not_bypass_required_enrollment(replicas: Replicas) -> None:
    settings = SecondFactorSettings(required_for_roles=frozenset({"user"}))
    service = await replicas.start(unlimited(), factor_settings=settings)
    await service.register()
    secured = Secured(service)
    await trusted(secured)
    assert await is_trusted(secured)
    await secured.fetchval("DELETE FROM factors")
    await secured.fetchval("UPDATE users SET has_second_factor = false")
    client = ClientContext(IP, "Test", PHONE)
    outcome = await service.password_login.log_in(CALL, EMAIL, PASSWORD, client)
    assert isinstance(outcome, MfaChallenge)
    assert outcome.totp_enrollment is not None
