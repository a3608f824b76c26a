"""What policies and overrides mean for a key."""

from datetime import timedelta
from typing import Any

import pytest

from authsvc.core.limits.limits import Limits, result_of
from authsvc.models.limits import UNLIMITED, Charge, Effect, Override, Policy
from tests.support.clock import FakeClock

HOUR = timedelta(hours=1)


def limits_of(clock: FakeClock, *overrides: Override, **changes: Any) -> Limits:
    """Return the limits of a policy `own`, which is as `changes` say, and of an ordinary one."""
    policies = [Policy("own", 3, HOUR, **changes), Policy("plain", 5, HOUR, burst=2)]
    return Limits(policies, overrides, clock)


def test_ordinary_policy_needs_no_closer_look(clock: FakeClock) -> None:
    limits = limits_of(clock)
    assert not limits.has_special
    assert limits.plain["plain"].max_cost == 2
    assert limits.find("plain", "k") is limits.plain["plain"]
    assert limits.find("none", "k") is None


def test_special_policy_fits_no_charge_without_a_closer_look(clock: FakeClock) -> None:
    for limits in (
        limits_of(clock, unlimited=True),
        limits_of(clock, Override("own", "k", Effect.ALLOW)),
        Limits([Policy("own", 0, HOUR)], (), clock),
    ):
        assert limits.plain["own"].max_cost == 0
        assert limits.has_special


def test_override_holds_for_its_key_until_it_expires(clock: FakeClock) -> None:
    override = Override(
        "own", "k", Effect.NUMBERS, requests=9, expire_time=clock.now() + timedelta(seconds=5)
    )
    limits = limits_of(clock, override)
    found, other = limits.find("own", "k"), limits.find("own", "other")
    assert found is not None
    assert other is not None
    assert (found.rule.requests, found.rule.window_us) == (9, 3_600_000_000)
    assert other.rule.requests == 3
    clock.advance(timedelta(seconds=5))
    assert limits.find("own", "k") == other


@pytest.mark.parametrize(
    ("effect", "allowed", "left"), [(Effect.ALLOW, True, UNLIMITED), (Effect.DENY, False, 0)]
)
def test_fixed_effect_needs_no_statement(
    clock: FakeClock, effect: Effect, allowed: bool, left: int
) -> None:
    limits = limits_of(clock, Override("own", "k", effect))
    result = limits.fixed_result([Charge("own", "k", 1_000_000)])
    assert result is not None
    assert (result.allowed, result.verdicts[0].remaining) == (allowed, left)
    assert limits.fixed_result([Charge("own", "k"), Charge("plain", "k")]) is None
    assert limits.fixed_result([Charge("own", "other")]) is None


def test_shadow_refuses_nothing_whatever_the_cost(clock: FakeClock) -> None:
    limit = limits_of(clock, shadow=True).find("own", "k")
    assert limit is not None
    assert not limit.can_refuse(1_000_000)
    row = (0, 1, 5_000_000, 9_000_000)
    (verdict,) = result_of([limit], [row], [Charge("own", "k", 2)]).verdicts  # type: ignore[list-item] # a row is a tuple
    assert (verdict.allowed, verdict.shadow_rejected, verdict.retry_after) == (True, True, 5.0)


def test_override_of_a_policy_that_is_gone_does_nothing(clock: FakeClock) -> None:
    limits = limits_of(clock, Override("gone", "k", Effect.DENY))
    assert not limits.has_special
    assert limits.find("gone", "k") is None
