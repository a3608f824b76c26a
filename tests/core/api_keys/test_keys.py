"""Creating, listing and revoking API keys: rules, stored rows and notices."""

import asyncio
import json
from datetime import timedelta
from uuid import UUID

import pytest

from authsvc.config import BruteForceSettings, PolicySettings
from authsvc.core.api_keys.key_text import digest
from authsvc.core.api_keys.keys import NewApiKey
from authsvc.errors import (
    FailedPrecondition,
    FieldInvalid,
    NotFound,
    Reason,
    ServiceError,
    TooManyAttempts,
)
from authsvc.models.api_keys import ApiKey
from authsvc.models.ids import ApiKeyId, UserId
from tests.support.accounts import unlimited
from tests.support.keys import MINUTE, claims_of, replica
from tests.support.sessions import CALL, DAY, SECOND, World

NOBODY = ApiKeyId(UUID(int=1))


async def stored(world: World) -> dict[str, int]:
    """Return the counts of all rows that creating a key writes."""
    tables = ("api_keys", "outbox", "revocations", "audit_events WHERE type LIKE 'api_key.%'")
    return {
        table.partition(" ")[0]: (await world.fetch(f"SELECT count(*) FROM {table}"))[0]["count"]
        for table in tables
    }


# Create


async def test_repeated_create_and_revoke_is_limited_per_day(world: World) -> None:
    few = BruteForceSettings(api_keys_per_user=PolicySettings(requests=3, window=DAY))
    keys, other = replica(world, limits=few), replica(world, limits=few)
    ada, bob = [await world.add_user() for _ in range(2)]
    for one in (keys, other, keys):
        created = await one.create(ada)
        await one.keys.revoke(CALL, ada, created.key.key_id)
    before = await stored(world)
    for one in (keys, other):
        with pytest.raises(TooManyAttempts) as caught:
            await one.create(ada)
        assert 0 < caught.value.retry_after <= DAY.total_seconds() / 3
    assert await stored(world) == before
    await other.create(bob)


async def test_concurrent_creates_respect_daily_limit(world: World) -> None:
    few = BruteForceSettings(api_keys_per_user=PolicySettings(requests=3, window=DAY))
    replicas = [replica(world, limits=few, max_per_user=100) for _ in range(2)]
    user_id = await world.add_user()
    calls = (replicas[n % 2].create(user_id) for n in range(100))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [found for found in outcomes if isinstance(found, TooManyAttempts)]
    assert len(refused) == 97
    assert (await stored(world))["api_keys"] == 3


@pytest.mark.slow
async def test_failed_creates_do_not_count_toward_limit(world: World) -> None:
    few = BruteForceSettings(api_keys_per_user=PolicySettings(requests=2, window=DAY))
    keys, user_id = replica(world, limits=few, max_per_user=1), await world.add_user()
    created = await keys.create(user_id)
    for _ in range(3):
        with pytest.raises(FailedPrecondition):
            await keys.create(user_id)
    await keys.keys.revoke(CALL, user_id, created.key.key_id)
    await keys.create(user_id)


