"""The rate limiter on several replicas: exact limits, atomic checks, no deadlocks."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from authsvc.core.lib.slices import Slices
from authsvc.core.limits.limiter import Check, RateLimiter
from authsvc.models.limits import Algorithm, Charge, CheckResult, Policy
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Database
from tests.support.databases import opened

pytestmark = pytest.mark.slow

_DAY = timedelta(days=1)
# Long windows, so that nothing drains while a test runs.
_POLICIES = {
    policy.name: policy
    for policy in (
        Policy("many", 1_000, 366 * _DAY),
        Policy("token", 37, 366 * _DAY),
        Policy("sliding", 37, _DAY, algorithm=Algorithm.SLIDING_WINDOW),
        Policy("fixed", 37, 366 * _DAY, algorithm=Algorithm.FIXED_WINDOW),
        Policy("small", 11, 366 * _DAY),
    )
}


@pytest.fixture
async def databases(database_dsn: str) -> AsyncIterator[list[Database]]:
    """The pools of two replicas."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(database_dsn, pool_max=6)) for _ in range(2)]


def _limiters(databases: list[Database], each: int = 1) -> list[RateLimiter]:
    return [
        RateLimiter(database=database, policies=_POLICIES, rejected_cache_size=0)
        for database in databases
        for _ in range(each)
    ]


def _granted(results: list[CheckResult]) -> int:
    return sum(result.allowed for result in results)


@pytest.mark.parametrize("policy", ["token", "sliding", "fixed"])
async def test_hundred_concurrent_callers_get_exactly_the_limit(
    databases: list[Database], policy: str
) -> None:
    limiters = _limiters(databases, each=5)
    results = await asyncio.gather(
        *(limiters[number % 10].check([Charge(policy, "k")]) for number in range(100))
    )
    assert _granted(results) == 37


async def test_concurrent_batches_and_multi_key_checks_get_exact_limit(
    databases: list[Database],
) -> None:
    limiters = _limiters(databases, each=3)
    single, pair = [Charge("token", "k")], [Charge("many", "x"), Charge("token", "k", 2)]
    singles = [limiter.check_many([Check(single)] * 9, Slices()) for limiter in limiters]
    pairs = [limiter.check(pair) for limiter in limiters for _ in range(4)]
    batches, pair_results = await asyncio.gather(asyncio.gather(*singles), asyncio.gather(*pairs))
    used = sum(map(_granted, batches)) + 2 * _granted(pair_results)
    assert used in {36, 37}
    assert (await limiters[0].get("token", "k")).remaining == 37 - used
    assert (await limiters[0].get("many", "x")).remaining == 1_000 - _granted(pair_results)


async def test_multi_key_check_is_atomic(
    databases: list[Database],
) -> None:
    limiters = _limiters(databases, each=3)
    # Whatever the order of the keys, and whoever holds the scarce one.
    orders = [
        [Charge("many", "a"), Charge("small", "b"), Charge("many", "c")],
        [Charge("many", "c"), Charge("small", "b"), Charge("many", "a")],
        [Charge("small", "b"), Charge("many", "a"), Charge("many", "c")],
    ]
    results = await asyncio.gather(
        *(limiters[number % 6].check(orders[number % 3]) for number in range(60))
    )
    assert _granted(results) == 11
    for key, policy in (("a", "many"), ("b", "small"), ("c", "many")):
        verdict = await limiters[0].get(policy, key)
        assert verdict.limit - verdict.remaining == 11


async def test_overlapping_keys_in_any_order_never_deadlock(databases: list[Database]) -> None:
    random.seed(5)
    limiters = _limiters(databases, each=3)
    keys = [f"k{number}" for number in range(12)]
    tasks = []
    for number in range(240):
        limiter = limiters[number % 6]
        some = [Charge("many", key) for key in random.sample(keys, random.randint(2, 8))]
        if number % 3 == 0:
            tasks.append(asyncio.create_task(limiter.check(some)))
        elif number % 3 == 1:
            checks = [Check([charge]) for charge in some] + [Check(some[::-1])]
            tasks.append(asyncio.create_task(_all(limiter, checks)))
        else:
            tasks.append(asyncio.create_task(_forget(databases[number % 2], limiter, some)))
    # A deadlock ends as StoreUnavailable.
    await asyncio.gather(*tasks)


async def _all(limiter: RateLimiter, checks: list[Check]) -> CheckResult:
    results = await limiter.check_many(checks, Slices())
    return results[0]


async def _forget(database: Database, limiter: RateLimiter, charges: list[Charge]) -> CheckResult:
    await limiter.reset("many", charges[0].key)
    await limiter.refund("many", charges[1].key, 1)
    async with database.connection() as connection:
        # As if all of them had long been idle.
        await store.delete_idle(connection, 5, 4_000_000_000 * 1_000_000)
    return await limiter.check(charges)


async def test_replica_sees_charges_of_another(databases: list[Database]) -> None:
    first, second = _limiters(databases)
    await first.check([Charge("small", "k", 11)])
    assert not (await second.check([Charge("small", "k")])).allowed
    await first.refund("small", "k", 1)
    assert (await second.check([Charge("small", "k")])).allowed
    await first.reset("small", "k")
    assert (await second.get("small", "k")).remaining == 11
