"""Keys whose rows another session holds: they wait for it, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest

from authsvc.core.lib.slices import Slices
from authsvc.core.limits.limiter import Check, RateLimiter
from authsvc.errors import StoreUnavailable
from authsvc.models.limits import Charge, CheckResult, Policy
from authsvc.store import rate_limits as store
from authsvc.store.postgres.database import Connection, Database
from authsvc.store.rate_limits import Kind, Rule
from tests.support.databases import opened, until

_YEAR = timedelta(days=366)
# Long windows, so that nothing drains while a test runs.
_POLICIES = {
    policy.name: policy
    for policy in (Policy("many", 1_000, _YEAR), Policy("kept", 1_000, _YEAR, durable=True))
}
_HELD, _FREE = Charge("many", "held"), Charge("many", "free")
_BOTH = "SELECT FROM rate_limits WHERE key = ANY ($1) FOR UPDATE"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let held keys be waited for on a busy machine."""
    monkeypatch.setattr("authsvc.core.limits.held_keys._PATIENCE_SECONDS", 60.0)


@pytest.fixture
def limiter(database: Database) -> RateLimiter:
    return RateLimiter(database=database, policies=_POLICIES, rejected_cache_size=100)


@pytest.fixture
async def stranger(database_dsn: str) -> AsyncIterator[Database]:
    """The pool of somebody else on the same database."""
    async with opened(database_dsn) as database:
        yield database


@asynccontextmanager
async def _holding(stranger: Database, *keys: str) -> AsyncIterator[Connection]:
    async with stranger.transaction() as connection:
        assert len(await connection.fetch(_BOTH, keys)) == len(keys)
        yield connection


async def _used(limiter: RateLimiter, key: str, policy: str = "many") -> int:
    return 1_000 - (await limiter.get(policy, key)).remaining


async def _is_waiting(limiter: RateLimiter, waiting: int = 1) -> None:
    async def waits() -> bool:
        return limiter._held._waiting == waiting

    await until(waits)


async def _go_on(limiter: RateLimiter, *keys: str) -> None:
    """Show that the keys are served, alone, in batches and together."""
    for key in keys:
        charge = Charge("many", key)
        assert (await limiter.check([charge])).allowed
        assert (await limiter.check([charge, Charge("kept", key)])).allowed
        assert all(
            result.allowed for result in await limiter.check_many([Check([charge])] * 3, Slices())
        )


@pytest.mark.parametrize("policy", ["many", "kept"])
async def test_held_key_waits_alone_and_is_charged_once_after_release(
    limiter: RateLimiter, stranger: Database, policy: str
) -> None:
    held = Charge(policy, "held")
    await limiter.check([held])
    async with _holding(stranger, "held"):
        waiting = asyncio.create_task(limiter.check([held]))
        await _is_waiting(limiter)
        await _go_on(limiter, "free", "other")
        assert not waiting.done()
    assert (await waiting).allowed
    assert await _used(limiter, "held", policy) == 2


async def test_checks_in_the_same_batch_as_a_held_key_are_charged_once(
    limiter: RateLimiter, stranger: Database
) -> None:
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        # Into one statement each: alone, at another cost, and together with others.
        charges = [
            [_HELD],
            [_FREE],
            [_FREE._replace(cost=2)],
            [_HELD, _FREE],
            [_FREE, Charge("kept", "k")],
        ]
        tasks = [asyncio.create_task(limiter.check(charge)) for charge in charges]
        await _is_waiting(limiter, 2)
        results = await asyncio.gather(tasks[1], tasks[2], tasks[4])
        assert [result.allowed for result in results] == [True] * 3
        assert await _used(limiter, "free") == 4
        assert not tasks[0].done()
        assert not tasks[3].done()
    assert (await tasks[0]).allowed
    assert (await tasks[3]).allowed
    assert await _used(limiter, "held") == 3
    assert await _used(limiter, "free") == 5


async def test_statement_that_succeeded_before_one_met_a_held_key_is_not_repeated(
    limiter: RateLimiter, stranger: Database
) -> None:
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        single = asyncio.create_task(limiter.check([_FREE]))
        pair = asyncio.create_task(limiter.check([_HELD, Charge("kept", "k")]))
        await _is_waiting(limiter)
        assert (await single).verdicts[0].remaining == 999
        assert await _used(limiter, "free") == 1
    assert (await pair).allowed
    assert await _used(limiter, "held") == 2


async def test_check_of_several_charges_takes_nothing_while_one_key_is_held(
    limiter: RateLimiter, stranger: Database
) -> None:
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        waiting = asyncio.create_task(limiter.check([_FREE, _HELD]))
        await _is_waiting(limiter)
        assert await _used(limiter, "free") == 0
        waiting.cancel()
        await asyncio.wait([waiting])
    await limiter.check([_HELD])
    assert await _used(limiter, "free") == 0
    assert await _used(limiter, "held") == 2


async def test_many_held_keys_delay_no_other(limiter: RateLimiter, stranger: Database) -> None:
    keys = [f"held-{number}" for number in range(300)]
    await limiter.check_many([Check([Charge("many", key)]) for key in keys], Slices())
    async with _holding(stranger, *keys):
        tasks = [asyncio.create_task(limiter.check([Charge("many", key)])) for key in keys[:150]]
        await _is_waiting(limiter, 150)
        await _go_on(limiter, "free", "other")
        assert not any(task.done() for task in tasks)
    assert all(result.allowed for result in await asyncio.gather(*tasks))


