"""Validation of API keys: their row, the user's permissions, their own limit, the cache."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from authsvc.core.api_keys.key_text import new_api_key
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.revocations import Revocation
from authsvc.models.tokens import InactiveReason
from tests.support.keys import MINUTE, replica
from tests.support.sessions import CALL, DAY, SECOND, HeldDatabase, World

MICROSECOND = timedelta(microseconds=1)


async def set_roles(world: World, user_id: UserId, *roles: str) -> None:
    await world.execute("UPDATE users SET roles = $2 WHERE user_id = $1", user_id, list(roles))


async def last_use(world: World, key_id: ApiKeyId) -> object:
    rows = await world.fetch("SELECT last_use_time FROM api_keys WHERE key_id = $1", key_id)
    return rows[0]["last_use_time"]


# Verdicts


async def test_active_key_returns_its_permissions(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", "write")
    for _ in range(2):  # from the database, from the cache
        result = await keys.judge(created.text, "read")
        assert result.active
        assert result.key == created.key
        assert result.scopes == ("read", "write")
        assert (result.reason, result.retry_after) == (None, None)


@pytest.mark.parametrize("warm", [True, False])
async def test_each_inactive_reason_is_reported(world: World, warm: bool) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", lifetime=DAY)
    if warm:
        assert await keys.reason(created.text) is None
    assert await keys.reason("x") is InactiveReason.MALFORMED
    assert await keys.reason(new_api_key("authsvc")) is InactiveReason.KEY_UNKNOWN
    assert await keys.reason(created.text, "write") is InactiveReason.SCOPE_MISSING
    assert await keys.reason(created.text, "read", "write") is InactiveReason.SCOPE_MISSING
    world.clock.advance(DAY - MICROSECOND)
    assert await keys.reason(created.text) is None
    world.clock.advance(MICROSECOND)
    assert await keys.reason(created.text) is InactiveReason.EXPIRED
    await world.disable(user_id)
    keys.cache.drop_all()
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    await keys.keys.revoke(CALL, user_id, created.key.key_id)
    assert await keys.reason(created.text) is InactiveReason.KEY_REVOKED
    await world.execute("DELETE FROM users")
    assert await keys.reason(created.text) is InactiveReason.KEY_UNKNOWN


async def test_cached_key_expires_on_time(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user(), lifetime=timedelta(seconds=90))
    world.clock.advance(60)
    assert await keys.reason(created.text) is None
    await world.database.close()
    world.clock.advance(30 * SECOND - MICROSECOND)
    assert await keys.reason(created.text) is None
    world.clock.advance(MICROSECOND)
    assert await keys.reason(created.text) is InactiveReason.EXPIRED


async def test_key_scopes_are_limited_by_current_user_roles(world: World) -> None:
    keys, user_id = replica(world), await world.add_user(roles=("user", "editor"))
    created = await keys.create(user_id, "read", "write")
    assert (await keys.judge(created.text)).scopes == ("read", "write")
    await set_roles(world, user_id, "editor")
    keys.cache.on_revocation(Revocation("user", str(user_id)))
    assert (await keys.judge(created.text)).scopes == ("write",)
    assert await keys.reason(created.text, "read") is InactiveReason.SCOPE_MISSING
    await set_roles(world, user_id)
    # Without a notification it takes effect too, but later.
    world.clock.advance(MINUTE)
    assert (await keys.judge(created.text)).scopes == ()
    await set_roles(world, user_id, "user", "editor")
    world.clock.advance(MINUTE)
    assert (await keys.judge(created.text)).scopes == ("read", "write")


async def test_new_role_adds_no_scope_to_key(world: World) -> None:
    keys, user_id = replica(world), await world.add_user(roles=("user",))
    created = await keys.create(user_id, "read")
    await set_roles(world, user_id, "user", "editor")
    assert (await keys.judge(created.text)).scopes == ("read",)


# The cache


async def test_cached_key_costs_no_query(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user())
    assert await keys.reason(created.text) is None
    await world.database.close()
    assert await keys.reason(created.text) is None
    world.clock.advance(MINUTE)
    with pytest.raises(StoreUnavailable):
        await keys.reason(created.text)


async def test_inactive_keys_are_not_cached(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id)
    await world.disable(user_id)
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    await world.execute("UPDATE users SET status = 'active'")
    assert await keys.reason(created.text) is None


async def test_disabled_and_full_caches_return_same_result(world: World) -> None:
    for size in (0, 1):
        keys, user_id = replica(world, cache_size=size), await world.add_user()
        made = [await keys.create(user_id) for _ in range(3)]
        for created in made * 2:
            assert await keys.reason(created.text) is None
        assert len(keys.validation._cache) == size


@pytest.mark.parametrize("how", ["key", "user", "gap"])
async def test_key_revoked_by_other_replica_is_evicted_on_event(world: World, how: str) -> None:
    here, there, user_id = replica(world), replica(world), await world.add_user()
    created, other = await there.create(user_id), await there.create(await world.add_user())
    assert await here.reason(created.text) is await here.reason(other.text) is None
    await there.keys.revoke(CALL, user_id, created.key.key_id)
    assert await here.reason(created.text) is None
    events: dict[str, Callable[[], None]] = {
        "key": lambda: here.cache.on_revocation(Revocation("api_key", str(created.key.key_id))),
        "user": lambda: here.cache.on_revocation(Revocation("user", str(user_id))),
        "gap": here.cache.drop_all,
    }
    events[how]()
    assert await here.reason(created.text) is InactiveReason.KEY_REVOKED
    if how != "gap":
        await world.database.close()
        assert await here.reason(other.text) is None


async def test_revocations_of_other_kinds_keep_cached_key(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user())
    assert await keys.reason(created.text) is None
    keys.cache.on_revocation(Revocation("session", str(created.key.key_id)))
    keys.cache.on_revocation(Revocation("key", str(created.key.key_id)))
    await world.database.close()
    assert await keys.reason(created.text) is None


async def test_key_revoked_locally_is_evicted_immediately(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id)
    assert await keys.reason(created.text) is None
    await keys.keys.revoke(CALL, user_id, created.key.key_id)
    assert await keys.reason(created.text) is InactiveReason.KEY_REVOKED


async def test_cache_is_bypassed_while_revocation_listener_is_down(world: World) -> None:
    heard = True
    here, there = replica(world, is_fresh=lambda: heard), replica(world)
    user_id = await world.add_user()
    created = await there.create(user_id)
    assert await here.reason(created.text) is None
    await there.keys.revoke(CALL, user_id, created.key.key_id)
    assert await here.reason(created.text) is None
    heard = False
    assert await here.reason(created.text) is InactiveReason.KEY_REVOKED


@pytest.mark.parametrize("how", ["key", "user", "gap"])
async def test_key_revoked_during_read_is_not_cached(world: World, how: str) -> None:
    held, there, user_id = HeldDatabase(world.database), replica(world), await world.add_user()
    here = replica(world, database=held)
    created = await there.create(user_id)
    reading = asyncio.create_task(here.reason(created.text))
    await held.has_read.wait()
    await there.keys.revoke(CALL, user_id, created.key.key_id)
    match how:
        case "key":
            here.cache.on_revocation(Revocation("api_key", str(created.key.key_id)))
        case "user":
            here.cache.on_revocation(Revocation("user", str(user_id)))
        case _:
            here.cache.drop_all()
    held.go_on.set()
    assert await reading is None  # It was active when it was read.
    assert await here.reason(created.text) is InactiveReason.KEY_REVOKED


async def test_concurrent_cache_misses_share_one_read(world: World) -> None:
    held, there, user_id = HeldDatabase(world.database), replica(world), await world.add_user()
    here = replica(world, database=held)
    made = [await there.create(user_id) for _ in range(10)]
    asked = [asyncio.create_task(here.reason(made[n % 10].text)) for n in range(100)]
    await held.has_read.wait()
    held.go_on.set()
    assert await asyncio.gather(*asked) == [None] * 100
    assert held.borrowed <= 2


# The key's own limit


async def test_each_key_has_its_own_rate_limit(world: World) -> None:
    here, there = replica(world), replica(world)
    user_id = await world.add_user()
    created, other = [await here.create(user_id, policy="two") for _ in range(2)]
    free = await here.create(user_id)
    assert await here.reason(created.text) is None
    assert await there.reason(created.text) is None
    for keys in (here, there):
        result = await keys.judge(created.text)
        assert result.reason is InactiveReason.RATE_LIMITED
        assert result.key is None
        assert result.scopes == ()
        assert result.retry_after is not None
        assert 0 < result.retry_after <= 1_800
    assert await here.reason(other.text) is None
    for _ in range(5):
        assert await here.reason(free.text) is None


async def test_only_uses_of_active_key_are_charged(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", policy="two")
    assert await keys.reason(created.text, "write") is InactiveReason.SCOPE_MISSING
    assert (await keys.limiter.get("two", str(created.key.key_id))).remaining == 1
    await world.disable(user_id)
    keys.cache.drop_all()
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    assert (await keys.limiter.get("two", str(created.key.key_id))).remaining == 1


async def test_concurrent_uses_never_exceed_limit(world: World) -> None:
    replicas = [replica(world) for _ in range(2)]
    created = await replicas[0].create(await world.add_user(), policy="ten")
    calls = (replicas[n % 2].reason(created.text) for n in range(100))
    reasons = await asyncio.gather(*calls)
    assert reasons.count(None) == 10
    assert set(reasons) == {None, InactiveReason.RATE_LIMITED}


async def test_key_with_removed_policy_is_rejected(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user(), policy="two")
    later = replica(world, policies={})
    result = await later.judge(created.text)
    assert (result.reason, result.retry_after) == (InactiveReason.RATE_LIMITED, None)


# The last use


async def test_last_use_is_written_once_a_minute(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user())
    first = world.clock.now()
    await keys.reason(created.text)
    assert await last_use(world, created.key.key_id) is None
    await keys.last_use.flush()
    assert await last_use(world, created.key.key_id) == first
    world.clock.advance(59)
    await keys.reason(created.text)
    await keys.last_use.flush()
    assert await last_use(world, created.key.key_id) == first
    world.clock.advance(1)
    await keys.reason(created.text)
    await keys.last_use.flush()
    assert await last_use(world, created.key.key_id) == first + MINUTE


async def test_last_use_of_inactive_key_is_not_written(world: World) -> None:
    keys, user_id = replica(world, is_fresh=lambda: False), await world.add_user()
    revoked, expired = await keys.create(user_id), await keys.create(user_id, lifetime=MINUTE)
    await keys.keys.revoke(CALL, user_id, revoked.key.key_id)
    world.clock.advance(MINUTE)
    for created in (revoked, expired):
        await keys.reason(created.text)
        await keys.last_use.flush()
        assert await last_use(world, created.key.key_id) is None


async def test_listener_outage_causes_no_extra_last_use_writes(world: World) -> None:
    keys = replica(world, is_fresh=lambda: False)
    created = await keys.create(await world.add_user())
    await keys.reason(created.text)
    await keys.last_use.flush()
    before = await _version(world, created.key.key_id)
    world.clock.advance(59)
    await keys.reason(created.text)
    await keys.last_use.flush()
    assert await _version(world, created.key.key_id) == before


async def _version(world: World, key_id: UUID) -> object:
    rows = await world.fetch("SELECT xmin::text FROM api_keys WHERE key_id = $1", key_id)
    return rows[0]["xmin"]
