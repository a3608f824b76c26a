"""Policies and overrides at run time, over mutual TLS, on one replica and on two."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo

from authsvc.config import NamedPolicySettings
from authsvc.v1 import admin_service_pb2 as pb
from authsvc.v1 import rate_limit_service_pb2 as limit_pb
from authsvc.v1.common_pb2 import DEFINED_IN_RUN_TIME, DEFINED_IN_SETTINGS
from tests.support.databases import until
from tests.support.probe import failure, outcome, with_changes
from tests.support.service import Service, StartService, detail, fields_of

HOUR = Duration(seconds=3_600)
TOKEN_BUCKET = limit_pb.RATE_LIMIT_ALGORITHM_TOKEN_BUCKET


def policy_of(name: str = "own", requests: int = 3, **more: Any) -> limit_pb.Policy:
    values: dict[str, Any] = {"window": HOUR, "algorithm": TOKEN_BUCKET} | more
    return limit_pb.Policy(name=name, requests=requests, **values)


async def put(service: Service, name: str = "own", requests: int = 3, **more: Any) -> bool:
    request = pb.PutPolicyRequest(policy=policy_of(name, requests, **more))
    return (await service.admin().PutPolicy(request)).created


async def override(
    service: Service, key: str, effect: str, policy: str = "own", **more: Any
) -> None:
    value = pb.OverrideEffect.Value(f"OVERRIDE_EFFECT_{effect}")
    message = pb.PolicyOverride(policy=policy, key=key, effect=value, **more)
    await service.admin().PutPolicyOverride(pb.PutPolicyOverrideRequest(override=message))


async def check(
    service: Service, key: str = "k", policy: str = "own", cost: int = 1
) -> limit_pb.CheckRateLimitResponse:
    charge = limit_pb.Charge(policy=policy, key=key, cost=cost)
    return await service.limits().CheckRateLimit(limit_pb.CheckRateLimitRequest(charges=[charge]))


async def granted(service: Service, times: int, key: str = "k") -> int:
    """Return how many of so many checks in a row are allowed."""
    return sum([(await check(service, key)).allowed for _ in range(times)])


async def listed(service: Service) -> Mapping[str, limit_pb.Policy]:
    answer = await service.limits("admin").ListPolicies(limit_pb.ListPoliciesRequest())
    return {policy.name: policy for policy in answer.policies}


async def events(service: Service, kind: str) -> list[str]:
    rows = await service.fetch("SELECT caller, detail FROM audit_events WHERE type = $1", kind)
    assert all(row["caller"].endswith("/admin") for row in rows)
    return [row["detail"] for row in rows]


async def test_policy_can_be_put_used_changed_and_deleted(service: Service) -> None:
    assert await outcome(check(service)) == "POLICY_UNKNOWN"
    assert await put(service)
    assert await granted(service, 5) == 3
    # What was used is kept: two more fit.
    assert not await put(service, requests=5, durable=False)
    assert await granted(service, 5) == 2
    policies = await listed(service)
    assert (policies["own"].requests, policies["own"].defined_in) == (5, DEFINED_IN_RUN_TIME)
    assert policies["login"].defined_in == DEFINED_IN_SETTINGS
    await service.admin().DeletePolicy(pb.DeletePolicyRequest(name="own"))
    assert await outcome(check(service)) == "POLICY_UNKNOWN"
    gone = service.admin().DeletePolicy(pb.DeletePolicyRequest(name="own"))
    assert await outcome(gone) == "POLICY_UNKNOWN"
    assert len(await events(service, "policy.put")) == 2
    assert len(await events(service, "policy.delete")) == 1


async def test_policy_of_settings_is_read_only(service: Service) -> None:
    error = await failure(put(service, "login"))
    assert detail(error, ErrorInfo).metadata == {"name": "login"}
    assert await outcome(put(service, "login")) == "DEFINED_IN_SETTINGS"
    delete = service.admin().DeletePolicy(pb.DeletePolicyRequest(name="login"))
    assert await outcome(delete) == "DEFINED_IN_SETTINGS"
    assert await granted_of_login(service) == 5


async def granted_of_login(service: Service) -> int:
    return sum([(await check(service, "k", "login")).allowed for _ in range(7)])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "authsvc.login.account"}, "policy.name"),
        ({"name": "A"}, "policy.name"),
        ({"algorithm": 0}, "policy.algorithm"),
        ({"algorithm": 9}, "policy.algorithm"),
        ({"requests": -1}, "policy.requests"),
        ({"requests": 1_000_000_001}, "policy.requests"),
        ({"burst": -1}, "policy.burst"),
        ({"window": None}, "policy.window"),
        ({"window": Duration(seconds=367 * 86_400)}, "policy.window"),
        ({"window": Duration(nanos=999_999_000)}, "policy.window"),
        ({"window": Duration(seconds=1, nanos=1)}, "policy.window"),
        ({"window": Duration(seconds=1, nanos=-1_000)}, "policy.window"),
        ({"window": Duration(seconds=2**62)}, "policy.window"),
    ],
)
async def test_invalid_policy_is_refused(service: Service, change: Any, field: str) -> None:
    values = {"name": "bad", "requests": 3} | change
    assert fields_of(await failure(put(service, **values))) == [field]
    assert "bad" not in await listed(service)


async def test_zero_policy_allows_nothing_and_unlimited_everything(service: Service) -> None:
    await put(service, "zero", 0, window=None)
    await put(service, "all", 1, unlimited=True)
    before = await service.fetch("SELECT count(*) AS n FROM rate_limits")
    refused = (await check(service, policy="zero")).verdicts[0]
    assert (refused.allowed, refused.limit, refused.remaining) == (False, 0, 0)
    assert not refused.HasField("retry_after")
    for _ in range(3):
        allowed = (await check(service, policy="all", cost=1_000_000)).verdicts[0]
        assert allowed.allowed
        assert allowed.remaining == 2**53 - 1
        assert allowed.bound == limit_pb.RATE_LIMIT_BOUND_UNLIMITED
    assert await service.fetch("SELECT count(*) AS n FROM rate_limits") == before


async def test_mixed_check_with_zero_policy_takes_nothing(service: Service) -> None:
    await put(service, "zero", 0, window=None)
    await put(service, "all", 1, unlimited=True)
    await put(service)

    async def mixed(*names: str) -> bool:
        charges = [limit_pb.Charge(policy=name, key="k") for name in names]
        request = limit_pb.CheckRateLimitRequest(charges=charges)
        answer = await service.limits().CheckRateLimit(request)
        assert [verdict.policy for verdict in answer.verdicts] == list(names)
        return answer.allowed

    assert not await mixed("own", "zero", "all")
    assert await mixed("all", "own")
    assert await granted(service, 5) == 2
    assert not await mixed("all", "own")


async def test_shadow_policy_counts_but_refuses_nothing(service: Service) -> None:
    await put(service, "shade", 2, shadow=True)
    await put(service)
    verdicts = [(await check(service, policy="shade")).verdicts[0] for _ in range(4)]
    assert [verdict.allowed for verdict in verdicts] == [True] * 4
    assert [verdict.shadow_rejected for verdict in verdicts] == [False, False, True, True]
    assert verdicts[-1].retry_after.ToSeconds() > 0
    charges = [limit_pb.Charge(policy=name, key="k") for name in ("own", "shade")]
    request = limit_pb.CheckRateLimitRequest(charges=charges)
    answers = [await service.limits().CheckRateLimit(request) for _ in range(4)]
    # The shadow never stops what its neighbour allows, nor lets through what that refuses.
    assert [answer.allowed for answer in answers] == [True, True, True, False]
    assert [answer.verdicts[1].shadow_rejected for answer in answers] == [True] * 4
    counted = service.app.web._metrics.registry.get_sample_value(
        "authsvc_rate_limit_shadow_rejections_total", {"policy": "shade"}
    )
    assert counted == 5


async def test_override_changes_one_key_until_it_is_deleted(service: Service) -> None:
    await put(service)
    assert await granted(service, 4) == 3
    await override(service, "k", "ALLOW")
    assert await granted(service, 9) == 9
    await override(service, "k", "NUMBERS", requests=5)
    # What was used before is kept.
    assert await granted(service, 9) == 2
    await override(service, "k", "DENY")
    assert await granted(service, 2) == 0
    assert await granted(service, 4, "other") == 3
    delete = pb.DeletePolicyOverrideRequest(policy="own", key="k")
    await service.admin().DeletePolicyOverride(delete)
    assert await granted(service, 2) == 0
    again = service.admin().DeletePolicyOverride(delete)
    assert await outcome(again) == "OVERRIDE_NOT_FOUND"
    recorded = await events(service, "policy.override_put")
    assert len(recorded) == 3
    assert '"k"' not in recorded[0]
    assert len(await events(service, "policy.override_delete")) == 1


async def test_override_holds_for_policy_of_settings_and_ends_in_time(service: Service) -> None:
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=1))
    await override(service, "k", "DENY", policy="login", expire_time=soon)
    assert not (await check(service, "k", "login")).allowed
    await until(lambda: allowed_by(service, "login"))
    left = await service.admin().ListPolicyOverrides(pb.ListPolicyOverridesRequest())
    assert not left.overrides


async def allowed_by(service: Service, policy: str) -> bool:
    return (await check(service, "k", policy)).allowed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": "authsvc.login.account"}, "override.policy"),
        ({"key": ""}, "override.key"),
        ({"key": "a\0"}, "override.key"),
        ({"effect": 0}, "override.effect"),
        ({"requests": 1}, "override.requests"),
        ({"window": HOUR}, "override.window"),
        ({"effect": pb.OVERRIDE_EFFECT_NUMBERS}, "override.requests"),
        ({"expire_time": Timestamp(seconds=1)}, "override.expire_time"),
        ({"expire_time": Timestamp(seconds=2**62)}, "override.expire_time"),
        ({"note": "x" * 257}, "override.note"),
    ],
)
async def test_invalid_override_is_refused(service: Service, change: Any, field: str) -> None:
    values = {"policy": "login", "key": "k", "effect": pb.OVERRIDE_EFFECT_DENY} | change
    request = pb.PutPolicyOverrideRequest(override=pb.PolicyOverride(**values))
    assert fields_of(await failure(service.admin().PutPolicyOverride(request))) == [field]


async def test_override_of_unknown_policy_is_refused(service: Service) -> None:
    assert await outcome(override(service, "k", "DENY", policy="none")) == "POLICY_UNKNOWN"


async def test_overrides_are_listed_in_pages(service: Service) -> None:
    await put(service)
    for key in ("a", "b", "c"):
        await override(service, key, "DENY", note=key)
    await override(service, "z", "ALLOW", policy="login")

    async def page(token: str = "", policy: str = "") -> tuple[list[str], str]:
        request = pb.ListPolicyOverridesRequest(page_size=2, page_token=token, policy=policy)
        answer = await service.admin().ListPolicyOverrides(request)
        return [each.key for each in answer.overrides], answer.next_page_token

    keys, token = await page()
    assert keys == ["z", "a"]
    assert await page(token) == (["b", "c"], "")
    assert (await page(policy="login"))[0] == ["z"]
    assert fields_of(await failure(page("?"))) == ["page_token"]


async def test_other_replica_knows_of_changes(
    service: Service, start_service: StartService
) -> None:
    other = await start_service(service.settings)
    await put(service)
    await until(lambda: knows(other, "own"))
    await override(service, "k", "DENY")
    await until(lambda: refuses(other))
    await service.admin().DeletePolicy(pb.DeletePolicyRequest(name="own"))
    await until(lambda: forgot(other, "own"))


async def knows(service: Service, name: str) -> bool:
    return name in await listed(service)


async def forgot(service: Service, name: str) -> bool:
    return name not in await listed(service)


async def refuses(service: Service) -> bool:
    return not (await check(service)).allowed


async def test_settings_win_at_a_reload(service: Service) -> None:
    await put(service, "own", 2)
    own = NamedPolicySettings(requests=4, window=timedelta(hours=1))
    service.app.reload(with_changes(service.settings, "rate_limits", policies={"own": own}))
    try:
        assert await granted(service, 9) == 4
        assert (await listed(service))["own"].defined_in == DEFINED_IN_SETTINGS
        assert await outcome(put(service, "own")) == "DEFINED_IN_SETTINGS"
        # What they overrule can be removed.
        await service.admin().DeletePolicy(pb.DeletePolicyRequest(name="own"))
    finally:
        service.app.reload(service.settings)
    assert not await knows(service, "own")


async def test_concurrent_puts_and_deletes_leave_one_definition(service: Service) -> None:
    async def delete() -> str:
        request = pb.DeletePolicyRequest(name="raced")
        return await outcome(service.admin().DeletePolicy(request))

    puts = [put(service, "raced", number) for number in range(1, 9)]
    deletes = [delete() for _ in range(4)]
    results = await asyncio.gather(*puts, *deletes)
    created = results[:8].count(True)
    deleted = results[8:].count("OK")
    rows = await service.fetch("SELECT requests FROM policies WHERE name = 'raced'")
    assert created - deleted == len(rows)
    policies = await listed(service)
    assert ("raced" in policies) == bool(rows)
    if rows:
        assert policies["raced"].requests == rows[0]["requests"]


async def test_changes_while_checks_run_grant_no_more_than_larger_numbers(
    service: Service,
) -> None:
    await put(service, requests=20)

    async def change() -> None:
        for requests in (5, 20) * 6:
            await put(service, requests=requests)

    async def use() -> int:
        return await granted(service, 25)

    changing = asyncio.create_task(change())
    counts = await asyncio.gather(*(use() for _ in range(6)))
    await changing
    assert sum(counts) + await granted(service, 25) == 20