async def _locks(connection: Connection) -> None:
    await connection.execute("SELECT FROM rate_limits WHERE key = 'held' FOR UPDATE")


async def _inserts(connection: Connection) -> None:
    await connection.execute("DELETE FROM rate_limits WHERE key = 'held'")
    rule = Rule("many", "token_bucket", 1_000, 10**12, 0)
    await store.charge(connection, [Kind(rule, 1, 1)], [0], ["new"])


async def _deletes(connection: Connection) -> None:
    await connection.execute("DELETE FROM rate_limits WHERE key = 'held'")


@pytest.mark.parametrize(("hold", "key"), [(_locks, "held"), (_inserts, "new"), (_deletes, "held")])
async def test_row_is_held_by_a_lock_an_insertion_or_a_deletion(
    limiter: RateLimiter,
    stranger: Database,
    hold: Callable[[Connection], Awaitable[None]],
    key: str,
) -> None:
    await limiter.check([_HELD])
    async with stranger.transaction() as connection:
        await hold(connection)
        waiting = asyncio.create_task(limiter.check([Charge("many", key)]))
        await _is_waiting(limiter)
        await _go_on(limiter, "free")
        assert limiter._held.include([Charge("many", key)])
    assert (await waiting).allowed


async def test_refund_and_reset_of_a_held_key_wait_for_it_alone(
    limiter: RateLimiter, stranger: Database
) -> None:
    await limiter.check_many(
        [Check([Charge("kept", key, 5)]) for key in ("held", "lost")], Slices()
    )
    async with _holding(stranger, "held", "lost"):
        refunds = asyncio.create_task(limiter.refund_all([Charge("kept", "held", 2)]))
        resets = asyncio.create_task(limiter.reset("kept", "lost"))
        await _is_waiting(limiter, 2)
        await _go_on(limiter, "free")
        assert not refunds.done()
        assert not resets.done()
    (verdict,) = await refunds
    assert verdict.remaining == 997
    await resets
    assert await _used(limiter, "lost", "kept") == 0


async def test_held_key_can_be_looked_at(limiter: RateLimiter, stranger: Database) -> None:
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        waiting = asyncio.create_task(limiter.check([_HELD]))
        await _is_waiting(limiter)
        assert await _used(limiter, "held") == 1
        assert (await limiter.check([_HELD], dry_run=True)).allowed
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_waiting_for_a_held_key_is_bounded_in_time(
    limiter: RateLimiter, stranger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.limits.held_keys._PATIENCE_SECONDS", 0.1)
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        for call in (
            limiter.check([_HELD]),
            limiter.check_many([Check([_HELD]), Check([_FREE])], Slices()),
            limiter.refund("many", "held", 1),
            limiter.reset("many", "held"),
        ):
            with pytest.raises(StoreUnavailable, match="locked"):
                await call
    assert await _used(limiter, "held") == 1


async def test_only_so_many_wait_for_held_keys(
    limiter: RateLimiter, stranger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authsvc.core.limits.held_keys._MAX_WAITING", 3)
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        tasks = [asyncio.create_task(limiter.check([_HELD])) for _ in range(5)]
        await _is_waiting(limiter, 3)
        with pytest.raises(StoreUnavailable):
            await limiter.check([_HELD])
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(CheckResult) == 3
    assert [type(result) for result in results].count(StoreUnavailable) == 2


async def test_held_keys_are_released_when_the_database_fails(
    limiter: RateLimiter, database: Database, stranger: Database
) -> None:
    await limiter.check([_HELD])
    async with _holding(stranger, "held"):
        waiting = asyncio.create_task(limiter.check([_HELD]))
        await _is_waiting(limiter)
        await database.close()
        with pytest.raises(StoreUnavailable, match="not available"):
            await waiting
    assert not limiter._held.include([_HELD])


async def test_charges_are_counted_exactly_while_keys_are_held_now_and_then(
    database_dsn: str, stranger: Database
) -> None:
    keys = [f"k{number}" for number in range(4)]
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(opened(database_dsn, pool_max=4)) for _ in "ab"]
        limiters = [
            RateLimiter(database=pool, policies=_POLICIES, rejected_cache_size=0) for pool in pools
        ]
        await limiters[0].check_many([Check([Charge("many", key)]) for key in keys], Slices())
        done = asyncio.Event()

        async def hold() -> None:
            for number in range(1_000):
                if done.is_set():
                    return
                async with _holding(stranger, keys[number % 4]):
                    await asyncio.sleep(0.06)

        async def charge(number: int) -> int:
            pair = [Charge("many", keys[number % 4]), Charge("many", keys[(number + 2) % 4])]
            charges: Sequence[Charge] = pair if number % 3 else pair[:1]
            result = await limiters[number % 2].check(charges)
            assert result.allowed
            return len(charges)

        holder = asyncio.create_task(hold())
        taken = 0
        for _ in range(4):
            taken += sum(await asyncio.gather(*(charge(number) for number in range(36))))
        done.set()
        await holder
        used = [await _used(limiters[0], key) for key in keys]
        assert sum(used) == taken + len(keys)
