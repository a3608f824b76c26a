"""Batches of checks, and the lookup, refund and reset of keys, from a calling service's side."""

import pytest

from authsvc.config import NamedPolicySettings, PolicySettings, Settings
from authsvc.v1 import rate_limit_service_pb2 as pb
from tests.support.probe import failure, outcome, reason_of, with_changes
from tests.support.service import Service, StartService, fields_of

LOGIN, UPLOAD = "login", "upload"


def one(policy: str, key: str, cost: int = 1) -> pb.CheckRateLimitRequest:
    return pb.CheckRateLimitRequest(charges=[pb.Charge(policy=policy, key=key, cost=cost)])


async def batch(service: Service, *checks: pb.CheckRateLimitRequest) -> list[bool]:
    """Return for each check whether it is allowed."""
    response = await service.limits("edge").BatchCheckRateLimits(
        pb.BatchCheckRateLimitsRequest(checks=checks)
    )
    return [result.allowed for result in response.results]


async def verdict(service: Service, policy: str, key: str) -> pb.RateLimitVerdict:
    request = pb.GetRateLimitRequest(policy=policy, key=key)
    return (await service.limits("edge").GetRateLimit(request)).verdict


async def refund(service: Service, policy: str, key: str, cost: int = 0) -> pb.RateLimitVerdict:
    request = pb.RefundRateLimitRequest(policy=policy, key=key, cost=cost)
    return (await service.limits().RefundRateLimit(request)).verdict


# BatchCheckRateLimits


@pytest.mark.fast
async def test_checks_in_batch_are_decided_independently(service: Service) -> None:
    both = pb.CheckRateLimitRequest(
        charges=[pb.Charge(policy=UPLOAD, key="ada"), pb.Charge(policy=LOGIN, key="ada")]
    )
    dry = pb.CheckRateLimitRequest(charges=[pb.Charge(policy=UPLOAD, key="bob")], dry_run=True)
    answers = await batch(
        service,
        one(LOGIN, "ada", 5),
        one(LOGIN, "bob"),
        both,
        one(LOGIN, "bob", 5),
        dry,
        one(UPLOAD, "ada", 10),
    )
    assert answers == [True, True, False, False, True, True]
    assert (await verdict(service, LOGIN, "bob")).remaining == 4
    assert (await verdict(service, UPLOAD, "bob")).remaining == 10


async def test_results_are_in_order_of_checks(service: Service) -> None:
    keys = [f"k{n * 7 % 20}" for n in range(20)]
    response = await service.limits("edge").BatchCheckRateLimits(
        pb.BatchCheckRateLimitsRequest(checks=[one(LOGIN, key) for key in keys])
    )
    assert [result.verdicts[0].key for result in response.results] == keys


async def test_repeated_key_in_batch_is_charged_each_time(service: Service) -> None:
    assert await batch(service, *[one(LOGIN, "ada")] * 7) == [True] * 5 + [False] * 2


async def test_batch_size_is_one_to_a_thousand(service: Service) -> None:
    assert await batch(service, *(one("api", f"k{n}") for n in range(1_000))) == [True] * 1_000
    assert sum(await batch(service, *[one("api", "hot")] * 1_000)) == 100
    for count in (0, 1_001):
        error = await failure(batch(service, *[one(LOGIN, "k")] * count))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", ["checks"])


async def test_invalid_check_is_named_and_nothing_is_charged(service: Service) -> None:
    good = one(LOGIN, "ada")
    error = await failure(batch(service, good, one(LOGIN, "ada", -1)))
    assert fields_of(error) == ["checks[1].charges[0].cost"]
    assert await outcome(batch(service, good, one("nope", "k"))) == "POLICY_UNKNOWN"
    assert (await verdict(service, LOGIN, "ada")).remaining == 5


# GetRateLimit


@pytest.mark.fast
async def test_get_charges_nothing(service: Service) -> None:
    fresh = await verdict(service, LOGIN, "ada")
    assert fresh == pb.RateLimitVerdict(
        policy=LOGIN,
        key="ada",
        allowed=True,
        limit=5,
        bound=pb.RATE_LIMIT_BOUND_REQUESTS,
        remaining=5,
        retry_after=fresh.retry_after,
        reset_after=fresh.reset_after,
    )
    assert fresh.retry_after.ToMicroseconds() == fresh.reset_after.ToMicroseconds() == 0
    assert not await service.fetch("SELECT 1 FROM rate_limits WHERE policy = 'login'")
    await batch(service, one(LOGIN, "ada", 5))
    for _ in range(3):
        used = await verdict(service, LOGIN, "ada")
        assert (used.allowed, used.remaining) == (False, 0)
        assert used.retry_after.ToMicroseconds() > 0


# RefundRateLimit


