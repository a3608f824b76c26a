"""A user's own factors: removed only by their user, together with what depends on them."""

import asyncio
from datetime import timedelta

import pytest

from authsvc.config import SecondFactorSettings
from authsvc.core.lib.ids import uuid7
from authsvc.models.calls import ClientContext
from authsvc.models.ids import FactorId
from authsvc.store import factors as store
from authsvc.store import users
from tests.support.accounts import CALL, unlimited
from tests.support.databases import until
from tests.support.factors import App, Secured, reason, reasons, used
from tests.support.logins import Replicas

PASSKEY = """
INSERT INTO factors (factor_id, user_id, kind, create_time, confirm_time, credential_id, public_key,
                     sign_count)
VALUES ($1, $2, 'passkey', now(), now(), $3, '', 0)
"""


@pytest.mark.slow
async def test_removing_last_factor_removes_recovery_codes(secured: Secured) -> None:
    ada = await secured.user()
    first, codes = await secured.secure(ada)
    second, _ = await secured.secure(ada)
    claims = secured.claims(ada)
    await secured.own.remove(CALL, claims, first.factor_id)
    token = (await secured.challenge()).mfa_token
    assert await reason(secured.verify(token, first.code())) == "CREDENTIALS_INVALID"
    await secured.verify(token, used(codes[0]))
    await secured.own.remove(CALL, claims, second.factor_id)
    assert await secured.service.login() == "OK"
    assert await secured.own.list(ada) == ([], 0)
    assert (await secured.notices())[-2:] == ["recovery_code_used", "factor_removed"]
    assert await secured.events("factor.remove") == {"factor.remove": 2}
    # A user who enrols again gets new ones.
    assert len((await secured.secure(ada))[1]) == 10


@pytest.mark.slow
async def test_only_own_confirmed_factors_can_be_removed(secured: Secured) -> None:
    ada, eve = await secured.user(), await secured.user("eve@example.test")
    app, _ = await secured.secure(ada)
    unconfirmed = await secured.enroll(ada)
    unknown = FactorId(uuid7(secured.clock.now()))
    for user_id, factor_id in (
        (eve, app.factor_id),
        (ada, unconfirmed.factor_id),
        (ada, unknown),
    ):
        call = secured.own.remove(CALL, secured.claims(user_id), factor_id)
        assert await reason(call) == "FACTOR_NOT_FOUND"
    assert await secured.fetchval("SELECT count(*) FROM factors") == 2
    assert await secured.notices() == ["factor_added"]


@pytest.mark.slow
async def test_factor_is_removed_once(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    claims = secured.claims(ada)
    outcomes = await reasons(secured.own.remove(CALL, claims, app.factor_id) for _ in range(20))
    assert outcomes == {"OK": 1, "FACTOR_NOT_FOUND": 19}
    assert (await secured.notices()).count("factor_removed") == 1


@pytest.mark.slow
async def test_flag_matches_factors_after_concurrent_changes(secured: Secured) -> None:
    ada = await secured.user()
    claims = secured.claims(ada)
    for _ in range(5):
        old, _ = await secured.secure(ada)
        new = await secured.enroll(ada)
        await asyncio.gather(
            secured.own.remove(CALL, claims, old.factor_id), secured.confirm(ada, new)
        )
        assert await secured.fetchval("SELECT has_second_factor FROM users") is True
        await secured.own.remove(CALL, claims, new.factor_id)
        assert await secured.fetchval("SELECT has_second_factor FROM users") is False


async def test_flag_reflects_concurrent_removals(secured: Secured) -> None:
    ada = await secured.user()
    first, second = [(await secured.secure(ada))[0] for _ in range(2)]

    async def waits() -> bool:
        query = """SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'"""
        return await secured.fetchval(query) == 1

    async with secured.service.database.transaction() as connection:
        await users.lock_user(connection, ada)
        await store.remove(connection, first.factor_id, ada)
        assert await store.update_flag(connection, ada) is True
        other = asyncio.create_task(secured.own.remove(CALL, secured.claims(ada), second.factor_id))
        await until(waits)
    await other
    assert await secured.fetchval("SELECT has_second_factor FROM users") is False


async def test_role_requiring_factor_prevents_removal_of_last_one(replicas: Replicas) -> None:
    settings = SecondFactorSettings(required_for_roles=frozenset({"user"}))
    service = await replicas.start(unlimited(), factor_settings=settings)
    await service.register()
    secured = Secured(service)
    ada = await secured.user()
    apps: list[App] = [(await secured.secure(ada))[0] for _ in range(2)]
    calls = (secured.own.remove(CALL, secured.claims(ada), app.factor_id) for app in apps)
    assert await reasons(calls) == {"OK": 1, "LAST_CREDENTIAL": 1}
    assert len((await secured.own.list(ada))[0]) == 1
    assert await secured.fetchval("SELECT count(*) FROM recovery_codes") == 10
    assert (await secured.notices()).count("factor_removed") == 1


async def test_last_passkey_without_other_credential_cannot_be_removed(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    claims = secured.claims(ada)
    passkeys = [FactorId(uuid7(secured.clock.now())) for _ in range(2)]
    for passkey in passkeys:
        await secured.fetchval(PASSKEY, passkey, ada, passkey.bytes)
    await secured.fetchval("UPDATE users SET password_hash = NULL, pepper_id = NULL")
    await secured.own.remove(CALL, claims, passkeys[0])
    assert await reason(secured.own.remove(CALL, claims, passkeys[1])) == "LAST_CREDENTIAL"
    await secured.own.remove(CALL, claims, app.factor_id)
    await secured.fetchval(
        "INSERT INTO identities (provider, subject, user_id, create_time, last_use_time)"
        " VALUES ('github', '1', $1, now(), now())",
        ada,
    )
    await secured.own.remove(CALL, claims, passkeys[1])


async def test_changes_require_recent_login(secured: Secured) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    unconfirmed = await secured.enroll(ada)
    old = secured.claims(ada, secured.clock.now() - timedelta(minutes=10, seconds=1))
    calls = (
        secured.totp.enroll(old, ""),
        secured.own.remove(CALL, old, app.factor_id),
        secured.own.generate_recovery_codes(CALL, old),
    )
    assert await reasons(calls) == {"REAUTHENTICATION_REQUIRED": 3}
    late = secured.clock.now()
    secured.clock.advance(601)
    assert await secured.fetchval("SELECT count(*) FROM factors") == 2
    confirm = secured.totp.confirm(
        CALL, secured.claims(ada, late), unconfirmed.factor_id, unconfirmed.code(), ClientContext()
    )
    assert await reason(confirm) == "REAUTHENTICATION_REQUIRED"


@pytest.mark.parametrize("gone", ["UPDATE users SET status = 'disabled'", "DELETE FROM users"])
async def test_disabled_or_deleted_user_cannot_change_factors(secured: Secured, gone: str) -> None:
    ada = await secured.user()
    app, _ = await secured.secure(ada)
    claims = secured.claims(ada)
    await secured.fetchval(gone)
    calls = (
        secured.totp.enroll(claims, ""),
        secured.own.remove(CALL, claims, app.factor_id),
        secured.own.generate_recovery_codes(CALL, claims),
    )
    assert await reasons(calls) == {"BEARER_INVALID": 3}
