"""Policies at run time on the database: their number, order, and what the limiter is told."""

from datetime import timedelta
from typing import Any

import pytest

from authsvc.core.lib.definitions import Definitions
from authsvc.core.limits import policies as module
from authsvc.core.limits.limiter import RateLimiter
from authsvc.core.limits.policies import Policies
from authsvc.errors import FailedPrecondition, NotFound
from authsvc.models.calls import Call
from authsvc.models.limits import Effect, Override, Policy
from authsvc.store import policies as store
from authsvc.store.postgres.database import Database
from tests.support.clock import FakeClock

CALL = Call("request-1", "spiffe://authsvc.test/admin")
HOUR = timedelta(hours=1)
IN_SETTINGS = {"login": Policy("login", 5, HOUR)}


@pytest.fixture
def policies(database: Database, clock: FakeClock) -> Policies:
    return Policies(
        database=database,
        limiter=RateLimiter(database=database, policies=IN_SETTINGS, rejected_cache_size=0),
        definitions=Definitions(database, timedelta(seconds=1)),
        in_settings=IN_SETTINGS,
        clock=clock,
    )


def names(policies: Policies) -> list[str]:
    return [policy.name for policy in policies._limiter.policies()]


async def test_number_of_policies_is_bounded(policies: Policies, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_POLICIES", 2)
    for name in ("a", "b"):
        assert await policies.put(CALL, Policy(name, 1, HOUR))
    with pytest.raises(FailedPrecondition) as caught:
        await policies.put(CALL, Policy("c", 1, HOUR))
    assert caught.value.metadata == {"limit": "2"}
    assert not await policies.put(CALL, Policy("b", 2, HOUR))
    assert names(policies) == ["a", "b", "login"]


async def test_number_of_overrides_is_bounded(
    policies: Policies, clock: FakeClock, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "MAX_OVERRIDES", 1)
    soon = clock.now() + timedelta(seconds=1)
    await policies.put_override(CALL, Override("login", "a", Effect.DENY, expire_time=soon))
    other = Override("login", "b", Effect.DENY)
    with pytest.raises(FailedPrecondition):
        await policies.put_override(CALL, other)
    clock.advance(timedelta(seconds=2))
    # Those that expired don't count.
    await policies.put_override(CALL, other)
    assert await policies.list_overrides(None, ("", ""), 9) == [other]


async def test_overrides_are_read_in_pages(policies: Policies, monkeypatch: Any) -> None:
    monkeypatch.setattr(store, "_PAGE", 2)
    for key in ("a", "b", "c", "d"):
        await policies.put_override(CALL, Override("login", key, Effect.DENY))
    assert [override.key for override in policies._overrides] == ["a", "b", "c", "d"]


async def test_deleting_a_policy_deletes_its_overrides(policies: Policies) -> None:
    await policies.put(CALL, Policy("own", 1, HOUR))
    await policies.put_override(CALL, Override("own", "k", Effect.DENY))
    await policies.put_override(CALL, Override("login", "k", Effect.DENY))
    await policies.delete(CALL, "own")
    assert [each.policy for each in await policies.list_overrides(None, ("", ""), 9)] == ["login"]
    with pytest.raises(NotFound):
        await policies.put_override(CALL, Override("own", "k", Effect.DENY))


async def test_what_settings_overrule_can_be_deleted(policies: Policies) -> None:
    await policies.put(CALL, Policy("own", 1, HOUR))
    await policies.put_override(CALL, Override("own", "k", Effect.DENY))
    policies.replace_settings({**IN_SETTINGS, "own": Policy("own", 7, HOUR)})
    await policies.delete(CALL, "own")
    assert policies._limiter.policies()[1].requests == 7
    assert len(await policies.list_overrides("own", ("", ""), 9)) == 1
    with pytest.raises(FailedPrecondition):
        await policies.delete(CALL, "own")