@pytest.mark.fast
async def test_refund_never_exceeds_limit(service: Service) -> None:
    await batch(service, one(LOGIN, "ada", 5))
    given = await refund(service, LOGIN, "ada", 2)
    assert (given.allowed, given.remaining) == (True, 2)
    assert (await refund(service, LOGIN, "ada")).remaining == 3
    assert (await refund(service, LOGIN, "ada", 1_000_000)).remaining == 5
    assert (await refund(service, LOGIN, "nobody", 5)).remaining == 5
    assert await batch(service, one(LOGIN, "nobody", 5), one(LOGIN, "nobody")) == [True, False]


async def test_refunded_key_is_allowed_immediately(service: Service) -> None:
    assert await batch(service, one(LOGIN, "ada", 5)) == [True]
    assert await batch(service, one(LOGIN, "ada")) == [False]
    await refund(service, LOGIN, "ada")
    assert await batch(service, one(LOGIN, "ada")) == [True]


# ResetRateLimit


@pytest.mark.fast
async def test_reset_affects_only_one_key(service: Service) -> None:
    await batch(service, one(LOGIN, "ada", 5), one(LOGIN, "bob", 5))
    reset = pb.ResetRateLimitRequest(policy=LOGIN, key="ada")
    for _ in range(2):
        assert await outcome(service.limits().ResetRateLimit(reset)) == "OK"
    assert (await verdict(service, LOGIN, "ada")).remaining == 5
    assert (await verdict(service, LOGIN, "bob")).remaining == 0


@pytest.mark.parametrize("name", ["GetRateLimit", "RefundRateLimit", "ResetRateLimit"])
async def test_every_rpc_validates_policy_and_key(name: str, service: Service) -> None:
    call, make = getattr(service.limits(), name), getattr(pb, f"{name}Request")
    assert await outcome(call(make(policy="nope", key="k"))) == "POLICY_UNKNOWN"
    for field, request in (
        ("policy", make(policy="", key="k")),
        ("key", make(policy=LOGIN, key="a\0b")),
    ):
        error = await failure(call(request))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])


async def test_refund_cost_is_bounded(service: Service) -> None:
    for cost in (-1, 1_000_001):
        request = pb.RefundRateLimitRequest(policy=LOGIN, key="k", cost=cost)
        error = await failure(service.limits().RefundRateLimit(request))
        assert fields_of(error) == ["cost"]


# ListPolicies


@pytest.mark.fast
async def test_default_policies_are_listed_by_name(service: Service) -> None:
    response = await service.limits("edge").ListPolicies(pb.ListPoliciesRequest())
    assert [
        (policy.name, policy.requests, policy.window.ToSeconds(), policy.burst)
        for policy in response.policies
    ] == [("api", 1_000, 3_600, 100), ("login", 5, 300, 10), ("upload", 10, 3_600, 20)]
    kinds = {policy.algorithm for policy in response.policies}
    assert kinds == {pb.RATE_LIMIT_ALGORITHM_TOKEN_BUCKET}
    assert not any(policy.durable for policy in response.policies)
    assert response.next_page_token == ""


async def test_durable_policy_is_stored_in_the_log(
    start_service: StartService, live_settings: Settings
) -> None:
    policy = NamedPolicySettings.model_validate({"requests": 3, "window": "1h", "durable": True})
    settings = with_changes(live_settings, "rate_limits", policies={"kept": policy})
    service = await start_service(settings)
    response = await service.limits().ListPolicies(pb.ListPoliciesRequest())
    assert [policy.name for policy in response.policies if policy.durable] == ["kept"]
    charges = [pb.Charge(policy="kept", key="k"), pb.Charge(policy=LOGIN, key="k")]
    await service.limits().CheckRateLimit(pb.CheckRateLimitRequest(charges=charges))
    for table, name in (("durable", "kept"), ("unlogged", LOGIN)):
        rows = await service.fetch(f"SELECT policy FROM rate_limits_{table}")
        assert [row["policy"] for row in rows] == [name]


async def test_pages_list_all_policies(
    start_service: StartService, live_settings: Settings
) -> None:
    policy = PolicySettings.model_validate(
        {"requests": 1, "window": "1s", "algorithm": "fixed_window"}
    )
    names = {f"p.{n:02}": policy for n in range(57)}
    service = await start_service(with_changes(live_settings, "rate_limits", policies=names))
    list_policies = service.limits().ListPolicies
    first = await list_policies(pb.ListPoliciesRequest())
    rest = await list_policies(pb.ListPoliciesRequest(page_token=first.next_page_token))
    assert (len(first.policies), len(rest.policies), rest.next_page_token) == (50, 10, "")
    listed = [policy.name for policy in (*first.policies, *rest.policies)]
    assert listed == sorted(["api", "login", "upload", *names])
    for field, request in (
        ("page_size", pb.ListPoliciesRequest(page_size=-1)),
        ("page_size", pb.ListPoliciesRequest(page_size=1_001)),
        ("page_token", pb.ListPoliciesRequest(page_token="No token")),
    ):
        error = await failure(service.limits().ListPolicies(request))
        assert (reason_of(error), fields_of(error)) == ("FIELD_INVALID", [field])
