"""The rate limiter on one replica: what it returns, charges, refunds and caches."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from authsvc.config import RateLimitSettings
from authsvc.core.lib.slices import Slices
from authsvc.core.limits.limiter import Check, RateLimiter, policies_from
from authsvc.core.limits.rejected_cache import RejectedCache
from authsvc.errors import NotFound, Reason, StoreUnavailable
from authsvc.models.limits import Algorithm, Charge, CheckResult, Policy
from authsvc.store.postgres.database import Database
from tests.support.turns import PER_TURN, Loop

_HOUR = timedelta(hours=1)
_POLICIES = {
    policy.name: policy
    for policy in (
        Policy("five", 5, _HOUR),
        Policy("ten", 10, _HOUR),
        Policy("fast", 3, timedelta(seconds=1)),
        Policy("burst", 100, _HOUR, burst=3),
        Policy("high_burst", 5, _HOUR, burst=6, algorithm=Algorithm.FIXED_WINDOW),
        Policy("sliding", 5, _HOUR, algorithm=Algorithm.SLIDING_WINDOW),
        Policy("fixed", 5, _HOUR, algorithm=Algorithm.FIXED_WINDOW),
    )
}


class Ticker:
    """A stopped clock in microseconds that counts how often a statement read it."""

    def __init__(self) -> None:
        self.now = 1_900_000_000 * 1_000_000
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


@pytest.fixture
def ticker() -> Ticker:
    return Ticker()


@pytest.fixture
def limiter(database: Database, ticker: Ticker) -> RateLimiter:
    return RateLimiter(database=database, policies=_POLICIES, rejected_cache_size=0, clock=ticker)


@pytest.fixture
def remembering(database: Database, ticker: Ticker) -> RateLimiter:
    limiter = RateLimiter(
        database=database, policies=_POLICIES, rejected_cache_size=100, clock=ticker
    )
    # Rejections are cached for a second at most.
    limiter._rejected = RejectedCache(100, lambda: ticker.now / 1_000_000)
    return limiter


def _allowed(results: Sequence[CheckResult]) -> list[bool]:
    return [result.allowed for result in results]


async def test_login_policy_allows_five_and_denies_sixth(database: Database) -> None:
    policies = policies_from(RateLimitSettings().all_policies())
    limiter = RateLimiter(database=database, policies=policies, rejected_cache_size=100)
    charge = Charge("login", "203.0.113.7")
    for left in (4, 3, 2, 1, 0):
        result = await limiter.check([charge])
        assert result.allowed
        assert result.verdicts[0].remaining == left
        assert result.verdicts[0].retry_after == 0
    result = await limiter.check([charge])
    assert not result.allowed
    (verdict,) = result.verdicts
    assert (verdict.policy, verdict.key, verdict.limit) == ("login", "203.0.113.7", 5)
    # A fifth of five minutes, minus the time that the checks took.
    assert verdict.retry_after is not None
    assert 0 < verdict.retry_after <= 60
    assert 240 < verdict.reset_after <= 300


async def test_burst_is_allowed_at_once_and_no_more(database: Database, ticker: Ticker) -> None:
    policies = policies_from(RateLimitSettings().all_policies())
    limiter = RateLimiter(database=database, policies=policies, rejected_cache_size=0, clock=ticker)
    charge = Charge("api", "tenant")
    results = await asyncio.gather(*(limiter.check([charge]) for _ in range(101)))
    assert _allowed(results) == [True] * 100 + [False]
    retry_after = results[-1].verdicts[0].retry_after
    assert retry_after is not None
    assert 1 <= retry_after <= 1.0625
    ticker.advance(retry_after)
    results = await asyncio.gather(*(limiter.check([charge]) for _ in range(101)))
    assert _allowed(results) == [True] * 100 + [False]


async def test_limit_is_what_remains_when_nothing_is_used(limiter: RateLimiter) -> None:
    """A verdict whose remaining is measured by the burst names the burst as its limit."""
    for policy, limit, is_burst in (
        ("burst", 3, True),
        ("high_burst", 5, False),
        ("five", 5, False),
    ):
        charge = Charge(policy, "k")
        unused = await limiter.get(policy, "k")
        assert (unused.limit, unused.remaining, unused.is_burst) == (limit, limit, is_burst)
        verdicts = [
            *(await limiter.check([charge])).verdicts,
            *(await limiter.check([charge, Charge("ten", policy)])).verdicts[:1],
            *(await limiter.check_many([Check([charge])], Slices()))[0].verdicts,
            await limiter.refund(policy, "k", 1),
        ]
        assert {(verdict.limit, verdict.is_burst) for verdict in verdicts} == {(limit, is_burst)}
        left = [verdict.remaining for verdict in verdicts]
        # What came through within the last second is not given back to the burst.
        assert left == [limit - 1, limit - 2, limit - 3, limit - (3 if is_burst else 2)]


@pytest.mark.parametrize("policy", ["five", "sliding", "fixed"])
async def test_check_is_allowed_after_retry_after(
    limiter: RateLimiter, ticker: Ticker, policy: str
) -> None:
    charge = Charge(policy, "k", 2)
    assert _allowed([await limiter.check([charge]) for _ in range(3)]) == [True, True, False]
    retry_after = (await limiter.get(policy, "k")).retry_after
    assert retry_after == 0
    retry_after = (await limiter.check([charge])).verdicts[0].retry_after
    assert retry_after is not None
    ticker.advance(retry_after - 0.000001)
    assert not (await limiter.check([charge])).allowed
    ticker.advance(0.000001)
    assert (await limiter.check([charge])).allowed


async def test_equal_charges_in_batch_are_granted_in_order(limiter: RateLimiter) -> None:
    results = await limiter.check_many([Check([Charge("five", "hot")])] * 8, Slices())
    assert _allowed(results) == [True] * 5 + [False] * 3
    assert [result.verdicts[0].remaining for result in results] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert [result.verdicts[0].retry_after for result in results] == [0.0] * 5 + [720.0] * 3


async def test_concurrent_callers_share_one_statement(limiter: RateLimiter, ticker: Ticker) -> None:
    charges = [Charge("five", "hot")] * 7 + [Charge("ten", "cold")]
    results = await asyncio.gather(*(limiter.check([charge]) for charge in charges))
    assert _allowed(results) == [True] * 5 + [False] * 2 + [True]
    assert ticker.asked == 1


async def test_charges_to_one_key_may_differ_in_cost(limiter: RateLimiter) -> None:
    costs = [1, 3, 1, 2, 4, 1, 9]
    results = await limiter.check_many(
        [Check([Charge("ten", "k", cost)]) for cost in costs], Slices()
    )
    # Equal charges first (1, 1, 1), then the others in order: 3 and 2, but neither 4 nor 9.
    assert _allowed(results) == [True, True, True, True, False, True, False]
    assert (await limiter.get("ten", "k")).remaining == 2


async def test_batch_returns_results_in_order_of_checks(limiter: RateLimiter) -> None:
    checks = []
    for number in range(60):
        key = f"{number * 37 % 60}"
        policy = ("five", "ten", "sliding")[number % 3]
        checks.append(Check([Charge(policy, key, 1 + number % 4)], dry_run=number % 5 == 0))
        checks.append(Check([Charge("ten", f"+{key}"), Charge("fixed", key, 1 + number % 5)]))
    for check, result in zip(checks, await limiter.check_many(checks, Slices()), strict=True):
        assert result.allowed
        for charge, verdict in zip(check.charges, result.verdicts, strict=True):
            limit = _POLICIES[charge.policy].requests
            left = limit if check.dry_run else limit - charge.cost
            assert verdict[:5] == (charge.policy, charge.key, True, limit, left)


async def test_dry_run_charges_nothing(limiter: RateLimiter) -> None:
    charges = [Charge("five", "k", 5), Charge("ten", "k")]
    for _ in range(3):
        result = await limiter.check(charges, dry_run=True)
        assert result.allowed
        assert [verdict.remaining for verdict in result.verdicts] == [5, 10]
    assert (await limiter.check(charges)).allowed
    result = await limiter.check(charges, dry_run=True)
    assert not result.allowed
    assert [verdict.allowed for verdict in result.verdicts] == [False, True]


async def test_denied_check_charges_nothing_and_reports_each_verdict(
    limiter: RateLimiter,
) -> None:
    await limiter.check([Charge("five", "k", 4)])
    charges = [Charge("ten", "k", 10), Charge("five", "k", 2), Charge("sliding", "k")]
    result = await limiter.check(charges)
    assert not result.allowed
    assert [verdict.allowed for verdict in result.verdicts] == [True, False, True]
    assert [verdict.remaining for verdict in result.verdicts] == [10, 1, 5]
    assert [verdict.retry_after for verdict in result.verdicts] == [0.0, 720.0, 0.0]
    assert [verdict.reset_after for verdict in result.verdicts] == [0.0, 2880.0, 0.0]
    assert (await limiter.check(charges[:1])).allowed


@pytest.mark.parametrize(("policy", "cost"), [("five", 6), ("burst", 4), ("fixed", 1_000_000)])
async def test_cost_above_limit_has_no_retry_after(
    limiter: RateLimiter, policy: str, cost: int
) -> None:
    charge = Charge(policy, "k", cost)
    for charges in ([charge], [Charge("ten", "k"), charge]):
        result = await limiter.check(charges)
        assert not result.allowed
        assert result.verdicts[-1].retry_after is None
        assert (await limiter.get("ten", "k")).remaining == 10


async def test_refund_is_capped_at_limit(limiter: RateLimiter) -> None:
    await limiter.check([Charge("five", "k", 4)])
    assert (await limiter.refund("five", "k", 1)).remaining == 2
    verdict = await limiter.refund("five", "k", 1_000_000)
    assert (verdict.allowed, verdict.remaining, verdict.reset_after) == (True, 5, 0.0)
    assert not (await limiter.check([Charge("five", "k", 6)])).allowed


async def test_reset_restores_full_limit(limiter: RateLimiter) -> None:
    await limiter.check_many([Check([Charge(name, "k", 3)]) for name in _POLICIES], Slices())
    await limiter.reset("burst", "k")
    assert (await limiter.get("burst", "k")).remaining == 3
    assert (await limiter.get("five", "k")).remaining == 2


async def test_get_charges_nothing(limiter: RateLimiter) -> None:
    for _ in range(3):
        verdict = await limiter.get("five", "k")
        assert verdict == ("five", "k", True, 5, 5, 0.0, 0.0, False, False)


async def test_unknown_policy_is_rejected_without_charge(limiter: RateLimiter) -> None:
    charge, unknown = Charge("five", "k"), Charge("six", "k")
    for call in (
        limiter.check([charge, unknown]),
        limiter.check_many([Check([charge]), Check([unknown])], Slices()),
        limiter.get("six", "k"),
        limiter.refund("six", "k", 1),
        limiter.reset("six", "k"),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason is Reason.POLICY_UNKNOWN
        assert caught.value.metadata == {"policy": "six"}
    assert (await limiter.get("five", "k")).remaining == 5


@pytest.mark.parametrize("charges", [[], [Charge("five", "k"), Charge("five", "k", 2)]])
async def test_check_rejects_empty_or_duplicate_charges(
    limiter: RateLimiter, charges: list[Charge]
) -> None:
    with pytest.raises(ValueError, match="a check needs"):
        await limiter.check(charges)
    with pytest.raises(ValueError, match="a check needs"):
        await limiter.check_many([Check([Charge("five", "k")]), Check(charges)], Slices())
    assert (await limiter.get("five", "k")).remaining == 5


async def test_policies_can_be_replaced(limiter: RateLimiter) -> None:
    assert [policy.name for policy in limiter.policies()] == sorted(_POLICIES)
    await limiter.check([Charge("five", "k", 5)])
    limiter.replace_policies({"five": Policy("five", 8, _HOUR)})
    assert [policy.name for policy in limiter.policies()] == ["five"]
    assert (await limiter.get("five", "k")).remaining == 3
    with pytest.raises(NotFound):
        await limiter.get("ten", "k")


async def test_policy_removed_during_check_fails_only_that_check(
    limiter: RateLimiter,
) -> None:
    kept = asyncio.create_task(limiter.check([Charge("five", "k")]))
    gone = asyncio.create_task(limiter.check([Charge("ten", "k")]))
    both = asyncio.create_task(limiter.check([Charge("ten", "k"), Charge("five", "k")]))
    # They are now waiting for a statement.
    await asyncio.sleep(0)
    limiter.replace_policies({"five": _POLICIES["five"]})
    assert (await kept).allowed
    for task in (gone, both):
        with pytest.raises(NotFound):
            await task
    assert (await limiter.get("five", "k")).remaining == 4


async def test_repeated_rejected_checks_cost_no_queries(
    remembering: RateLimiter, ticker: Ticker
) -> None:
    charge = Charge("five", "k")
    for _ in range(6):
        await remembering.check([charge])
    assert ticker.asked == 6
    floods = await asyncio.gather(*(remembering.check([charge]) for _ in range(50)))
    floods += await remembering.check_many([Check([charge])] * 50, Slices())
    assert not any(_allowed(floods))
    assert ticker.asked == 6
    # Dry runs, and charges below the rejected cost, go to the database.
    assert not (await remembering.check([charge], dry_run=True)).allowed
    assert ticker.asked == 7


async def test_refund_and_reset_take_effect_immediately(
    remembering: RateLimiter,
) -> None:
    charge = Charge("five", "k")
    for give_back in (remembering.refund("five", "k", 1), remembering.reset("five", "k")):
        while (await remembering.check([charge])).allowed:
            pass
        await give_back
        assert (await remembering.check([charge])).allowed


async def test_replaced_policy_takes_effect_immediately(remembering: RateLimiter) -> None:
    await remembering.check([Charge("five", "k", 5)])
    assert not (await remembering.check([Charge("five", "k")])).allowed
    remembering.replace_policies({"five": Policy("five", 6, _HOUR)})
    assert (await remembering.check([Charge("five", "k")])).allowed


async def test_check_fails_without_database(database: Database) -> None:
    limiter = RateLimiter(database=database, policies=_POLICIES, rejected_cache_size=100)
    await database.close()
    for call in (
        limiter.check([Charge("five", "k")]),
        limiter.check_many([Check([Charge("five", "k")])], Slices()),
        limiter.get("five", "k"),
        limiter.refund("five", "k", 1),
        limiter.reset("five", "k"),
    ):
        with pytest.raises(StoreUnavailable):
            await call


@pytest.mark.parametrize("others", [[], [Charge("ten", "k")]])
async def test_charge_that_can_never_fit_stores_nothing(
    limiter: RateLimiter, database: Database, others: list[Charge]
) -> None:
    result = await limiter.check([*others, Charge("five", "k", 6)])
    assert not result.allowed
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM rate_limits") == 0


async def test_charges_of_other_costs_to_one_key_are_never_grouped(limiter: RateLimiter) -> None:
    # The index of the first check of the key equals the cost of the second.
    checks = [
        Check([Charge("ten", key, cost)]) for key, cost in (("a", 1), ("b", 1), ("k", 5), ("k", 2))
    ]
    assert _allowed(await limiter.check_many(checks, Slices())) == [True] * 4
    assert (await limiter.get("ten", "k")).remaining == 3


@pytest.mark.parametrize(
    ("algorithm", "burst", "advance", "granted"),
    [
        # Ten and what drains in 0.9 s would be 19 within a second.
        (Algorithm.TOKEN_BUCKET, 15, 0.9, 5),
        (Algorithm.TOKEN_BUCKET, 20, 0.9, 9),
        # Two windows meet within a second.
        (Algorithm.FIXED_WINDOW, 15, 0.9, 5),
        (Algorithm.FIXED_WINDOW, 20, 0.9, 10),
        (Algorithm.SLIDING_WINDOW, 10, 0.9, 0),
        (Algorithm.SLIDING_WINDOW, 9, 0.9, 0),
    ],
)
async def test_burst_limits_what_is_granted_within_a_second(
    database: Database,
    ticker: Ticker,
    algorithm: Algorithm,
    burst: int,
    advance: float,
    granted: int,
) -> None:
    policy = Policy("p", 10, timedelta(seconds=1), burst=burst, algorithm=algorithm)
    limiter = RateLimiter(
        database=database, policies={"p": policy}, rejected_cache_size=0, clock=ticker
    )
    if algorithm is Algorithm.FIXED_WINDOW:
        ticker.advance(0.95)
    check = Check([Charge("p", "k")])
    first = min(10, burst)
    assert sum(_allowed(await limiter.check_many([check] * 30, Slices()))) == first
    ticker.advance(advance)
    assert sum(_allowed(await limiter.check_many([check] * 30, Slices()))) == granted


async def test_rejected_dry_run_is_not_cached(remembering: RateLimiter, ticker: Ticker) -> None:
    await remembering.check([Charge("five", "k", 5)])
    for dry_run in (True, False):
        asked = ticker.asked
        assert not (await remembering.check([Charge("five", "k")], dry_run=dry_run)).allowed
        assert ticker.asked == asked + 1


@pytest.mark.parametrize("dry_run", [True, False])
async def test_highest_possible_cost_has_retry_after(limiter: RateLimiter, dry_run: bool) -> None:
    await limiter.check([Charge("five", "k")])
    charges = [Charge("five", "k", 5), Charge("ten", "k")]
    result = await limiter.check(charges, dry_run=dry_run)
    assert [verdict.retry_after for verdict in result.verdicts] == [720.0, 0.0]


async def test_allowed_check_is_not_cached(remembering: RateLimiter) -> None:
    assert (await remembering.check([Charge("five", "k"), Charge("ten", "k")])).allowed
    assert not remembering._rejected


async def test_repeated_rejected_check_of_several_charges_costs_no_query(
    remembering: RateLimiter, ticker: Ticker
) -> None:
    charges = [Charge("five", "k", 3), Charge("ten", "k")]
    assert (await remembering.check(charges)).allowed
    for _ in range(3):
        result = await remembering.check(charges)
        assert [verdict.allowed for verdict in result.verdicts] == [False, True]
    assert ticker.asked == 2


async def test_cached_rejection_keeps_its_place_among_results(remembering: RateLimiter) -> None:
    used_up, free = Check([Charge("five", "k", 5)]), Check([Charge("five", "l", 5)])
    assert _allowed(await remembering.check_many([used_up, used_up], Slices())) == [True, False]
    assert _allowed(await remembering.check_many([used_up, free, used_up], Slices())) == [
        False,
        True,
        False,
    ]


async def test_equal_charges_of_batch_come_before_others_to_their_key(limiter: RateLimiter) -> None:
    checks = [Check([Charge("ten", "k", cost)]) for cost in (1, 9, 1)]
    assert _allowed(await limiter.check_many(checks, Slices())) == [True, False, True]


async def test_granted_check_has_no_retry_after_even_if_it_would_not_fit_again(
    limiter: RateLimiter,
) -> None:
    result = await limiter.check([Charge("five", "k", 3), Charge("ten", "k", 10)])
    assert [verdict.retry_after for verdict in result.verdicts] == [0.0, 0.0]


async def test_refund_reports_when_a_charge_of_one_fits(database: Database, ticker: Ticker) -> None:
    # The burst of the last second is not refunded.
    limiter = RateLimiter(
        database=database,
        policies={"p": Policy("p", 10, _HOUR, burst=1)},
        rejected_cache_size=0,
        clock=ticker,
    )
    await limiter.check([Charge("p", "k")])
    verdict = await limiter.refund("p", "k", 1)
    assert not verdict.allowed
    assert verdict.retry_after is not None
    assert 1 <= verdict.retry_after <= 1.0625


@pytest.mark.parametrize(
    ("checks", "charges", "statements"), [(1_000, 1, 1), (1_001, 1, 2), (500, 2, 2), (125, 16, 4)]
)
async def test_large_batch_is_decided_in_several_statements(
    limiter: RateLimiter, ticker: Ticker, checks: int, charges: int, statements: int
) -> None:
    batch = [
        Check([Charge("ten", f"{number}-{index}") for index in range(charges)])
        for number in range(checks)
    ]
    for left in (9, 8):
        ticker.asked = 0
        results = await limiter.check_many(batch, Slices())
        assert ticker.asked == statements
        assert _allowed(results) == [True] * checks
        assert [result.verdicts[-1].key for result in results] == [
            check.charges[-1].key for check in batch
        ]
        assert {verdict.remaining for result in results for verdict in result.verdicts} == {left}


async def test_batches_are_decided_in_slices(remembering: RateLimiter) -> None:
    """What is added, settled and remembered in a turn is no more than a slice holds."""
    loop = Loop()

    def clock() -> float:
        loop.work(0)
        return loop.now

    check = Check([Charge("five", "k", 5)])
    results = await remembering.check_many([check] * 960, Slices(clock))
    assert sum(_allowed(results)) == 1
    # It is read after each 64, and once more where a slice begins, and where one waits.
    assert loop.done.total() >= 2 * 960 // 64
    assert max(loop.done.values()) <= PER_TURN + 2
