"""API keys judged: by their row, by what their user may do, by their own limit, from the cache."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from authsvc.core.api_keys.key_text import new_api_key
from authsvc.core.revocations.listener import Revocation
from authsvc.errors import StoreUnavailable
from authsvc.models.ids import ApiKeyId, UserId
from authsvc.models.tokens import InactiveReason
from tests.support.keys import MINUTE, replica
from tests.support.sessions import CALL, DAY, SECOND, HeldDatabase, World

MICROSECOND = timedelta(microseconds=1)


async def set_roles(world: World, user_id: UserId, *roles: str) -> None:
    await world.execute("UPDATE users SET roles = $2 WHERE user_id = $1", user_id, list(roles))


async def last_use(world: World, key_id: ApiKeyId) -> object:
    rows = await world.fetch("SELECT last_use_time FROM api_keys WHERE key_id = $1", key_id)
    return rows[0]["last_use_time"]


# What is judged


async def test_an_active_key_gives_what_it_may_do(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", "write")
    for _ in range(2):  # from the database, from the cache
        result = await keys.judge(created.text, "read")
        assert result.active
        assert result.key == created.key
        assert result.scopes == ("read", "write")
        assert (result.reason, result.retry_after) == (None, None)


@pytest.mark.parametrize("warm", [True, False])
async def test_each_reason_is_told_apart(world: World, warm: bool) -> None:
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
    keys.validation.on_gap()
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    await keys.keys.revoke(CALL, user_id, created.key.key_id)
    assert await keys.reason(created.text) is InactiveReason.KEY_REVOKED
    await world.execute("DELETE FROM users")
    assert await keys.reason(created.text) is InactiveReason.KEY_UNKNOWN


async def test_a_cached_key_expires_in_time(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user(), lifetime=timedelta(seconds=90))
    world.clock.advance(60)
    assert await keys.reason(created.text) is None
    await world.database.close()
    world.clock.advance(30 * SECOND - MICROSECOND)
    assert await keys.reason(created.text) is None
    world.clock.advance(MICROSECOND)
    assert await keys.reason(created.text) is InactiveReason.EXPIRED


async def test_a_key_may_do_no_more_than_its_user_at_present(world: World) -> None:
    keys, user_id = replica(world), await world.add_user(roles=("user", "editor"))
    created = await keys.create(user_id, "read", "write")
    assert (await keys.judge(created.text)).scopes == ("read", "write")
    await set_roles(world, user_id, "editor")
    keys.validation.on_revocation(Revocation("user", str(user_id)))
    assert (await keys.judge(created.text)).scopes == ("write",)
    assert await keys.reason(created.text, "read") is InactiveReason.SCOPE_MISSING
    await set_roles(world, user_id)
    # Also when nobody said so, if later.
    world.clock.advance(MINUTE)
    assert (await keys.judge(created.text)).scopes == ()
    await set_roles(world, user_id, "user", "editor")
    world.clock.advance(MINUTE)
    assert (await keys.judge(created.text)).scopes == ("read", "write")


async def test_a_key_gains_nothing_by_a_new_role(world: World) -> None:
    keys, user_id = replica(world), await world.add_user(roles=("user",))
    created = await keys.create(user_id, "read")
    await set_roles(world, user_id, "user", "editor")
    assert (await keys.judge(created.text)).scopes == ("read",)


# The cache


async def test_warm_keys_cost_no_query(world: World) -> None:
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


async def test_a_cache_of_no_size_and_a_full_one_answer_alike(world: World) -> None:
    for size in (0, 1):
        keys, user_id = replica(world, cache_size=size), await world.add_user()
        made = [await keys.create(user_id) for _ in range(3)]
        for created in made * 2:
            assert await keys.reason(created.text) is None
        assert len(keys.validation._cache) == size


@pytest.mark.parametrize("how", ["key", "user", "gap"])
async def test_a_key_revoked_elsewhere_is_dropped_when_told(world: World, how: str) -> None:
    here, there, user_id = replica(world), replica(world), await world.add_user()
    created, other = await there.create(user_id), await there.create(await world.add_user())
    assert await here.reason(created.text) is await here.reason(other.text) is None
    await there.keys.revoke(CALL, user_id, created.key.key_id)
    assert await here.reason(created.text) is None
    events: dict[str, Callable[[], None]] = {
        "key": lambda: here.validation.on_revocation(
            Revocation("api_key", str(created.key.key_id))
        ),
        "user": lambda: here.validation.on_revocation(Revocation("user", str(user_id))),
        "gap": here.validation.on_gap,
    }
    events[how]()
    assert await here.reason(created.text) is InactiveReason.KEY_REVOKED
    if how != "gap":
        await world.database.close()
        assert await here.reason(other.text) is None


async def test_revocations_of_other_kinds_leave_keys_alone(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user())
    assert await keys.reason(created.text) is None
    keys.validation.on_revocation(Revocation("session", str(created.key.key_id)))
    keys.validation.on_revocation(Revocation("key", str(created.key.key_id)))
    await world.database.close()
    assert await keys.reason(created.text) is None


async def test_a_key_revoked_here_is_dropped_at_once(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id)
    assert await keys.reason(created.text) is None
    await keys.keys.revoke(CALL, user_id, created.key.key_id)
    assert await keys.reason(created.text) is InactiveReason.KEY_REVOKED


async def test_the_cache_is_not_used_while_revocations_are_not_heard(world: World) -> None:
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
async def test_what_is_revoked_while_it_is_read_is_not_cached(world: World, how: str) -> None:
    held, there, user_id = HeldDatabase(world.database), replica(world), await world.add_user()
    here = replica(world, database=held)
    created = await there.create(user_id)
    reading = asyncio.create_task(here.reason(created.text))
    await held.has_read.wait()
    await there.keys.revoke(CALL, user_id, created.key.key_id)
    match how:
        case "key":
            here.validation.on_revocation(Revocation("api_key", str(created.key.key_id)))
        case "user":
            here.validation.on_revocation(Revocation("user", str(user_id)))
        case _:
            here.validation.on_gap()
    held.go_on.set()
    assert await reading is None  # It was active when it was read.
    assert await here.reason(created.text) is InactiveReason.KEY_REVOKED


async def test_cold_keys_asked_for_together_are_read_together(world: World) -> None:
    held, there, user_id = HeldDatabase(world.database), replica(world), await world.add_user()
    here = replica(world, database=held)
    made = [await there.create(user_id) for _ in range(10)]
    asked = [asyncio.create_task(here.reason(made[n % 10].text)) for n in range(100)]
    await held.has_read.wait()
    held.go_on.set()
    assert await asyncio.gather(*asked) == [None] * 100
    assert held.borrowed <= 2


# The key's own limit


async def test_a_key_has_a_limit_of_its_own(world: World) -> None:
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


async def test_every_use_of_a_key_in_force_is_charged_and_no_other(world: World) -> None:
    keys, user_id = replica(world), await world.add_user()
    created = await keys.create(user_id, "read", policy="two")
    assert await keys.reason(created.text, "write") is InactiveReason.SCOPE_MISSING
    assert (await keys.limiter.get("two", str(created.key.key_id))).remaining == 1
    await world.disable(user_id)
    keys.validation.on_gap()
    assert await keys.reason(created.text) is InactiveReason.USER_DISABLED
    assert (await keys.limiter.get("two", str(created.key.key_id))).remaining == 1


async def test_many_uses_at_once_are_no_more_than_the_limit(world: World) -> None:
    replicas = [replica(world) for _ in range(2)]
    created = await replicas[0].create(await world.add_user(), policy="ten")
    calls = (replicas[n % 2].reason(created.text) for n in range(100))
    reasons = await asyncio.gather(*calls)
    assert reasons.count(None) == 10
    assert set(reasons) == {None, InactiveReason.RATE_LIMITED}


async def test_a_key_whose_policy_is_gone_is_refused(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user(), policy="two")
    later = replica(world, policies={})
    result = await later.judge(created.text)
    assert (result.reason, result.retry_after) == (InactiveReason.RATE_LIMITED, None)


# The last use


async def test_the_last_use_is_noted_once_a_minute(world: World) -> None:
    keys = replica(world)
    created = await keys.create(await world.add_user())
    first = world.clock.now()
    await keys.reason(created.text)
    assert await last_use(world, created.key.key_id) is None
    await keys.validation.flush()
    assert await last_use(world, created.key.key_id) == first
    world.clock.advance(59)
    await keys.reason(created.text)
    await keys.validation.flush()
    assert await last_use(world, created.key.key_id) == first
    world.clock.advance(1)
    await keys.reason(created.text)
    await keys.validation.flush()
    assert await last_use(world, created.key.key_id) == first + MINUTE


async def test_the_last_use_of_inactive_keys_is_not_noted(world: World) -> None:
    keys, user_id = replica(world, is_fresh=lambda: False), await world.add_user()
    revoked, expired = await keys.create(user_id), await keys.create(user_id, lifetime=MINUTE)
    await keys.keys.revoke(CALL, user_id, revoked.key.key_id)
    world.clock.advance(MINUTE)
    for created in (revoked, expired):
        await keys.reason(created.text)
        await keys.validation.flush()
        assert await last_use(world, created.key.key_id) is None


async def test_unheard_revocations_don_t_make_more_writes(world: World) -> None:
    keys = replica(world, is_fresh=lambda: False)
    created = await keys.create(await world.add_user())
    await keys.reason(created.text)
    await keys.validation.flush()
    before = await _version(world, created.key.key_id)
    world.clock.advance(59)
    await keys.reason(created.text)
    await keys.validation.flush()
    assert await _version(world, created.key.key_id) == before


async def _version(world: World, key_id: UUID) -> object:
    rows = await world.fetch("SELECT xmin::text FROM api_keys WHERE key_id = $1", key_id)
    return rows[0]["xmin"]