async def test_created_key_has_requested_attributes(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", name="Gebäude 🏗", lifetime=DAY, policy="two")
    key = created.key
    assert created.text.startswith("authsvc_")
    assert created.text.startswith(key.prefix)
    assert len(key.prefix) == len("authsvc_") + 6
    assert (key.user_id, key.name, key.scopes, key.policy) == (
        *(user_id, "Gebäude 🏗", ("read",), "two"),
    )
    assert (key.create_time, key.expire_time) == (world.clock.now(), world.clock.now() + DAY)
    assert (key.last_use_time, key.revoke_time) == (None, None)
    assert (await keys.keys.list(user_id, 50, "")).keys == [key]


async def test_omitted_attributes_default_to_maximum(world: World) -> None:
    keys, user_id = replica(world, policy="ten", prefix="acme"), await world.add_user()
    created = await keys.create(user_id)
    assert created.key.scopes == ("read", "write")
    assert created.key.policy == "ten"
    assert created.key.expire_time == world.clock.now() + timedelta(days=365)
    assert created.text.startswith("acme_")


async def test_only_hash_of_key_is_stored(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id)
    (row,) = await world.fetch("SELECT * FROM api_keys")
    assert row["key_hash"] == digest(created.text)
    for table in ("api_keys", "outbox", "audit_events"):
        rows = await world.fetch(f"SELECT t::text, t.* FROM {table} t")
        assert created.text[len(created.key.prefix) :] not in repr([tuple(row) for row in rows])
    assert created.text not in repr(created)


async def test_scope_missing_from_token_is_rejected(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    narrow = claims_of(world, user_id, "read")
    for scopes, field in ((("write",), "scopes[0]"), (("read", "read "), "scopes[1]")):
        with pytest.raises(FieldInvalid) as caught:
            await keys.keys.create(CALL, narrow, NewApiKey("ci", scopes))
        assert caught.value.violations[0].field == field
    assert (await keys.keys.create(CALL, narrow, NewApiKey("ci"))).key.scopes == ("read",)
    twice = await keys.keys.create(CALL, narrow, NewApiKey("ci", ("read", "read")))
    assert twice.key.scopes == ("read",)


@pytest.mark.parametrize(
    "lifetime", [timedelta(0), -DAY, MINUTE - SECOND, 365 * DAY + timedelta(microseconds=1)]
)
async def test_lifetime_out_of_bounds_is_rejected(world: World, lifetime: timedelta) -> None:
    keys, user_id = replica(world), await world.add_user()
    with pytest.raises(FieldInvalid) as caught:
        await keys.create(user_id, lifetime=lifetime)
    assert caught.value.violations[0].field == "lifetime"


@pytest.mark.parametrize("lifetime", [MINUTE, 365 * DAY])
async def test_lifetime_at_bound_is_accepted(world: World, lifetime: timedelta) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, lifetime=lifetime)
    assert created.key.expire_time == world.clock.now() + lifetime


async def test_unknown_policy_is_rejected(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    with pytest.raises(NotFound) as caught:
        await keys.create(user_id, policy="three")
    assert caught.value.reason is Reason.POLICY_UNKNOWN
    assert await stored(world) == dict.fromkeys(await stored(world), 0)


async def test_create_requires_recent_login(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    for age, refused in ((10 * MINUTE, False), (10 * MINUTE + SECOND, True)):
        claims = claims_of(world, user_id, age=age)
        if refused:
            with pytest.raises(FailedPrecondition) as caught:
                await keys.keys.create(CALL, claims, NewApiKey("ci"))
            assert caught.value.reason is Reason.REAUTHENTICATION_REQUIRED
        else:
            await keys.keys.create(CALL, claims, NewApiKey("ci"))
    assert (await stored(world))["api_keys"] == 1


@pytest.mark.parametrize("statement", ["UPDATE users SET status = 'disabled'", "DELETE FROM users"])
async def test_disabled_or_deleted_user_cannot_create_key(world: World, statement: str) -> None:
    keys, user_id = replica(world), await world.add_user()
    await world.execute(statement)
    with pytest.raises(ServiceError) as caught:
        await keys.create(user_id)
    assert caught.value.reason is Reason.BEARER_INVALID
    assert await stored(world) == dict.fromkeys(await stored(world), 0)


@pytest.mark.slow
async def test_only_active_keys_count_toward_limit(world: World) -> None:
    keys, user_id = replica(world, max_per_user=2), await world.add_user()
    short, revoked = await keys.create(user_id, lifetime=MINUTE), await keys.create(user_id)
    with pytest.raises(FailedPrecondition) as caught:
        await keys.create(user_id)
    assert (caught.value.reason, caught.value.metadata) == (Reason.LIMIT_REACHED, {"limit": "2"})
    before = await stored(world)
    assert before == {"api_keys": 2, "outbox": 2, "audit_events": 2, "revocations": 0}
    await keys.create(await world.add_user())
    await keys.keys.revoke(CALL, user_id, revoked.key.key_id)
    await keys.create(user_id)
    world.clock.advance(MINUTE)
    assert short.key.expire_time == world.clock.now()
    await keys.create(user_id)
    with pytest.raises(FailedPrecondition):
        await keys.create(user_id)


@pytest.mark.slow
async def test_concurrent_creates_respect_limit_per_user(world: World) -> None:
    replicas = [replica(world, max_per_user=3, limits=unlimited()) for _ in range(2)]
    user_id = await world.add_user()
    calls = (replicas[n % 2].create(user_id) for n in range(100))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [found for found in outcomes if isinstance(found, FailedPrecondition)]
    assert len(refused) == 97
    assert (await stored(world))["api_keys"] == 3


async def test_create_is_recorded_and_notifies_user(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", name="secret-looking-name")
    (event,) = await world.events("api_key.create")
    assert (event["user_id"], event["caller"]) == (user_id, CALL.caller)
    assert json.loads(event["detail"]) == {
        "key_id": str(created.key.key_id),
        "scopes": ["read"],
        "policy": "",
        "expire_time": created.key.expire_time.isoformat(),
    }
    (message,) = await world.fetch("SELECT kind, user_id, state FROM outbox")
    assert tuple(message) == ("api_key_created", user_id, "pending")


# List


async def test_keys_are_listed_newest_first_in_pages(world: World) -> None:
    keys, user_id, other = replica(world), await world.add_user(), await world.add_user()
    made = []
    for _ in range(5):
        made.append((await keys.create(user_id)).key.key_id)
        await keys.create(other)
        world.clock.advance(1)
    await keys.keys.revoke(CALL, user_id, made[2])
    listed, sizes, token = list[ApiKey](), list[int](), ""
    while True:
        page = await keys.keys.list(user_id, 2, token)
        listed += page.keys
        sizes.append(len(page.keys))
        token = page.next_page_token
        if not token:
            break
    assert [key.key_id for key in listed] == made[::-1]
    assert sizes == [2, 2, 1]
    assert [key.revoke_time is None for key in listed] == [True, True, False, True, True]
    assert (await keys.keys.list(user_id, 5, "")).next_page_token == ""


async def test_page_token_is_bound_to_user(world: World) -> None:
    keys, user_id, other = replica(world), await world.add_user(), await world.add_user()
    for _ in range(2):
        await keys.create(user_id)
    token = (await keys.keys.list(user_id, 1, "")).next_page_token
    for owner, text in ((other, token), (user_id, token[:-1]), (user_id, "x"), (user_id, "é")):
        with pytest.raises(FieldInvalid) as caught:
            await keys.keys.list(owner, 1, text)
        assert caught.value.violations[0].field == "page_token"


# Revoke


async def test_key_is_revoked_once(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    key_id = (await keys.create(user_id)).key.key_id
    world.clock.advance(5)
    revoked_at = world.clock.now()
    for _ in range(2):
        await keys.keys.revoke(CALL, user_id, key_id)
        world.clock.advance(5)
    (key,) = (await keys.keys.list(user_id, 50, "")).keys
    assert key.revoke_time == revoked_at
    (event,) = await world.events("api_key.revoke")
    assert (event["user_id"], json.loads(event["detail"])) == (user_id, {"key_id": str(key_id)})
    (said,) = await world.fetch("SELECT api_key_id, revoke_time FROM revocations")
    assert tuple(said) == (key_id, revoked_at)


@pytest.mark.slow
async def test_concurrent_revokes_revoke_key_once(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    key_id = (await keys.create(user_id)).key.key_id
    await asyncio.gather(*(keys.keys.revoke(CALL, user_id, key_id) for _ in range(100)))
    assert len(await world.events("api_key.revoke")) == 1
    assert (await stored(world))["revocations"] == 1


async def test_key_of_another_user_is_not_found(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id)
    errors = set()
    for owner, key_id in (
        (await world.add_user(), created.key.key_id),
        (user_id, NOBODY),
        (UserId(NOBODY), created.key.key_id),
    ):
        with pytest.raises(NotFound) as caught:
            await keys.keys.revoke(CALL, owner, key_id)
        errors.add((caught.value.reason, caught.value.message))
    assert errors == {(Reason.KEY_NOT_FOUND, "No API key has this id.")}
    assert await keys.reason(created.text) is None
    assert (await stored(world))["revocations"] == 0
