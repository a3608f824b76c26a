"""The owner of an address reclaims an account that somebody else created with it."""

import json
from dataclasses import replace

import asyncpg
import pytest

from authsvc.core.accounts.accounts import NewUser
from authsvc.core.codes.one_time_codes import Purpose
from authsvc.core.tokens.validation import TokenCheck
from authsvc.models.ids import UserId
from authsvc.models.tokens import Tokens
from tests.support.accounts import CALL, EMAIL, IP, PASSWORD
from tests.support.clock import FakeClock
from tests.support.factors import Secured
from tests.support.oauth import ADA, CLIENT, Federated

pytestmark = pytest.mark.slow

HIJACKER = replace(ADA, subject="666", email="mallory@example.test")
TABLES = (
    *("factors", "recovery_codes", "challenges", "one_time_codes"),
    *("identities", "api_keys", "devices", "oauth_states"),
)
API_KEY = """
INSERT INTO api_keys (key_id, user_id, name, prefix, key_hash, scopes, create_time, expire_time)
VALUES ($1, $1, 'k', 'authsvc_x', '\\x00', '{read}', $2, $2)
"""


async def hijack(federated: Federated) -> Tokens:
    """Create an account with somebody else's address, and every way to get back into it."""
    service = federated.service
    user_id = await service.register()
    tokens = await service.log_in(CALL, EMAIL, PASSWORD, replace(CLIENT, device_id="hijacker"))
    await federated.log_in(HIJACKER, link=tokens.access_token)
    secured = Secured(service)
    app, _ = await secured.secure_unproved(user_id)
    challenge = await secured.challenge(device="hijacker")
    await secured.verify(challenge.mfa_token, app.code(), device="hijacker", trust=True)
    await secured.challenge()
    await federated.begin(link=tokens.access_token)
    async with service.database.transaction() as connection:
        for purpose in Purpose:
            await service.codes.issue(connection, purpose, "mallory@example.test", user_id)
        await connection.execute(API_KEY, user_id, service.clock.now())
        await connection.execute(
            "UPDATE users SET display_name = 'Pay me', failed_logins = 7, failed_device_logins = 7"
            " WHERE user_id = $1",
            user_id,
        )
    return tokens


async def held(federated: Federated) -> dict[str, int]:
    """Return the number of rows in each table, without ended sessions."""
    counts = {}
    for table in (*TABLES, "sessions WHERE revoke_time IS NULL"):
        (row,) = await federated.fetch(f"SELECT count(*) FROM {table}")
        counts[table.partition(" ")[0]] = row[0]
    return counts


async def test_reclaim_removes_everything_of_hijacker(
    federated: Federated, clock: FakeClock
) -> None:
    stolen = await hijack(federated)
    assert all((await held(federated)).values())
    tokens, new_user = await federated.log_in()
    assert (tokens.user_id, new_user) == (stolen.user_id, False)

    assert await held(federated) == dict.fromkeys(TABLES, 0) | {
        # The owner's own rows, and the attempt to link, which can't be completed any more.
        "identities": 1,
        "devices": 1,
        "sessions": 1,
        "oauth_states": 1,
    }
    (user,) = await federated.fetch("SELECT * FROM users")
    assert (user["email"], user["display_name"]) == (ADA.email, "Ada")
    assert user["password_hash"] is user["pepper_id"] is None
    assert not user["has_second_factor"]
    assert (user["failed_logins"], user["failed_device_logins"]) == (0, 0)
    assert user["email_verify_time"] == clock.now()
    (identity,) = await federated.fetch("SELECT subject FROM identities")
    assert identity["subject"] == ADA.subject


async def test_reclaim_leaves_hijacker_no_way_back(federated: Federated) -> None:
    service = federated.service
    stolen = await hijack(federated)
    state = await federated.begin(link=stolen.access_token)
    mine, _ = await federated.log_in()

    assert await service.login(device="hijacker") == "CREDENTIALS_INVALID"
    judged = await federated.validation.validate(TokenCheck(stolen.access_token, strict=True))
    assert (judged.active, judged.reason) == (False, "SESSION_REVOKED")
    reasons = await federated.fetch("SELECT DISTINCT revoke_reason FROM sessions ORDER BY 1")
    assert [row[0] for row in reasons] == ["owner_arrived", None]
    # An attempt to link an identity that was under way at the provider fails.
    with pytest.raises(Exception, match="unknown, used or expired"):
        await federated.complete(state, HIJACKER)
    # The identity that the hijacker had linked counts as unknown now.
    tokens, new_user = await federated.log_in(HIJACKER)
    assert new_user
    assert tokens.user_id != mine.user_id
    assert await federated.tries() == "OK"


async def test_reclaim_is_published_to_caches_and_recorded(federated: Federated) -> None:
    stolen = await hijack(federated)
    await federated.log_in()
    revoked = await federated.fetch("SELECT user_id FROM revocations WHERE user_id IS NOT NULL")
    assert [row[0] for row in revoked] == [stolen.user_id]
    events = await federated.fetch(
        "SELECT type, user_id, ip, detail FROM audit_events ORDER BY event_id DESC LIMIT 4"
    )
    assert [row["type"] for row in reversed(events)] == [
        *("session.revoke", "user.owner_arrived", "identity.link", "user.login")
    ]
    assert {row["user_id"] for row in events} == {stolen.user_id}
    assert json.loads(events[3]["detail"])["reason"] == "owner_arrived"


async def test_reclaim_is_atomic(federated: Federated) -> None:
    await hijack(federated)
    query = "SELECT u::text FROM users u"
    before, (user,) = await held(federated), await federated.fetch(query)
    await federated.fetch(
        "ALTER TABLE audit_events ADD CONSTRAINT fault CHECK (type <> 'user.login') NOT VALID"
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await federated.log_in()
    after = await held(federated)
    assert after == before
    await federated.fetch("ALTER TABLE audit_events DROP CONSTRAINT fault")
    await federated.fetch("UPDATE users SET failed_logins = 7, failed_device_logins = 7")
    assert await federated.fetch(query) == [user]
    assert await federated.tries() == "OK"


async def test_reclaim_keeps_roles_and_create_time(federated: Federated, clock: FakeClock) -> None:
    user_id = await federated.service.accounts.create_user(
        CALL, NewUser(EMAIL, PASSWORD, roles=("user", "editor"))
    )
    made = clock.now()
    clock.advance(3_600)
    tokens, _ = await federated.log_in()
    assert tokens.user_id == user_id
    (user,) = await federated.fetch("SELECT roles, create_time FROM users")
    assert tuple(user) == (["user", "editor"], made)


async def test_reclaim_touches_only_one_account(federated: Federated) -> None:
    service = federated.service
    await hijack(federated)
    other = await service.register("b@example.test")
    bystander = await service.log_in(CALL, "b@example.test", PASSWORD, CLIENT)
    await Secured(service).secure_unproved(UserId(other))
    await federated.log_in()
    factors = await federated.fetch("SELECT user_id FROM factors")
    assert [row[0] for row in factors] == [other]
    judged = await federated.validation.validate(TokenCheck(bystander.access_token, strict=True))
    assert judged.active


async def test_address_verified_meanwhile_prevents_reclaim(federated: Federated) -> None:
    await hijack(federated)
    await federated.fetch("UPDATE users SET email_verify_time = create_time")
    before = await held(federated)
    assert await federated.tries() == "LINK_REQUIRES_LOGIN"
    assert await held(federated) == before
    assert await federated.service.login(ip=IP, device="hijacker") == "OK"
